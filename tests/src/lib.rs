//! The lab: real `meshhold` daemons in network namespaces of their own, with real services behind them.
//!
//! The lab drives the daemon by its command line and its JSON only, as a user would. It links no crate of the
//! product, so that a test can't pass by knowing an inside.

pub mod ask;
pub mod capture;
pub mod exchange;
pub mod fault;
pub mod firewall;
pub mod flow;
pub mod igd;
pub mod lab;
pub mod nat;
pub mod networkd;
pub mod node;
pub mod path;
pub mod process;
pub mod resolver;
pub mod scenario;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod wait;
pub mod web;

pub use lab::{Host, Lab, run};
pub use node::{Node, Settings};

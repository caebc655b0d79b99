//! What kernel and user space must agree on: map keys and values, [`Reason`], events, header parsing over
//! [`Load`], and the classifier, the one place that decides about a packet.
//!
//! Must not know where it runs: no helper, no map, no system call. Both sides reach the same source through
//! [`Load`] (the bytes) and [`Host`] (the tables).
#![no_std]

pub mod address;
pub mod budget;
pub mod cache;
pub mod classify;
pub mod event;
pub mod forward;
pub mod maps;
pub mod nat;
pub mod packet;
pub mod reason;
pub mod relay;
pub mod steer;

pub use address::Address;
pub use cache::{Place, Stamp};
pub use classify::{
    Action, Change, Delivery, Host, Peer, Renewal, Verdict, classify_egress, classify_ingress, guard,
};
pub use packet::{Load, Packet};
pub use reason::Reason;

//! The daemon and the command line, as a library so that tests can reach the parts.

pub mod cli;
mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod discover;
pub mod dns;
pub mod doctor;
pub mod forward;
pub mod link;
pub mod platform;
mod text;
pub mod web;

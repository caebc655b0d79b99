//! The operating system's side.

pub mod linux;

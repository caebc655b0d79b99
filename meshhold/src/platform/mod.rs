//! The operating system's side of the daemon: interfaces, routes, privileges.
//!
//! Owns which system is compiled in. Must not know networks' secrets, circuits or policy.

#[cfg(target_os = "linux")]
pub mod linux;

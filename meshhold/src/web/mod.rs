//! The Web UI.

#[allow(dead_code, reason = "the HTTP API serves them")]
pub(crate) mod pages;

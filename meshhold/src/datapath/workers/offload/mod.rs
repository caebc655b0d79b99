//! Segmentation offload in user space: super-packets of the TUN into packets, packets into super-packets.
//!
//! Owns the virtio header, checksums and both conversions. Must not know peers, keys or sockets; the bytes
//! that come in are never trusted, from whichever side.

pub mod checksum;
pub mod coalesce;
pub mod fragment;
pub mod header;
pub mod mss;
pub mod segment;
pub mod virtio;

#[cfg(test)]
mod tests;

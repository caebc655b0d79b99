//! The packet path: policy in the kernel, encryption in the workers.

pub mod counters;
pub mod crypto;
#[cfg(target_os = "linux")]
pub mod ebpf;
pub mod icmp;
pub mod policy;
pub mod probe;
pub mod relay;
pub mod renumber;
pub mod table;
pub mod userspace;
pub mod workers;

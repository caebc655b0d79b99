//! The packet path: policy in the kernel, encryption in the workers.

#[cfg(target_os = "linux")]
pub mod ebpf;
pub mod policy;

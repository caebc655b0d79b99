//! The packet path: policy in the kernel, encryption in the workers.

pub mod policy;

//! The kernel programs, run packet by packet through `BPF_PROG_TEST_RUN`, and against the user-space classifier.
//! Needs root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN); no interface and no traffic.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in helpers of tests too, a panic is the report")]

mod attach;
mod cache;
mod clsact;
mod deny;
mod device;
mod fuzz;
mod judge;
mod live;
mod load;
mod namespace;
mod packets;
mod relay;
mod rewrite;
mod specimens;
mod steer;
mod support;
mod tables;
mod zoo;

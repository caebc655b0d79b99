//! Linux.

pub mod sys_net;

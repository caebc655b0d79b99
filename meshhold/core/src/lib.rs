//! The protocol as pure state machines.

//! The circuits of two and more nodes on a simulated wire.

mod chaos;
mod connect;
mod cookies;
mod ends;
mod nodes;
mod silence;
mod timing;
mod vectors;
mod weather;
mod wire;

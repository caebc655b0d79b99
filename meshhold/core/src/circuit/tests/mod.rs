//! The circuits of two and more nodes on a simulated wire.

//! The only room with `unsafe`: one file per kernel facility, one wrapper per call.

pub mod clone;
pub mod close_range;

//! sys
pub mod close_range;

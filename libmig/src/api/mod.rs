//! Data that `mig` and `migd` say to each other, and that both print.

mod obstacle;

pub use obstacle::Obstacle;

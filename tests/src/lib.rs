//! What the tests share: a cluster on this machine, programs that check themselves,
//! real programs, jobs made of them, and a user at a terminal.

pub mod job;
pub mod lab;
pub mod mover;
pub mod pool;
pub mod programs;
pub mod terminal;
pub mod workload;

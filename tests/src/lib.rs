//! What the tests share: a cluster on this machine, programs that check themselves,
//! real programs, and jobs made of them.

pub mod job;
pub mod lab;
pub mod programs;
pub mod workload;

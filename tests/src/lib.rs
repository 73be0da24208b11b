//! mig

pub mod lab;
pub mod programs;
pub mod workload;

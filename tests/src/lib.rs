//! mig

pub mod lab;
pub mod workload;

//! mig

pub mod workload;

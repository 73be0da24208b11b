//! mig
fn main() {}

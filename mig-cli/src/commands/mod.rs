//! One file per command: its arguments, its help, what it does.

pub(crate) mod lab;

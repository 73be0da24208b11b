//! The read-only view of a process: what `/proc` says, parsed strictly, since
//! every byte of it may have been chosen by the process itself.

pub mod maps;

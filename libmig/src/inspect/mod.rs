//! The read-only view of a process: what `/proc` says, parsed strictly, since
//! every byte of it may have been chosen by the process itself, and what of it
//! cannot move.

pub mod fd;
pub mod fdinfo;
pub mod files;
pub mod maps;
pub mod refusal;
pub mod stdio;

//! The rooms of the daemon that other programs of the workspace test or use.

#![deny(unsafe_code)]

pub mod capsule;

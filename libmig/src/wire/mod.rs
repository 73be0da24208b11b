//! How frames look on a connection between two nodes, and how large they may
//! be. Knows byte offsets and versions; knows nothing of processes.
//!
//! Neighbours: [`crate::transfer`] says which frames follow which.

mod frame;
pub mod limits;
pub mod version;

pub use frame::{
    Class, FRAME_HEADER, Form, Frame, FrameError, decode_named, named, read_frame, write_bulk,
    write_message,
};

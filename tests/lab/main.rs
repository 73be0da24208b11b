//! The lab itself: that its nodes are machines to those who live in them, and that nothing of it is
//! left, whatever was killed and when.

mod cleanup;
mod demo;
mod lacks;
mod nodes;

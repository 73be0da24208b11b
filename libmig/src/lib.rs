//! The engine of mig: captures a running process tree, carries it over a
//! stream, and restores it on another node. No async runtime, no terminal and
//! no configuration files live here; those are `migd`'s and `mig`'s.
//!
//! | room | what it holds |
//! |---|---|
//! | [`migration`] | the conductor: the phases of a move on both sides |
//! | [`capture`] | a live process tree -> an image |
//! | [`restore`] | an image -> a live process tree |
//! | [`image`] | a process tree as plain data |
//! | [`wire`], [`transfer`] | frames, versions and limits; image <-> frames |
//! | [`checkpoint`] | the same stream in a file |
//! | [`inspect`] | the read-only view: `/proc`, what this kernel can do, what cannot move |
//! | [`balance`] | who should run where; pure functions, time is passed in |
//! | [`api`] | data that `mig` and `migd` say to each other |
//! | [`sys`] | the only room with `unsafe`: one file per kernel facility |
//!
//! `capture` and `restore` never import each other: they meet in `image`.

#![deny(unsafe_code)]

pub mod api;
pub mod balance;
pub mod capture;
pub mod checkpoint;
pub mod image;
pub mod inspect;
pub mod migration;
pub mod restore;
#[expect(unsafe_code, reason = "the room for it: one file per kernel facility")]
pub mod sys;
pub mod transfer;
pub mod wire;

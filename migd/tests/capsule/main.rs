//! Capsules on the real kernel, with this test as their daemon. Needs root and cgroup v2.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

mod away;
mod harness;
mod home;

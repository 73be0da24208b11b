//! Capsules on the real kernel, with this test as their daemon. Needs root and cgroup v2.

mod harness;
mod home;

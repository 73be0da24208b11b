//! The only room with `unsafe`: one file per kernel facility, each a thin safe
//! wrapper that says which kernel interface it is. Whatever nix or rustix can
//! do safely is done with them; what is here, they lack.

pub mod cgroup;
pub mod clone;
pub mod close_range;
pub mod cpuid;
pub mod descriptor;
pub mod lock;
pub mod mount;
pub mod mqueue;
pub mod namespace;
pub mod pagemap;
mod pid;
pub mod pidfd;
pub mod probe;
pub mod process_vm;
pub mod ptrace;
pub mod remote;
pub mod resource;
pub mod sched;
pub mod segment;
pub mod shared_pages;
pub mod signal;
pub mod socket;
pub mod survivor;
pub mod system_v;
pub mod tcp;
pub mod tty;
pub mod tty_queue;
pub mod udp;
pub mod uring;
pub mod userfaultfd;

pub use pid::HostPid;

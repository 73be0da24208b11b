//! The read-only view: of a process, as `/proc` tells it, parsed strictly,
//! since every byte of it may have been chosen by the process itself; and of
//! this machine: its load, its kernel, its CPU.

pub mod addresses;
pub mod atlas;
pub mod backlog;
pub mod boot;
pub mod cpu;
pub mod demand;
pub mod fd;
pub mod fdinfo;
pub mod files;
mod inet_diag;
pub mod inet_socket;
pub mod inotify;
pub mod load;
pub mod lock;
pub mod manifest;
pub mod mapping_rules;
pub mod maps;
pub mod mount_tree;
pub mod mounts;
pub mod mqueue;
pub mod nest;
pub mod own;
pub mod pid_spaces;
pub mod pidfd;
pub mod preflight;
pub mod probe;
pub mod proc_file;
pub mod process;
pub mod refusal;
mod search;
pub mod seccomp;
pub mod sharing;
pub mod shm;
pub mod smaps;
mod sock_diag;
pub mod stdio;
pub mod strangers;
pub mod system_v;
pub mod text;
pub mod text_place;
pub mod timers;
pub mod unix_socket;
pub mod uring;
pub mod visit;

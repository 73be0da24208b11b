//! The daemon as a process: its sockets, its certificates, and what it does
//! with those who break the rules. Needs root; everything is on loopback and
//! below temporary folders.

#[cfg(test)]
mod control;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod peers;

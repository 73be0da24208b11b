//! What a move costs, as the moved program sees it.
//!
//! `workloads/downtime.c` knows how long it was not running. The command that
//! runs it beside its peers is not written yet.

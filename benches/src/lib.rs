//! What a move costs, as the moved program sees it; and what `mig exec` costs.
//!
//! | file | what it holds |
//! |---|---|
//! | `shape` | what is moved: the programs of `workloads/downtime.c` |
//! | `program` | such a program while it runs, and how it is asked |
//! | `moves` | mig, between two nodes of a lab |
//! | `criu` | CRIU on the same machine, as far as it runs here |
//! | `start` | a program under `mig exec` beside the program alone |
//! | `figures` | medians, and what is printed of them |
//!
//! Whatever is measured is measured by the release build of this checkout.

pub mod criu;
pub mod figures;
pub mod machine;
pub mod moves;
pub mod program;
pub mod shape;
pub mod start;

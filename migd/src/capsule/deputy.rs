//! What the daemon says to the capsule of a job that was never in it: the deputy of
//! a process that `mig exec` did not start, or of a job in a file.

use std::os::fd::OwnedFd;

use anyhow::Result;

use super::{
    ctl::{Adopt, Request},
    handle::Handle,
};

impl Handle {
    /// Makes it the deputy of a job that has begun outside of any capsule and is about to
    /// leave. `place` is a pidfd of the process that the job's `mig` will be.
    ///
    /// # Errors
    /// When the capsule has a job.
    pub fn adopt(&mut self, adopt: Adopt, place: OwnedFd) -> Result<()> {
        self.order(&Request::Adopt(adopt), vec![place])
    }

    /// Nobody will come in that place: the job is as detached.
    ///
    /// # Errors
    /// When the init is gone.
    pub fn orphan(&mut self) -> Result<()> {
        self.order(&Request::Orphan, vec![])
    }

    /// Makes it the deputy of a job that comes from a checkpoint. `streams` are 0, 1 and 2
    /// for those of its standard streams that were pipes; `caller` is a pidfd of who is about
    /// to connect as `mig exec` would.
    ///
    /// # Errors
    /// When the capsule has a job.
    pub fn stand(
        &mut self,
        has_terminal: bool,
        streams: [OwnedFd; 3],
        caller: Option<OwnedFd>,
    ) -> Result<()> {
        let fds = streams.into_iter().chain(caller).collect();
        self.order(&Request::Stand { has_terminal }, fds)
    }
}

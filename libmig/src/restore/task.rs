//! A process or thread that is being made: in a ptrace stop, ready to execute
//! batches.

use super::error::{RestoreError, remote, trace};
use crate::{
    image::Pid,
    sys::{
        HostPid,
        ptrace::{self, Event, PtraceError, Stopped, Waited, reg},
        remote::{Batch, Injector, RemoteError, Results},
    },
};

/// A task of the tree, or the zygote.
#[derive(Debug)]
pub(super) struct Task {
    /// Its ID in the capsule.
    pub(super) id: Pid,
    /// The stop that it is in.
    pub(super) stopped: Stopped,
}

impl Task {
    /// A task that was attached at birth: waits for its first stop.
    pub(super) fn born(id: Pid, host: HostPid) -> Result<Self, RestoreError> {
        match ptrace::wait(host).map_err(trace(id, "created"))? {
            Waited::Stopped(stopped, _) => Ok(Self { id, stopped }),
            Waited::Exited(_) => Err(trace(id, "created")(PtraceError::Gone { thread: host })),
        }
    }

    /// Its ID for the daemon.
    pub(super) fn host(&self) -> HostPid {
        self.stopped.thread()
    }

    /// Executes a batch in which every required call must succeed.
    pub(super) fn run(
        &mut self,
        injector: Injector,
        batch: &Batch,
        step: &'static str,
    ) -> Result<Results, RestoreError> {
        let results = injector
            .run(&mut self.stopped, batch)
            .map_err(remote(self.id, step))?;
        results.complete().map_err(remote(self.id, step))?;
        Ok(results)
    }

    /// Executes `before` and then exit_group(2): the task is gone afterwards.
    pub(super) fn exit(
        &mut self,
        injector: Injector,
        mut before: Batch,
        code: u64,
    ) -> Result<(), RestoreError> {
        before.call(libc::SYS_exit_group, &[code.into()]);
        match injector.run(&mut self.stopped, &before) {
            Err(RemoteError::Ptrace(PtraceError::Gone { .. })) => Ok(()),
            Ok(results) => Err(match results.complete() {
                Err(error) => remote(self.id, "exit")(error),
                Ok(()) => trace(self.id, "ended")(PtraceError::Gone {
                    thread: self.host(),
                }),
            }),
            Err(error) => Err(remote(self.id, "exit")(error)),
        }
    }

    /// Executes `before` and ends with this wait status.
    pub(super) fn end(
        &mut self,
        injector: Injector,
        mut before: Batch,
        status: i32,
    ) -> Result<(), RestoreError> {
        let signal = status & 0x7f;
        if signal == 0 {
            let code = u64::from((status >> 8).cast_unsigned() & 0xff);
            return self.exit(injector, before, code);
        }
        // A core limit of one byte means: no dump, not even to a pipe.
        let limit = before.data(&[1u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
        before.call(
            libc::SYS_setrlimit,
            &[libc::RLIMIT_CORE.into(), limit.into()],
        );
        self.run(injector, &before, "get ready to end by a signal")?;
        self.die(signal)
    }

    /// Dies by a signal of its default action.
    pub(super) fn die(&mut self, signal: i32) -> Result<(), RestoreError> {
        let failed = || trace(self.id, "ended by a signal");
        self.stopped.set_sigmask(0).map_err(failed())?;
        crate::sys::signal::send(self.host(), signal)
            .map_err(super::error::host(format!("signal pid {}", self.id)))?;
        // The stop before delivery first; SIGKILL has none.
        loop {
            match self.stopped.cont_wait(0) {
                Ok(Event::Signal(found)) if found == signal => break,
                Ok(_) => {}
                Err(PtraceError::Gone { .. }) => {
                    self.mourn();
                    return Ok(());
                }
                Err(error) => return Err(failed()(error)),
            }
        }
        match self.stopped.cont_wait(signal) {
            Err(PtraceError::Gone { .. }) => {
                self.mourn();
                Ok(())
            }
            Err(error) => Err(failed()(error)),
            Ok(_) => Err(failed()(PtraceError::Gone {
                thread: self.host(),
            })),
        }
    }

    /// A dead tracee is a zombie for its parent only when its tracer has waited
    /// for it; where that has been done, there is nothing to wait for.
    fn mourn(&self) {
        while let Ok(Waited::Stopped(..)) = ptrace::wait(self.host()) {}
    }

    /// Lets it run to a stop that satisfies `wanted`.
    fn cont_until(
        &mut self,
        signal: i32,
        wanted: impl Fn(Event) -> bool,
    ) -> Result<(), PtraceError> {
        let mut event = self.stopped.cont_wait(signal)?;
        while !wanted(event) {
            event = self.stopped.cont_wait(0)?;
        }
        Ok(())
    }

    /// Registers for a system call at `instruction`, as the task itself would make it.
    pub(super) fn point_at_call(
        &mut self,
        instruction: u64,
        number: u64,
        arguments: [u64; 6],
    ) -> Result<(), PtraceError> {
        let mut registers = self.stopped.registers()?;
        let places = [reg::RDI, reg::RSI, reg::RDX, reg::R10, reg::R8, reg::R9];
        for (place, value) in places.into_iter().zip(arguments) {
            registers[place] = value;
        }
        registers[reg::RAX] = number;
        registers[reg::ORIG_RAX] = u64::MAX;
        registers[reg::RIP] = instruction;
        self.stopped.set_registers(&registers)
    }
}

/// Job control: stops a process by `signal`, all of its threads. Nothing else
/// can come in between, their masks are full. Its parent hears of it.
pub(super) fn stop(threads: &mut [Task], signal: i32) -> Result<(), RestoreError> {
    let Some((leader, others)) = threads.split_first_mut() else {
        return Ok(());
    };
    let id = leader.id;
    let failed = || trace(id, "stopped");
    leader
        .stopped
        .set_sigmask(!(1 << (signal - 1)))
        .map_err(failed())?;
    crate::sys::signal::send(leader.host(), signal)
        .map_err(super::error::host(format!("stop pid {id}")))?;
    leader
        .cont_until(0, |event| event == Event::Signal(signal))
        .map_err(failed())?;
    let group_stop = |event| matches!(event, Event::GroupStop(_));
    leader.cont_until(signal, group_stop).map_err(failed())?;
    for thread in others {
        thread
            .cont_until(0, group_stop)
            .map_err(trace(thread.id, "stopped"))?;
    }
    Ok(())
}

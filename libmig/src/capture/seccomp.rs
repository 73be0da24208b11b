//! What seccomp(2) confines a thread to. From the moment at which this is read
//! until the tracing ends its filters are suspended, for the calls that it is to
//! make for us; it does not run a program meanwhile.

use super::{
    CaptureError,
    gather::OPTIONS,
    hindrance::{obstacle, sandboxed},
};
use crate::{
    image::{Pid, Registers, Seccomp, SeccompFilter},
    inspect::{
        process::Status,
        seccomp::{self, Call},
    },
    sys::{
        ptrace::{Options, PtraceError, SUSPEND_SECCOMP, Stopped, reg},
        remote::foothold::{ERESTART_RESTARTBLOCK, ERESTARTNOHAND},
    },
};

/// SECCOMP_FILTER_FLAG_LOG.
const FLAG_LOG: u64 = 2;

/// What a stopped thread may not do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Confinement {
    #[default]
    None,
    Strict,
    /// The oldest first.
    Filters(Vec<SeccompFilter>),
}

impl Confinement {
    /// Reads the filters of a thread.
    fn read(stopped: &Stopped, mode: u32) -> Result<Self, PtraceError> {
        match mode {
            0 => return Ok(Self::None),
            1 => return Ok(Self::Strict),
            _ => {}
        }
        let mut filters = Vec::new();
        while let Some((program, flags)) = stopped.seccomp_filter(filters.len())? {
            let log = flags & FLAG_LOG != 0;
            filters.push(SeccompFilter { program, log });
        }
        Ok(Self::Filters(filters))
    }

    /// Reads them, and suspends them. Nothing is asked of a thread without any.
    pub(super) fn lift(
        stopped: &mut Stopped,
        status: &Status,
        (pid, tid): (Pid, Pid),
    ) -> Result<Self, CaptureError> {
        if status.seccomp == 0 {
            return Ok(Self::None);
        }
        let refuse = |reason: String, remedy| Err(obstacle(sandboxed(pid, tid, reason, remedy)));
        let found = match Self::read(stopped, status.seccomp) {
            Err(PtraceError::Refused { source, .. }) => {
                return refuse(
                    format!("its seccomp filters cannot be read ({source})"),
                    "run migd without a seccomp filter of its own",
                );
            }
            found => found?,
        };
        if found.filters().any(|one| seccomp::may_notify(&one.program)) {
            return refuse(
                "a seccomp filter asks another process what it may do (SECCOMP_RET_USER_NOTIF)"
                    .to_owned(),
                "start the program without that supervisor",
            );
        }
        stopped.set_options(found.options())?;
        Ok(found)
    }

    /// How a thread that has been lifted is traced.
    pub(super) fn options(&self) -> Options {
        match self {
            Self::None => OPTIONS,
            _ => OPTIONS | SUSPEND_SECCOMP,
        }
    }

    fn filters(&self) -> impl Iterator<Item = &SeccompFilter> {
        let filters: &[SeccompFilter] = match self {
            Self::Filters(filters) => filters,
            _ => &[],
        };
        filters.iter()
    }

    /// Whether calls made from another place than the program's own may be judged otherwise.
    pub(super) fn asks_for_place(&self) -> bool {
        self.filters()
            .any(|one| seccomp::asks_for_place(&one.program))
    }

    /// The registers with which an interrupted call goes on as the filters want it: the
    /// kernel goes on with some by restart_syscall(2), which few lists of what is
    /// allowed know of. Such a call is made again with its whole timeout.
    pub(super) fn restartable(&self, registers: &Registers) -> Registers {
        let mut amended = *registers;
        let call = Call {
            number: libc::SYS_restart_syscall,
            instruction_pointer: registers[reg::RIP],
            arguments: [reg::RDI, reg::RSI, reg::RDX, reg::R10, reg::R8, reg::R9]
                .map(|index| registers[index]),
        };
        let restarts = registers[reg::ORIG_RAX].cast_signed() >= 0
            && registers[reg::RAX].cast_signed() == -ERESTART_RESTARTBLOCK;
        if restarts
            && !self
                .filters()
                .all(|one| seccomp::allows(&one.program, &call))
        {
            amended[reg::RAX] = (-ERESTARTNOHAND).cast_unsigned();
        }
        amended
    }

    /// For the image; `pool` has the filters of all threads of the process.
    pub(super) fn to_image(&self, pool: &mut Vec<SeccompFilter>) -> Seccomp {
        match self {
            Self::None => Seccomp::Off,
            Self::Strict => Seccomp::Strict,
            Self::Filters(filters) => {
                let ids = filters.iter().map(|filter| {
                    let known = pool.iter().position(|one| one == filter);
                    let index = known.unwrap_or_else(|| {
                        pool.push(filter.clone());
                        pool.len() - 1
                    });
                    u32::try_from(index).expect("the kernel bounds the filters of a thread")
                });
                Seccomp::Filters(ids.collect())
            }
        }
    }
}

/// A thread that is let go before anything was asked of it must find a way on, too.
pub(super) fn spare(stopped: &mut Stopped, mode: u32) -> Result<(), PtraceError> {
    let registers = stopped.registers()?;
    if mode == 0 || registers[reg::RAX].cast_signed() != -ERESTART_RESTARTBLOCK {
        return Ok(());
    }
    let amended = Confinement::read(stopped, mode)?.restartable(&registers);
    if amended == registers {
        return Ok(());
    }
    stopped.set_registers(&amended)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns `action` for restart_syscall, and allows the rest.
    fn filter(action: u32) -> SeccompFilter {
        let mut program = Vec::new();
        for (code, jumps, constant) in [
            (0x20u16, [0, 0], 0u32),
            (0x15, [0, 1], 219),
            (0x06, [0, 0], action),
            (0x06, [0, 0], 0x7fff_0000),
        ] {
            program.extend(code.to_le_bytes());
            program.extend(jumps);
            program.extend(constant.to_le_bytes());
        }
        SeccompFilter {
            program,
            log: false,
        }
    }

    fn sleeping() -> Registers {
        let mut registers = [0; 27];
        registers[reg::ORIG_RAX] = 35;
        registers[reg::RAX] = (-ERESTART_RESTARTBLOCK).cast_unsigned();
        registers
    }

    #[test]
    fn a_sleep_is_restarted_only_where_that_is_allowed() {
        let allowing = Confinement::Filters(vec![filter(0x7fff_0000)]);
        assert_eq!(allowing.restartable(&sleeping()), sleeping());
        for action in [0x8000_0000, 0x0005_0026] {
            let chain = Confinement::Filters(vec![filter(0x7fff_0000), filter(action)]);
            let amended = chain.restartable(&sleeping());
            assert_eq!(amended[reg::RAX].cast_signed(), -ERESTARTNOHAND);
            let mut other = sleeping();
            other[reg::RAX] = 7;
            assert_eq!(chain.restartable(&other), other);
        }
        assert_eq!(Confinement::None.restartable(&sleeping()), sleeping());
    }

    #[test]
    fn filters_of_several_threads_are_kept_once() {
        let [a, b] = [1, 2].map(filter);
        let mut pool = Vec::new();
        let chains = [vec![a.clone(), b.clone()], vec![b.clone(), b.clone()]];
        let images = chains.map(|chain| Confinement::Filters(chain).to_image(&mut pool));
        assert_eq!(pool, [a, b]);
        assert_eq!(
            images,
            [Seccomp::Filters(vec![0, 1]), Seccomp::Filters(vec![1, 1])]
        );
        assert_eq!(Confinement::Strict.to_image(&mut pool), Seccomp::Strict);
    }
}

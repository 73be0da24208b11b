//! What only a process can tell, asked in one batch of system calls that it
//! executes itself: actions, timers, brk, prctls, limits.

use super::{
    CaptureError,
    space::{PolicyQuestion, SpaceAnswers, SpaceQuestions},
};
use crate::{
    image::{AltStack, IntervalTimer, Limit, MemoryPolicy, SignalAction},
    inspect::maps::{self, Area},
    sys::{
        ptrace::Stopped,
        remote::{Batch, DataRef, Injector, RemoteError, Results, Slot},
        survivor::Shield,
    },
};

const SIGNALS: usize = 64;
const LIMITS: u64 = 16;
const PR_GET_MDWE: u64 = 66;
/// The memory of io_uring(7) in /proc/PID/maps.
const RING: &[u8] = b"anon_inode:[io_uring]";
/// IO_RINGFD_REG_MAX: places for rings that a thread has registered.
const RINGS: u64 = 16;
/// IORING_ENTER_REGISTERED_RING.
const BY_PLACE: u64 = 1 << 4;

/// Answers about a process.
#[derive(Debug)]
pub(super) struct ProcessAnswers {
    pub(super) actions: Vec<SignalAction>,
    pub(super) itimers: [IntervalTimer; 3],
    /// (remaining, interval) in nanoseconds, in the order asked for.
    pub(super) timers: Vec<(u64, u64)>,
    pub(super) brk: u64,
    pub(super) dumpable: i32,
    pub(super) child_subreaper: bool,
    pub(super) thp_disable: bool,
    pub(super) exec_gain: u32,
    pub(super) space: SpaceAnswers,
    /// By RLIMIT_*.
    pub(super) limits: Vec<Limit>,
}

/// Answers about a thread.
#[derive(Debug)]
pub(super) struct ThreadAnswers {
    pub(super) altstack: AltStack,
    pub(super) clear_child_tid: u64,
    pub(super) parent_death_signal: i32,
    pub(super) securebits: u32,
    pub(super) tsc_mode: i32,
    pub(super) timer_slack_ns: u64,
    pub(super) memory_policy: Option<MemoryPolicy>,
    /// Whether it has registered rings of io_uring(7), IORING_REGISTER_RING_FDS.
    pub(super) registered_rings: bool,
}

/// Asks a process and all its threads; the first is the leader. Nothing of the
/// questions is left in it.
pub(super) fn ask<'a>(
    mut threads: impl Iterator<Item = &'a mut Stopped>,
    timers: &[i32],
) -> Result<(ProcessAnswers, Vec<ThreadAnswers>), CaptureError> {
    let leader = threads.next().expect("a live process has a leader");
    let pid = leader.thread();
    let areas = maps::read(pid).map_err(CaptureError::proc(pid, "maps"))?;
    let site = maps::site_among(pid, &areas).map_err(CaptureError::proc(pid, "maps"))?;
    // To the end: injected pages are not left behind either.
    let _shield = Shield::raise();
    let injector = Injector::install(leader, &site)?;
    let answers = ask_through(injector, leader, threads, (timers, &areas));
    let removed = injector.remove(leader, site.foothold);
    let answers = answers?;
    removed?;
    Ok(answers)
}

/// FD_CLOEXEC of some descriptors of a process, by its leader.
pub(super) fn close_on_exec(
    leader: &mut Stopped,
    numbers: &[i32],
) -> Result<Vec<bool>, CaptureError> {
    let pid = leader.thread();
    let site = maps::injection_site(pid).map_err(CaptureError::proc(pid, "maps"))?;
    let _shield = Shield::raise();
    let injector = Injector::install(leader, &site)?;
    let mut batch = Batch::new();
    let slots: Vec<Slot> = numbers
        .iter()
        .map(|number| {
            let command = libc::F_GETFD.into();
            batch.call(libc::SYS_fcntl, &[(*number).into(), command])
        })
        .collect();
    let answers = injector.run(leader, &batch).and_then(|results| {
        let flags = slots.iter().map(|slot| results.value(*slot));
        flags
            .map(|flags| Ok(flags? & 1 != 0))
            .collect::<Result<Vec<bool>, RemoteError>>()
    });
    let removed = injector.remove(leader, site.foothold);
    let answers = answers?;
    removed?;
    Ok(answers)
}

fn ask_through<'a>(
    injector: Injector,
    leader: &mut Stopped,
    others: impl Iterator<Item = &'a mut Stopped>,
    (timers, areas): (&[i32], &[Area]),
) -> Result<(ProcessAnswers, Vec<ThreadAnswers>), RemoteError> {
    let mut batch = Batch::new();
    let process = ProcessQuestions::new(&mut batch, timers, areas);
    let rings = areas.iter().any(|area| area.name == RING);
    let thread = ThreadQuestions::new(&mut batch, rings);
    let results = injector.run(leader, &batch)?;
    let more = |batch: &Batch| injector.run(leader, batch);
    let answers = process.answers(&results, more)?;
    let mut of_threads = vec![thread.answers(&results)?];
    for other in others {
        let mut batch = Batch::new();
        let thread = ThreadQuestions::new(&mut batch, rings);
        let results = injector.run(other, &batch)?;
        of_threads.push(thread.answers(&results)?);
    }
    Ok((answers, of_threads))
}

struct ProcessQuestions {
    actions: Vec<DataRef>,
    itimers: Vec<DataRef>,
    timers: Vec<DataRef>,
    brk: Slot,
    dumpable: Slot,
    child_subreaper: DataRef,
    thp_disable: Slot,
    exec_gain: Slot,
    space: SpaceQuestions,
    limits: Vec<DataRef>,
}

impl ProcessQuestions {
    fn new(batch: &mut Batch, timers: &[i32], areas: &[Area]) -> Self {
        let actions = (1..=SIGNALS as u64)
            .map(|signal| {
                let action = batch.reserve(32);
                batch.call(
                    libc::SYS_rt_sigaction,
                    &[signal.into(), 0.into(), action.into(), 8.into()],
                );
                action
            })
            .collect();
        let itimers = (0..3)
            .map(|which: i32| {
                let timer = batch.reserve(32);
                batch.call(libc::SYS_getitimer, &[which.into(), timer.into()]);
                timer
            })
            .collect();
        let timers = timers
            .iter()
            .map(|id| {
                let timer = batch.reserve(32);
                batch.call(libc::SYS_timer_gettime, &[(*id).into(), timer.into()]);
                timer
            })
            .collect();
        let brk = batch.call(libc::SYS_brk, &[0.into()]);
        let dumpable = batch.call(libc::SYS_prctl, &[libc::PR_GET_DUMPABLE.into()]);
        let child_subreaper = batch.reserve(4);
        batch.call(
            libc::SYS_prctl,
            &[libc::PR_GET_CHILD_SUBREAPER.into(), child_subreaper.into()],
        );
        let thp_disable = batch.call(libc::SYS_prctl, &[libc::PR_GET_THP_DISABLE.into()]);
        // Linux 6.3.
        let exec_gain = batch.attempt(libc::SYS_prctl, &[PR_GET_MDWE.into()]);
        Self {
            actions,
            itimers,
            timers,
            brk,
            dumpable,
            child_subreaper,
            thp_disable,
            exec_gain,
            space: SpaceQuestions::new(batch, areas),
            limits: limits(batch),
        }
    }

    fn answers(
        &self,
        results: &Results,
        run: impl FnOnce(&Batch) -> Result<Results, RemoteError>,
    ) -> Result<ProcessAnswers, RemoteError> {
        results.complete()?;
        let itimer = |data: &DataRef| {
            let [interval, value] = pair(results, *data, 1_000_000);
            IntervalTimer {
                value_us: value,
                interval_us: interval,
            }
        };
        Ok(ProcessAnswers {
            actions: self
                .actions
                .iter()
                .map(|data| action(results, *data))
                .collect(),
            itimers: [
                itimer(&self.itimers[0]),
                itimer(&self.itimers[1]),
                itimer(&self.itimers[2]),
            ],
            timers: self
                .timers
                .iter()
                .map(|data| {
                    let [interval, value] = pair(results, *data, 1_000_000_000);
                    (value, interval)
                })
                .collect(),
            brk: results.value(self.brk)?,
            dumpable: i32::try_from(results.value(self.dumpable)?).unwrap_or(0),
            child_subreaper: results.half(self.child_subreaper) != 0,
            thp_disable: results.value(self.thp_disable)? != 0,
            exec_gain: small(results, self.exec_gain),
            space: self.space.answers(results, run)?,
            limits: self
                .limits
                .iter()
                .map(|data| Limit {
                    soft: results.word(*data),
                    hard: results.word(data.at(8)),
                })
                .collect(),
        })
    }
}

/// What an older kernel has no answer to is not set.
fn small(results: &Results, slot: Slot) -> u32 {
    let value = results.outcome(slot).value();
    value.and_then(|set| u32::try_from(set).ok()).unwrap_or(0)
}

/// Asked by the process itself: from outside, prlimit(2) of a process with other
/// user IDs needs CAP_SYS_RESOURCE, which even root often lacks.
fn limits(batch: &mut Batch) -> Vec<DataRef> {
    let ask = |resource: u64| {
        let limit = batch.reserve(16);
        batch.call(
            libc::SYS_prlimit64,
            &[0.into(), resource.into(), 0.into(), limit.into()],
        );
        limit
    };
    (0..LIMITS).map(ask).collect()
}

struct ThreadQuestions {
    altstack: DataRef,
    tid_address: DataRef,
    death_signal: DataRef,
    tsc: DataRef,
    securebits: Slot,
    timer_slack: Slot,
    memory_policy: PolicyQuestion,
    rings: Vec<Slot>,
}

impl ThreadQuestions {
    fn new(batch: &mut Batch, rings: bool) -> Self {
        let altstack = batch.reserve(24);
        batch.call(libc::SYS_sigaltstack, &[0.into(), altstack.into()]);
        let mut get = |option: i32, len: usize| {
            let place = batch.reserve(len);
            batch.call(libc::SYS_prctl, &[option.into(), place.into()]);
            place
        };
        let tid_address = get(libc::PR_GET_TID_ADDRESS, 8);
        let death_signal = get(libc::PR_GET_PDEATHSIG, 4);
        let tsc = get(libc::PR_GET_TSC, 4);
        let securebits = batch.call(libc::SYS_prctl, &[libc::PR_GET_SECUREBITS.into()]);
        let timer_slack = batch.call(libc::SYS_prctl, &[libc::PR_GET_TIMERSLACK.into()]);
        Self {
            altstack,
            tid_address,
            death_signal,
            tsc,
            securebits,
            timer_slack,
            memory_policy: PolicyQuestion::new(batch, None),
            rings: (0..if rings { RINGS } else { 0 })
                .map(|place| {
                    let nothing = [place.into(), 0u64.into(), 0u64.into(), BY_PLACE.into()];
                    batch.attempt(libc::SYS_io_uring_enter, &nothing)
                })
                .collect(),
        }
    }

    fn answers(&self, results: &Results) -> Result<ThreadAnswers, RemoteError> {
        results.complete()?;
        let flags = results.half(self.altstack.at(8)).cast_signed();
        Ok(ThreadAnswers {
            altstack: AltStack {
                address: results.word(self.altstack),
                flags: flags & !libc::SS_ONSTACK,
                size: results.word(self.altstack.at(16)),
            },
            clear_child_tid: results.word(self.tid_address),
            parent_death_signal: results.half(self.death_signal).cast_signed(),
            securebits: u32::try_from(results.value(self.securebits)?).unwrap_or(0),
            tsc_mode: results.half(self.tsc).cast_signed(),
            timer_slack_ns: results.value(self.timer_slack)?,
            memory_policy: self.memory_policy.answer(results),
            registered_rings: self
                .rings
                .iter()
                .any(|place| results.outcome(*place).value().is_some()),
        })
    }
}

fn action(results: &Results, data: DataRef) -> SignalAction {
    SignalAction {
        handler: results.word(data),
        flags: results.word(data.at(8)),
        restorer: results.word(data.at(16)),
        mask: results.word(data.at(24)),
    }
}

/// Interval and value of an itimerval or itimerspec, in its small unit.
fn pair(results: &Results, data: DataRef, per_second: u64) -> [u64; 2] {
    [0, 16].map(|at| {
        let (seconds, fraction) = (results.word(data.at(at)), results.word(data.at(at + 8)));
        seconds.saturating_mul(per_second).saturating_add(fraction)
    })
}

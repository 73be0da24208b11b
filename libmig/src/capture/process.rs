//! A stopped process -> [`Process`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::Path,
    time::{Duration, Instant},
};

use super::{
    CaptureError, SharedRegistry,
    freeze::FrozenProcess,
    hindrance::obstacle,
    memory,
    namespaces::Nested,
    query, ring,
    sleep::{self, Interrupted},
    thread::{self, Outside},
};
use crate::{
    api::Obstacle,
    image::{
        FilePath, FsContext, INIT, Layout, LiveProcess, Pid, PosixTimer, Process, ProcessKind,
    },
    inspect::{
        atlas::Atlas,
        fd, maps,
        process::{self, Stat},
        text, timers,
    },
    sys::{
        HostPid, process_vm,
        remote::ledger::{self, Note},
    },
};

/// What the images of all processes of a tree have in common.
pub(super) struct Context<'a> {
    pub(super) shared: &'a mut SharedRegistry,
    /// Where names are looked up.
    pub(super) atlas: &'a Atlas,
    /// Device of the capsule's /dev/shm, when it has one of its own.
    pub(super) shm: Option<u64>,
    pub(super) node_cpus: Vec<u32>,
    /// CLOCK_MONOTONIC of the job.
    pub(super) now_ns: u64,
    /// When each live process was asked about its timers.
    pub(super) asked: Vec<Instant>,
    /// Whose writes are noted by us.
    pub(super) followed: BTreeSet<HostPid>,
    /// Every thread of the tree, to translate the targets of timers.
    pub(super) tids: BTreeMap<HostPid, Pid>,
    /// Who is in which namespace.
    pub(super) nested: &'a Nested,
}

/// The image of a process, its descriptor table still empty.
pub(super) fn capture(
    frozen: &mut FrozenProcess,
    context: &mut Context<'_>,
) -> Result<Process, CaptureError> {
    let host = frozen.host;
    let status = match frozen.threads.first() {
        Some(leader) => leader.status.clone(),
        None => process::status(host).map_err(CaptureError::proc(host, "status"))?,
    };
    let stat = process::stat(host).map_err(CaptureError::proc(host, "stat"))?;
    let kind = if frozen.threads.is_empty() {
        ProcessKind::Zombie {
            status: stat.exit_code,
            comm: stat.comm,
        }
    } else {
        ProcessKind::Live(Box::new(live(frozen, &stat, status.umask, context)?))
    };
    Ok(Process {
        pid: frozen.pid,
        ppid: frozen.ppid,
        pgid: process::id_at(&status.ns_pgid, frozen.level).unwrap_or(0),
        sid: process::id_at(&status.ns_sid, frozen.level).unwrap_or(INIT),
        inner: context.nested.inner(frozen, &status),
        kind,
    })
}

fn live(
    frozen: &mut FrozenProcess,
    stat: &Stat,
    umask: Option<u32>,
    context: &mut Context<'_>,
) -> Result<LiveProcess, CaptureError> {
    let host = frozen.host;
    let process = (frozen.pid, host);
    let failed = |what| CaptureError::proc(host, what);
    // Signals and masks first: questioning a thread may change them.
    let leader = &frozen
        .threads
        .first()
        .expect("a live process has a leader")
        .stopped;
    let pending = leader.peek_siginfo(true)?;
    let outside: Vec<Outside> = frozen
        .threads
        .iter()
        .map(|thread| Outside::read(&thread.stopped))
        .collect::<Result<_, _>>()?;
    let timer_list = timers::read(host).map_err(failed("timers"))?;
    let ids: Vec<i32> = timer_list.iter().map(|timer| timer.id).collect();
    let (answers, of_threads) = query::ask(
        frozen.threads.iter_mut().map(|thread| &mut thread.stopped),
        &ids,
    )?;
    context.asked.push(Instant::now());
    if of_threads.iter().any(|answers| answers.registered_rings) {
        return Err(obstacle(ring::registered(frozen.pid)));
    }

    let layout = layout(host, stat, answers.brk)?;
    let memory = memory::capture(
        process,
        layout,
        &answers.space,
        (context.shared, context.atlas, context.shm),
        context.followed.contains(&host),
    )?;
    let calls = interrupted_calls(frozen, context)?;
    let mut filters = Vec::new();
    let threads = frozen
        .threads
        .iter()
        .zip(outside)
        .zip(&of_threads)
        .zip(calls)
        .map(|(((thread, outside), answers), call)| {
            thread::capture(
                thread,
                outside,
                answers,
                call,
                &context.node_cpus,
                &mut filters,
            )
        })
        .collect::<Result<_, _>>()?;
    let timers =
        timer_list
            .iter()
            .zip(&answers.timers)
            .map(|(timer, (remaining_ns, interval_ns))| PosixTimer {
                id: timer.id,
                clock: timer.clock,
                notify: timer.notify,
                signal: timer.signal,
                value: timer.value,
                tid: context.tids.get(&timer.target).copied().unwrap_or(0),
                remaining_ns: *remaining_ns,
                interval_ns: *interval_ns,
            });
    Ok(LiveProcess {
        memory,
        descriptors: Vec::new(),
        fs: FsContext {
            cwd: directory(process, "cwd", context)?,
            root: directory(process, "root", context)?,
            umask: umask.unwrap_or(0o022),
        },
        actions: answers.actions,
        pending,
        stopped: frozen.stopped,
        itimers: answers.itimers,
        timers: timers.collect(),
        limits: answers.limits,
        oom_score_adj: number(host, "oom_score_adj")?,
        coredump_filter: process::hex_file(host, "coredump_filter")
            .map_err(failed("coredump_filter"))?,
        dumpable: answers.dumpable,
        child_subreaper: answers.child_subreaper,
        thp_disable: answers.thp_disable,
        exec_gain: answers.exec_gain,
        personality: process::hex_file(host, "personality").map_err(failed("personality"))?,
        threads,
        namespaces: context.nested.of(frozen.pid),
        child_space: context.nested.child_space(frozen.pid),
        filters,
    })
}

/// Turns the times that are left into those that are left at a later moment, for
/// which the clocks are in the image: `asked` after the timers were read, `slept`
/// after [`Context::now_ns`]. What is due by then is due at once.
pub(super) fn grow_older(process: &mut LiveProcess, asked: Duration, slept: Duration) {
    let later = |left: &mut u64, passed: u128| {
        if *left != 0 {
            *left = left
                .saturating_sub(u64::try_from(passed).unwrap_or(u64::MAX))
                .max(1);
        }
    };
    for timer in &mut process.timers {
        if timer.runs_on() {
            later(&mut timer.remaining_ns, asked.as_nanos());
        }
    }
    let [real, ..] = &mut process.itimers;
    later(&mut real.value_us, asked.as_micros());
    for thread in &mut process.threads {
        if let Some(sleep) = &mut thread.sleep {
            let passed = u64::try_from(slept.as_nanos()).unwrap_or(u64::MAX);
            sleep.remaining_ns = sleep.remaining_ns.saturating_sub(passed);
        }
    }
}

/// The calls with timeouts that the threads were in. Relative sleeps are
/// noted in the process, in case that it stays and is captured again.
fn interrupted_calls(
    frozen: &mut FrozenProcess,
    context: &Context<'_>,
) -> Result<Vec<Option<Interrupted>>, CaptureError> {
    let host = frozen.host;
    let place = maps::ledger_place(host).map_err(CaptureError::proc(host, "maps"))?;
    let known = place.map_or_else(Vec::new, |place| ledger::read(host, place));
    let shift = context.nested.clock_shift(frozen.pid);
    let now_ns = context.now_ns.saturating_add_signed(shift.monotonic_ns);
    let mut calls = Vec::new();
    let mut notes = Vec::new();
    for frozen in &mut frozen.threads {
        let thread = frozen.stopped.thread();
        let mut registers = frozen.stopped.registers()?;
        if let Some(wait) = frozen.wait {
            calls.push(sleep::timed(&wait, now_ns));
            continue;
        }
        let call = sleep::interrupted(
            thread,
            frozen.tid,
            &registers,
            frozen.sample,
            &known,
            now_ns,
        );
        if let Some(sleep) = call.and_then(|call| call.sleep) {
            let number = u32::try_from(sleep.number).unwrap_or(0);
            let deadline_ns = now_ns.saturating_add(sleep.remaining_ns);
            notes.push(Note::new(frozen.tid, number, deadline_ns, &registers));
            ledger::mark(&mut registers);
            frozen.stopped.amend_registers(&registers)?;
        }
        calls.push(call);
    }
    if let Some(place) = place
        && let Err(error) = ledger::write(host, place, &notes)
    {
        // A second capture would take these sleeps for new ones: no reason to refuse this one.
        tracing::debug!(process = %host, %error, "cannot note the deadlines of sleeps");
    }
    Ok(calls)
}

fn layout(host: HostPid, stat: &Stat, brk: u64) -> Result<Layout, CaptureError> {
    let from = &stat.layout;
    Ok(Layout {
        start_code: from.start_code,
        end_code: from.end_code,
        start_data: from.start_data,
        end_data: from.end_data,
        start_brk: from.start_brk,
        brk,
        start_stack: from.start_stack,
        arg_start: from.arg_start,
        arg_end: from.arg_end,
        env_start: from.env_start,
        env_end: from.env_end,
        auxv: text::bytes(format!("/proc/{host}/auxv"))
            .map_err(CaptureError::proc(host, "auxv"))?,
    })
}

/// A link of `/proc/PID` to something with a name.
pub(super) fn link(
    (pid, host): (Pid, HostPid),
    name: &'static str,
    atlas: &Atlas,
) -> Result<FilePath, CaptureError> {
    let failed = |what| CaptureError::proc(host, what);
    let magic = format!("/proc/{host}/{name}");
    let path = fs::read_link(&magic)
        .map_err(failed(name))?
        .into_os_string()
        .into_vec();
    let metadata = fs::metadata(&magic).map_err(failed(name))?;
    let place = atlas.place(Path::new(&magic));
    let reason = if metadata.nlink() == 0 || path.ends_with(b" (deleted)") {
        Some("it has been deleted")
    } else if fd::leads_to(place.root, &path, (metadata.dev(), metadata.ino())) {
        None
    } else {
        Some("its name means something else in the root directory of the job")
    };
    if let Some(reason) = reason {
        return Err(obstacle(Obstacle {
            pid: Some(pid),
            object: format!("{name} {}", String::from_utf8_lossy(&path)),
            reason: reason.to_owned(),
            remedy: "restart the program from an existing file, or change its directory".to_owned(),
            transient: false,
        }));
    }
    let size = if metadata.is_file() {
        metadata.len()
    } else {
        0
    };
    Ok(FilePath {
        space: place.space,
        path,
        mode: metadata.mode(),
        size,
    })
}

/// A directory of the mount namespace that the process is in.
fn directory(
    process: (Pid, HostPid),
    name: &'static str,
    context: &Context<'_>,
) -> Result<FilePath, CaptureError> {
    let found = link(process, name, context.atlas)?;
    if found.space == context.nested.of(process.0).mount {
        return Ok(found);
    }
    Err(obstacle(Obstacle {
        pid: Some(process.0),
        object: format!("{name} {}", String::from_utf8_lossy(&found.path)),
        reason: "it is in another mount namespace than the process".to_owned(),
        remedy: "let the program change to a directory of its own".to_owned(),
        transient: false,
    }))
}

fn number(host: HostPid, name: &'static str) -> Result<i32, CaptureError> {
    process::small_file(host, name)
        .and_then(|text| text.parse().map_err(|_| io::ErrorKind::InvalidData.into()))
        .map_err(CaptureError::proc(host, name))
}

/// The vDSO of a process, read without its help.
pub(super) fn vdso_code(host: HostPid, start: u64, end: u64) -> Result<Vec<u8>, CaptureError> {
    let mut code = vec![0; usize::try_from(end - start).unwrap_or(0)];
    process_vm::read_exact(host, start, &mut code).map_err(CaptureError::proc(host, "the vDSO"))?;
    ledger::erase(&mut code);
    Ok(code)
}

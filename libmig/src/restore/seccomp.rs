//! Filters of seccomp(2). The tracer suspends them (PTRACE_O_SUSPEND_SECCOMP) until
//! it lets go of the frozen tree: the program never runs without, and what is still
//! to be done for it is not judged by them. They are set while the husk has the
//! rights to do so without PR_SET_NO_NEW_PRIVS.

use crate::{
    image::{LiveProcess, Seccomp, SeccompFilter, Thread},
    sys::remote::Batch,
};

const SECCOMP_SET_MODE_STRICT: u64 = 0;
const SECCOMP_SET_MODE_FILTER: u64 = 1;
const FLAG_LOG: u64 = 2;
/// struct sock_filter.
const INSTRUCTION: usize = 8;

/// Whether any thread is confined.
pub(super) fn is_confined(process: &LiveProcess) -> bool {
    let mut threads = process.threads.iter();
    threads.any(|thread| thread.seccomp != Seccomp::Off)
}

/// Filters that all threads have first: set before there are threads, these share
/// them, as those do that inherited them. Only so can one of them bring the
/// others to its own (SECCOMP_FILTER_FLAG_TSYNC).
pub(super) fn confine_all(batch: &mut Batch, process: &LiveProcess) {
    for filter in &own(&process.threads[0])[..in_common(process)] {
        install(batch, process, *filter);
    }
}

/// What a thread has beyond that.
pub(super) fn confine(batch: &mut Batch, process: &LiveProcess, thread: &Thread) {
    for filter in &own(thread)[in_common(process)..] {
        install(batch, process, *filter);
    }
    if thread.seccomp == Seccomp::Strict {
        let arguments = [SECCOMP_SET_MODE_STRICT, 0, 0].map(Into::into);
        batch.call(libc::SYS_seccomp, &arguments);
    }
}

fn own(thread: &Thread) -> &[u32] {
    match &thread.seccomp {
        Seccomp::Filters(filters) => filters,
        Seccomp::Off | Seccomp::Strict => &[],
    }
}

/// How many filters all threads begin with.
fn in_common(process: &LiveProcess) -> usize {
    let mut common = own(&process.threads[0]);
    for thread in &process.threads[1..] {
        let alike = common.iter().zip(own(thread)).take_while(|(a, b)| a == b);
        common = &common[..alike.count()];
    }
    common.len()
}

fn install(batch: &mut Batch, process: &LiveProcess, filter: u32) {
    let empty = SeccompFilter {
        program: Vec::new(),
        log: false,
    };
    let known = process.filters.get(filter as usize);
    // The kernel refuses a program without instructions: a filter is never left out.
    let SeccompFilter { program, log } = known.unwrap_or(&empty);
    let length = u16::try_from(program.len() / INSTRUCTION).unwrap_or(0);
    let instructions = batch.data(program);
    let description = batch.data(&u128::from(length).to_le_bytes());
    batch.link(description.at(8), instructions);
    let flags = if *log { FLAG_LOG } else { 0 };
    batch.call(
        libc::SYS_seccomp,
        &[
            SECCOMP_SET_MODE_FILTER.into(),
            flags.into(),
            description.into(),
        ],
    );
}

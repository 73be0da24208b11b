//! What a job that keeps to a level shows of the CPU where it was: state that no
//! instruction of the level makes, and signal frames, which have that CPU's layout.
//!
//! A frame is put on a stack with all components that the node has switched on, and
//! sigreturn(2) takes from one that is larger than its own only x87 and SSE
//! (arch/x86/kernel/fpu/signal.c, check_xstate_in_sigframe).

use std::fs::File;
use std::os::unix::fs::FileExt;

use libmig::api::{CpuLevel, Obstacle};
use libmig::image::{JobImage, LiveProcess, Pid, ProcessKind, Thread};
use libmig::inspect::cpu::{CpuFeatures, level};
use libmig::sys::HostPid;

/// Index of rsp in the image's registers.
const RSP: usize = 19;
/// How far above the stack pointer frames are looked for.
const STACK_LOOKED_AT: usize = 1 << 20;

/// Where a job that keeps to a level was, and where it is to be, when these differ.
#[derive(Debug)]
pub(crate) struct State {
    level: CpuLevel,
    source: CpuFeatures,
    here: CpuFeatures,
}

impl State {
    /// Nothing when the job needs no level to come here.
    pub(crate) fn of(
        level: Option<CpuLevel>,
        source: CpuFeatures,
        here: &CpuFeatures,
    ) -> Option<State> {
        let level = level.filter(|_| !source.missing_at(here).is_empty())?;
        let here = here.clone();
        Some(State {
            level,
            source,
            here,
        })
    }

    /// What the image shows.
    pub(crate) fn obstacles(&self, image: &JobImage) -> Vec<Obstacle> {
        let threads = live(image).flat_map(|(pid, process)| {
            let threads = process.threads.iter();
            threads.map(move |thread| (pid, thread))
        });
        threads
            .flat_map(|(pid, thread)| [self.beyond(pid, thread), self.altstack(pid, thread)])
            .flatten()
            .collect()
    }

    fn beyond(&self, pid: Pid, thread: &Thread) -> Option<Obstacle> {
        let components = &thread.xstate.components;
        let in_use = components
            .iter()
            .fold(0, |all, (number, _)| all | 1 << number);
        let beyond = level::beyond(self.level, in_use);
        (beyond != 0).then(|| Obstacle {
            pid: Some(pid),
            object: format!("thread {}", thread.tid),
            reason: format!(
                "it uses instructions that {} does not have (state {beyond:#x}), and another CPU may lack",
                self.level
            ),
            remedy: "move it to a node with the same kind of CPU; the program chooses its code \
                     by CPUID: does it have a switch?"
                .into(),
            transient: false,
        })
    }

    fn altstack(&self, pid: Pid, thread: &Thread) -> Option<Obstacle> {
        let (size, needed) = (thread.altstack.size, self.here.signal_frame);
        let grows = needed > self.source.signal_frame;
        (grows && size > 0 && size < needed).then(|| Obstacle {
            pid: Some(pid),
            object: format!("alternate signal stack of thread {}", thread.tid),
            reason: format!("it has {size} bytes, and a signal frame needs {needed} there"),
            remedy: "move it to a node with the same kind of CPU".into(),
            transient: false,
        })
    }

    /// Frames of handlers that run, whose state would not come back here. `processes` are the
    /// frozen ones that have been made of the image.
    pub(crate) fn frames(&self, image: &JobImage, processes: &[(Pid, HostPid)]) -> Vec<Obstacle> {
        if self.here.xsave_size >= self.source.xsave_size {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (pid, process) in live(image) {
            let host = processes.iter().find(|(other, _)| *other == pid);
            let Some(memory) =
                host.and_then(|(_, host)| File::open(format!("/proc/{host}/mem")).ok())
            else {
                continue;
            };
            let caught = process.threads.iter().filter(|thread| {
                let stack = thread.registers[RSP];
                holds_frame(&read(&memory, stack), stack)
            });
            found.extend(caught.map(|thread| in_handler(pid, thread.tid)));
        }
        found
    }
}

fn in_handler(pid: Pid, tid: Pid) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("thread {tid}"),
        reason:
            "it is in a signal handler, and what it has interrupted uses more state of the CPU \
                 than a frame has at the destination"
                .into(),
        remedy: "try again when the handler has returned".into(),
        transient: true,
    }
}

fn live(image: &JobImage) -> impl Iterator<Item = (Pid, &LiveProcess)> {
    let processes = image.processes.iter();
    processes.filter_map(|process| match &process.kind {
        ProcessKind::Live(live) => Some((process.pid, &**live)),
        ProcessKind::Zombie { .. } => None,
    })
}

/// What there is at `address` and above it, as far as it is mapped.
fn read(memory: &File, address: u64) -> Vec<u8> {
    let mut bytes = vec![0; STACK_LOOKED_AT];
    let mut filled = 0;
    while filled < bytes.len() {
        match memory.read_at(&mut bytes[filled..], address + filled as u64) {
            Ok(more @ 1..) => filled += more,
            Ok(0) | Err(_) => break,
        }
    }
    bytes.truncate(filled);
    bytes
}

/// Whether a signal frame with more than x87 and SSE state in use is among the bytes
/// at `address`: struct _fpstate_64 with its struct _fpx_sw_bytes, at a multiple of 64.
fn holds_frame(bytes: &[u8], address: u64) -> bool {
    const ALIGNMENT: u64 = 64;
    let first = usize::try_from(address.next_multiple_of(ALIGNMENT) - address).unwrap_or(0);
    let step = usize::try_from(ALIGNMENT).unwrap_or(1);
    let places = (first..bytes.len()).step_by(step);
    places.into_iter().any(|at| is_frame(&bytes[at..]))
}

fn is_frame(area: &[u8]) -> bool {
    const SOFTWARE: usize = 464;
    const MAGIC1: u32 = 0x4650_5853;
    const MAGIC2: u32 = 0x4650_5845;
    const IN_USE: usize = 512;
    const LEGACY: u32 = 3;
    let word = |at: usize| {
        let bytes = area.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let size = word(SOFTWARE + 16).map_or(usize::MAX, |size| size as usize);
    word(SOFTWARE) == Some(MAGIC1)
        && word(size) == Some(MAGIC2)
        && word(IN_USE).is_some_and(|in_use| in_use & !LEGACY != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An area of `size` bytes with these components in use.
    fn frame(size: usize, in_use: u32) -> Vec<u8> {
        let mut area = vec![0; size + 4];
        let mut put = |at: usize, word: u32| area[at..at + 4].copy_from_slice(&word.to_le_bytes());
        put(464, 0x4650_5853);
        put(480, u32::try_from(size).unwrap());
        put(512, in_use);
        put(size, 0x4650_5845);
        area
    }

    #[test]
    fn a_frame_is_found_wherever_it_lies() {
        let stack = |frame: Vec<u8>| [vec![7; 40 + 640], frame, vec![9; 100]].concat();
        let address = 0x7ff0_0000_0018;
        assert!(holds_frame(&stack(frame(2696, 0xe7)), address));
        assert!(
            !holds_frame(&stack(frame(2696, 3)), address),
            "nothing would be lost"
        );
        assert!(
            !holds_frame(&stack(frame(2696, 0xe7)), address + 8),
            "it is not aligned"
        );
        let mut cut = stack(frame(2696, 7));
        cut.truncate(1500);
        assert!(!holds_frame(&cut, address));
        assert!(!holds_frame(&[], address));
    }
}

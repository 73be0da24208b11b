//! Live trees, frozen and captured: the image says what is so, and the tree
//! that is thawed has noticed nothing.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeMap, convert::Infallible, io, thread, time::Duration};

use common::{Victim, until};
use libmig::{
    capture::{BulkSink, Captured, Frozen, Tables, freeze},
    image::{BulkTarget, LiveProcess, Process, ProcessKind},
    inspect::process,
    sys::{HostPid, ptrace::reg},
};

/// Keeps every page.
#[derive(Default)]
struct Pages(BTreeMap<(i32, u64), Vec<u8>>, BTreeMap<(u32, u64), Vec<u8>>);

impl BulkSink for Pages {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        assert!(bytes.len().is_multiple_of(4096) && bytes.len() <= 1 << 20);
        for (index, page) in bytes.chunks(4096).enumerate() {
            let at = u64::try_from(index * 4096).unwrap();
            let known = match target {
                BulkTarget::Memory { pid, address } => {
                    self.0.insert((pid, address + at), page.to_vec())
                }
                BulkTarget::Shared { object, offset } => {
                    self.1.insert((object, offset + at), page.to_vec())
                }
                BulkTarget::File { .. } => panic!("no files here"),
            };
            assert_eq!(known, None, "a page was sent twice");
        }
        Ok(())
    }
}

fn capture(frozen: &mut Frozen) -> Captured {
    frozen
        .capture(|sources, _| {
            Ok::<_, Infallible>(Tables {
                descriptors: vec![Vec::new(); sources.len()],
                ..Tables::default()
            })
        })
        .unwrap()
}

fn live(process: &Process) -> &LiveProcess {
    match &process.kind {
        ProcessKind::Live(live) => live,
        ProcessKind::Zombie { .. } => panic!("a zombie"),
    }
}

fn settled(init: HostPid, how: &str) {
    if how != "spin" {
        until("it sleeps", || {
            process::children(init)
                .unwrap()
                .iter()
                .all(|child| process::stat(*child).unwrap().state == b'S')
        });
    }
}

#[test]
fn a_captured_program_notices_nothing() {
    for how in [
        "spin",
        "nanosleep",
        "poll",
        "ppoll",
        "clock_nanosleep-absolute",
        "epoll_wait",
        "sigtimedwait",
    ] {
        let victim = Victim::start_below_init("steady", &[how]);
        settled(victim.pid(), how);
        thread::sleep(Duration::from_millis(100));
        let mut frozen = freeze(victim.pid()).unwrap();
        let captured = capture(&mut frozen);
        let mut pages = Pages::default();
        frozen.send_memory(&captured, &mut pages).unwrap();
        frozen.thaw();
        victim.assert_unharmed();

        assert_eq!(captured.image.processes.len(), 1);
        let process = live(&captured.image.processes[0]);
        let registers = process.threads[0].registers;
        assert!(!pages.0.is_empty());
        match how {
            "spin" => assert_eq!(process.threads[0].sleep, None),
            "nanosleep" | "poll" => {
                let sleep = process.threads[0].sleep.unwrap();
                assert_eq!(registers[reg::RAX].cast_signed(), -514);
                assert_eq!(sleep.number, registers[reg::ORIG_RAX]);
                let elapsed = Duration::from_millis(700) - Duration::from_nanos(sleep.remaining_ns);
                assert!(
                    elapsed >= Duration::from_millis(95) && elapsed < Duration::from_millis(400),
                    "{how}: {elapsed:?}"
                );
            }
            _ => {
                assert_eq!(registers[reg::RAX].cast_signed(), -514, "{how}");
                assert_eq!(process.threads[0].sleep, None);
            }
        }
        // SIGTRAP, SIGUSR2 and SIGURG.
        assert_eq!(process.threads[0].sigmask, 1 << 4 | 1 << 11 | 1 << 22);
        assert_eq!(process.actions[4].handler, 1);
    }
}

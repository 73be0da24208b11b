//! A job that leaves and comes back, with the test as daemon of both nodes, as the
//! carrier between them, and as the program: it holds what the program would hold.

use std::{
    io::{PipeReader, PipeWriter, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
};

use libmig::{
    api::terminal::{FromJob, ToJob, Window},
    image::{Stdio, Tty},
    restore::RestoreHost,
};
use migd::capsule::{Event, Handle, Place};
use rustix::{
    process::{
        PidfdFlags, PidfdGetfdFlags, Signal, getpid, pidfd_getfd, pidfd_open, pidfd_send_signal,
    },
    termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr},
};

use crate::harness::{Job, Node, fresh_id, remove};

/// Pid of the process that stands for the main program.
const ZYGOTE: i32 = 4_000_001;

/// The job's place away from home.
struct Guest {
    handle: Handle,
    program: OwnedFd,
    _node: Node,
}

/// Originals of 0 and 1, out of the program, as at a departure.
fn originals(job: &mut Job) -> [Option<OwnedFd>; 3] {
    let main = job.handle.info().unwrap().main.unwrap();
    let take = |number| pidfd_getfd(&main, number, PidfdGetfdFlags::empty()).unwrap();
    [Some(take(0)), Some(take(1)), None]
}

fn zygote(handle: &mut Handle) -> OwnedFd {
    let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let pidfd = handle.zygote(ZYGOTE, me.as_fd()).unwrap();
    handle.main(ZYGOTE).unwrap();
    pidfd
}

/// Moves a job away; what the program holds there is `hold`'s to say.
fn leave<T>(job: &mut Job, pipes: bool, hold: impl FnOnce(&mut Handle) -> T) -> (Guest, T) {
    let main = job.handle.info().unwrap().main.unwrap();
    let lent = if pipes {
        originals(job)
    } else {
        [None, None, None]
    };
    let blob = job.handle.depart_prepare(lent).unwrap();
    assert!(job.handle.info().unwrap().info.held);
    let node = Node::new();
    let mut handle = node.launcher.spawn_guest(&fresh_id(), 0).unwrap();
    handle.arrive(blob).unwrap();
    let held = hold(&mut handle);
    let program = zygote(&mut handle);
    job.handle.depart_commit(1).unwrap();
    pidfd_send_signal(&main, Signal::KILL).unwrap();
    handle.arrive_commit(1).unwrap();
    assert_eq!(job.handle.info().unwrap().info.place, Place::Away);
    let mut guest = Guest {
        handle,
        program,
        _node: node,
    };
    connect(&mut job.handle, &mut guest.handle);
    (guest, held)
}

/// A carrier: the two inits at both ends of one socket.
fn connect(a: &mut Handle, b: &mut Handle) {
    let (x, y) = UnixStream::pair().unwrap();
    a.carrier(x).unwrap();
    b.carrier(y).unwrap();
}

/// A carrier that passes on `bytes` in all and then breaks.
fn connect_briefly(a: &mut Handle, b: &mut Handle, bytes: usize) {
    let (to_a, ours_a) = UnixStream::pair().unwrap();
    let (to_b, ours_b) = UnixStream::pair().unwrap();
    a.carrier(to_a).unwrap();
    b.carrier(to_b).unwrap();
    let copy = move |mut from: UnixStream, mut to: UnixStream| {
        let mut buffer = vec![0; bytes];
        let mut left = bytes;
        while left > 0
            && let Ok(length @ 1..) = from.read(&mut buffer[..left])
            && to.write_all(&buffer[..length]).is_ok()
        {
            left -= length;
        }
        from.shutdown(std::net::Shutdown::Both).ok();
        to.shutdown(std::net::Shutdown::Both).ok();
    };
    let (a2, b2) = (ours_a.try_clone().unwrap(), ours_b.try_clone().unwrap());
    let forth = thread::spawn(move || copy(ours_a, ours_b));
    copy(b2, a2);
    forth.join().unwrap();
}

/// Ends the program at the guest's place, and everything after it.
fn end(job: Job, mut guest: Guest) {
    pidfd_send_signal(&guest.program, Signal::TERM).unwrap();
    assert_eq!(job.end(), 15);
    let mut events = guest.handle.subscribe().unwrap();
    assert_eq!(events.next_event().unwrap(), Some(Event::Exited(15)));
    guest.handle.collect().unwrap();
    while events.next_event().unwrap().is_some() {}
    remove(guest.handle);
}

fn pipes(handle: &mut Handle) -> (PipeReader, PipeWriter) {
    (
        handle.stdio(Stdio::In).unwrap().into(),
        handle.stdio(Stdio::Out).unwrap().into(),
    )
}

fn read_exactly(from: &mut impl Read, length: usize) -> String {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn pipes_reach_the_program_wherever_it_is() {
    let node = Node::new();
    let mut job = node.exec(&["sleep", "1000"], false);
    let (guest, (mut stdin, mut stdout)) = leave(&mut job, true, pipes);
    job.stdin.as_mut().unwrap().write_all(b"question").unwrap();
    assert_eq!(read_exactly(&mut stdin, 8), "question");
    stdout.write_all(b"answer").unwrap();
    assert_eq!(read_exactly(job.stdout.as_mut().unwrap(), 6), "answer");
    drop(job.stdin.take());
    assert_eq!(stdin.read(&mut [0]).unwrap(), 0, "the end comes through");
    stdout.write_all(b"last").unwrap();
    drop(stdout);
    assert_eq!(job.read_out(), "last", "and the other way");
    end(job, guest);
}

#[test]
fn a_reader_that_goes_away_is_noticed_far_away() {
    let node = Node::new();
    let mut job = node.exec(&["sleep", "1000"], false);
    let (guest, (stdin, mut stdout)) = leave(&mut job, true, pipes);
    drop(job.stdout.take());
    let mut written = 0;
    while stdout.write_all(&[7; 4096]).is_ok() {
        written += 4096;
        assert!(written < 64 << 20, "nobody reads, nobody says so");
    }
    drop(stdin);
    let mut written = 0;
    while job.stdin.as_mut().unwrap().write_all(&[7; 4096]).is_ok() {
        written += 4096;
        assert!(written < 64 << 20, "nobody reads, nobody says so");
    }
    end(job, guest);
}

#[test]
fn a_broken_carrier_loses_nothing() {
    let node = Node::new();
    let mut job = node.exec(&["sleep", "1000"], false);
    let (mut guest, (mut stdin, mut stdout)) = leave(&mut job, true, pipes);
    let text: Vec<u8> = (0..600_000u32).map(|i| (i % 251) as u8).collect();
    let mut to_job = job.stdin.take().unwrap();
    let mut from_job = job.stdout.take().unwrap();
    let sent = text.clone();
    let writer = thread::spawn(move || to_job.write_all(&sent).unwrap());
    // The program: echoes what it reads.
    let program = thread::spawn(move || {
        std::io::copy(&mut stdin, &mut stdout).unwrap();
    });
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        from_job.read_to_end(&mut all).unwrap();
        all
    });
    for bytes in [1, 10, 100, 1000, 5000, 20_000, 70_000, 33_333, 100_001] {
        connect_briefly(&mut job.handle, &mut guest.handle, bytes);
    }
    connect(&mut job.handle, &mut guest.handle);
    writer.join().unwrap();
    program.join().unwrap();
    assert!(reader.join().unwrap() == text);
    end(job, guest);
}

#[test]
fn what_is_on_its_way_comes_home_in_order() {
    let node = Node::new();
    let mut job = node.exec(&["sleep", "1000"], false);
    let (mut guest, (mut stdin, mut stdout)) = leave(&mut job, true, pipes);
    job.stdin.as_mut().unwrap().write_all(b"one two ").unwrap();
    assert_eq!(
        read_exactly(&mut stdin, 4),
        "one ",
        "the rest waits in the guest's pipe"
    );
    stdout.write_all(b"written-away ").unwrap();
    let blob = guest.handle.depart_prepare([None, None, None]).unwrap();
    job.stdin.as_mut().unwrap().write_all(b"three ").unwrap();
    job.handle.arrive(blob).unwrap();
    let (mut stdin, mut stdout) = pipes(&mut job.handle);
    let program = zygote(&mut job.handle);
    guest.handle.depart_commit(2).unwrap();
    pidfd_send_signal(&guest.program, Signal::KILL).unwrap();
    job.handle.arrive_commit(2).unwrap();
    job.stdin.as_mut().unwrap().write_all(b"four").unwrap();
    assert_eq!(read_exactly(&mut stdin, 14), "two three four");
    stdout.write_all(b"written-at-home").unwrap();
    assert_eq!(
        read_exactly(job.stdout.as_mut().unwrap(), 28),
        "written-away written-at-home"
    );
    assert_eq!(job.handle.info().unwrap().info.place, Place::Home);
    drop((job.stdin.take(), stdout));
    assert_eq!(stdin.read(&mut [0]).unwrap(), 0);
    pidfd_send_signal(&program, Signal::TERM).unwrap();
    drop(stdin);
    assert_eq!(job.read_out(), "");
    assert_eq!(job.end(), 15);
    // Its init ends by itself once its copy is dead.
    if let Ok(mut events) = guest.handle.subscribe() {
        while events.next_event().unwrap().is_some() {}
    }
    remove(guest.handle);
}

#[test]
fn a_terminal_works_from_afar() {
    let node = Node::new();
    let mut job = node.exec(&["sleep", "1000"], true);
    let tty = Tty {
        index: 3,
        console: true,
        termios: vec![],
        window: [30, 100, 0, 0],
        session: 1,
        foreground: 0,
        locked: false,
        packet_mode: false,
        exclusive: false,
        owner: (0, 5, 0o620),
        input: vec![],
        output: vec![],
        slave_open: true,
        hung_up: false,
    };
    let (guest, slave) = leave(&mut job, false, |handle| handle.console(&tty).unwrap());
    assert_eq!(guest_index(guest.handle.attach_path()), None);
    let mut modes = tcgetattr(&slave).unwrap();
    modes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &modes).unwrap();
    job.face().type_in("typed");
    let mut program = std::fs::File::from(slave);
    assert_eq!(read_exactly(&mut program, 5), "typed");
    program.write_all(b"shown").unwrap();
    job.face().expect("shown");
    let window = Window {
        rows: 9,
        columns: 99,
        x_pixels: 0,
        y_pixels: 0,
    };
    job.face().say(&ToJob::Window(window));
    job.face().type_in("!");
    assert_eq!(
        read_exactly(&mut program, 1),
        "!",
        "after the window, in order"
    );
    assert_eq!(tcgetwinsize(&program).unwrap().ws_row, 9);
    program.write_all(b"bye").unwrap();
    pidfd_send_signal(&guest.program, Signal::STOP).unwrap();
    job.face().expect("bye");
    assert_eq!(job.face().next(), FromJob::Stopped(19));
    job.face().say(&ToJob::Continue { foreground: true });
    assert_eq!(job.face().next(), FromJob::Continued);
    end(job, guest);
}

/// A guest takes no users: its terminal is at home.
fn guest_index(path: std::path::PathBuf) -> Option<u32> {
    let mut face = crate::harness::Face::connect(path, libmig::api::terminal::Role::Attach);
    assert!(matches!(face.next(), FromJob::Refused(_)));
    None
}

#[test]
fn an_aborted_departure_changes_nothing() {
    let node = Node::new();
    let mut job = node.exec(&["cat"], false);
    let lent = originals(&mut job);
    job.handle.depart_prepare(lent).unwrap();
    assert!(
        job.handle.depart_prepare([None, None, None]).is_err(),
        "one at a time"
    );
    job.face().say(&ToJob::Signal(10));
    job.handle.depart_abort().unwrap();
    assert!(job.handle.depart_abort().is_err());
    // SIGUSR1 waited for the decision, and kills cat: it closes its pipes.
    assert_eq!(job.read_out(), "");
    assert_eq!(job.end(), 10);
}

#[test]
fn an_aborted_arrival_leaves_the_guest_in_charge() {
    let node = Node::new();
    let mut job = node.exec(&["sleep", "1000"], false);
    let (mut guest, (mut stdin, stdout)) = leave(&mut job, true, pipes);
    job.stdin.as_mut().unwrap().write_all(b"abc").unwrap();
    assert_eq!(read_exactly(&mut stdin, 1), "a");
    let blob = guest.handle.depart_prepare([None, None, None]).unwrap();
    job.handle.arrive(blob).unwrap();
    drop(pipes(&mut job.handle));
    job.handle.arrive_abort().unwrap();
    guest.handle.depart_abort().unwrap();
    assert_eq!(read_exactly(&mut stdin, 2), "bc");
    job.stdin.as_mut().unwrap().write_all(b"d").unwrap();
    assert_eq!(read_exactly(&mut stdin, 1), "d");
    drop(stdout);
    end(job, guest);
}

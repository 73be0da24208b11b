//! Jobs that never leave home.

use std::{
    fs,
    io::{Read, Write},
    time::{Duration, Instant},
};

use libmig::api::terminal::{FromJob, Role, ToJob, Window};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::harness::{Face, Job, Node};

fn exited(code: i32) -> i32 {
    code << 8
}

#[test]
fn pipes_are_the_programs_own() {
    let node = Node::new();
    let mut job = node.exec(&["cat"], false);
    job.stdin.take().unwrap().write_all(b"hello").unwrap();
    assert_eq!(job.read_out(), "hello");
    assert_eq!(job.end(), exited(0));
}

#[test]
fn a_reader_sees_the_end_when_the_program_closes_its_output() {
    let node = Node::new();
    let mut job = node.exec(&["sh", "-c", "echo x; exec >&-; read line; exit 3"], false);
    assert_eq!(job.read_out(), "x\n", "the end came while the program runs");
    drop(job.stdin.take());
    assert_eq!(job.end(), exited(3));
}

#[test]
fn a_writer_sees_the_end_when_the_program_closes_its_input() {
    let node = Node::new();
    let mut job = node.exec(&["sh", "-c", "exec <&-; echo closed; exec sleep 30"], false);
    let mut word = [0; 7];
    job.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
    let error = job.stdin.as_mut().unwrap().write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    job.face().say(&ToJob::Signal(15));
    assert_eq!(job.end(), 15);
}

#[test]
fn exit_codes_and_signals_come_through() {
    let node = Node::new();
    assert_eq!(node.exec(&["sh", "-c", "exit 42"], false).end(), exited(42));
    assert_eq!(node.exec(&["sh", "-c", "kill -9 $$"], false).end(), 9);
    for (argv, code) in [("/etc/passwd", 126), ("no-such-program", 127)] {
        let mut job = node.exec(&[argv], false);
        let told = job.face().next();
        assert!(
            matches!(&told, FromJob::Failed { code: c, message } if *c == code && message.contains(argv)),
            "{told:?}"
        );
        assert_eq!(job.end(), exited(code));
    }
}

#[test]
fn the_world_inside_is_the_hosts_with_pids_of_its_own() {
    let node = Node::new();
    let script = "echo $$ $PPID; pwd; hostname; ls /proc | grep -c '^[0-9]'; ls /dev/shm | wc -l; \
        test -e /dev/pts/ptmx && echo pts; cut -d' ' -f5-6 /proc/$$/stat; ulimit -n; umask; nice";
    let mut job = node.exec(&["sh", "-c", script], false);
    let out = job.read_out();
    let lines: Vec<_> = out.lines().collect();
    let [pids, cwd, host, processes, shm, pts, group, files, ..] = lines[..] else {
        panic!("{out}")
    };
    assert_eq!(pids, "2 1");
    assert_eq!(cwd, "/tmp");
    let ours = nix::unistd::gethostname().unwrap();
    assert_eq!(host, ours.to_str().unwrap());
    assert!(processes.parse::<u32>().unwrap() < 8);
    assert_eq!((shm, pts), ("0", "pts"));
    assert_eq!(
        group, "2 1",
        "a process group of its own in the init's session"
    );
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(
        files,
        limit
            .current
            .map_or("unlimited".to_owned(), |n| n.to_string())
    );
    assert_eq!(job.end(), exited(0));
}

#[test]
fn only_the_job_leaf_of_the_cgroup_holds_the_job() {
    let node = Node::new();
    let mut job = node.exec(&["sh", "-c", "grep ^0: /proc/self/cgroup; read x"], false);
    let report = job.handle.info().unwrap();
    assert_eq!((report.info.main, report.info.status), (Some(2), None));
    assert!(report.main.is_some());
    let count = |leaf: &str| {
        let path = job
            .handle
            .job_cgroup()
            .unwrap()
            .parent()
            .unwrap()
            .join(leaf);
        fs::read_to_string(path.join("cgroup.procs"))
            .unwrap()
            .lines()
            .count()
    };
    assert_eq!(count("init"), 1);
    assert!(count("job") >= 1);
    drop(job.stdin.take());
    let path = job.read_out();
    assert!(
        path.trim().ends_with(&format!("/mig/{}/job", job.id)),
        "{path}"
    );
    assert_eq!(job.end(), exited(1));
}

#[test]
fn a_terminal_is_a_terminal() {
    let node = Node::new();
    let mut job = node.exec(&["sh"], true);
    job.face().type_in("stty size; tty; echo in-$((40+2))\n");
    job.face().expect("30 100");
    job.face().expect("/dev/pts/0");
    job.face().expect("in-42");
    let window = Window {
        rows: 7,
        columns: 55,
        x_pixels: 0,
        y_pixels: 0,
    };
    job.face().say(&ToJob::Window(window));
    job.face().type_in("stty size\n");
    job.face().expect("7 55");
    job.face().type_in("exit 5\n");
    assert_eq!(job.end(), exited(5));
}

/// The kernel keeps O_CLOEXEC of TIOCGPTPEER in the open file description, where a capture
/// would read it as the flag of every descriptor.
#[test]
fn no_descriptor_of_the_terminal_seems_to_be_close_on_exec() {
    let node = Node::new();
    let mut job = node.exec(&["sh", "-c", "echo $(grep flags /proc/$$/fdinfo/0)."], true);
    job.face().expect("flags: ");
    job.face().expect(".");
    let shown = job.face().shown();
    let word = shown
        .trim()
        .trim_start_matches("flags: ")
        .trim_end_matches('.');
    let flags = i32::from_str_radix(word, 8).unwrap();
    assert_eq!(flags & 0o2_000_000, 0, "{shown}");
    assert_eq!(job.end(), exited(0));
}

#[test]
fn an_interrupt_typed_reaches_the_foreground_program() {
    let node = Node::new();
    let mut job = node.exec(
        &[
            "sh",
            "-c",
            "trap 'echo got-it; exit 9' INT; echo ready; while :; do sleep 0.05; done",
        ],
        true,
    );
    job.face().expect("ready");
    job.face().type_in("\x03");
    job.face().expect("got-it");
    assert_eq!(job.end(), exited(9));
}

#[test]
fn stopping_and_continuing_are_told() {
    let node = Node::new();
    let mut job = node.exec(
        &["sh", "-c", "echo ready; while :; do sleep 0.05; done"],
        true,
    );
    job.face().expect("ready");
    job.face().type_in("\x1a");
    assert_eq!(job.face().next(), FromJob::Stopped(20));
    assert_eq!(job.handle.info().unwrap().info.stopped, Some(20));
    job.face().say(&ToJob::Continue { foreground: true });
    assert_eq!(job.face().next(), FromJob::Continued);
    job.face().say(&ToJob::Signal(15));
    assert_eq!(job.end(), 15);
}

#[test]
fn a_background_reader_is_stopped_until_it_gets_the_terminal() {
    let node = Node::new();
    let mut job = node.exec_in_background(&["sh", "-c", "read line; echo read-$line"]);
    assert_eq!(job.face().next(), FromJob::Stopped(21));
    job.face().say(&ToJob::Continue { foreground: true });
    assert_eq!(job.face().next(), FromJob::Continued);
    job.face().type_in("text\n");
    job.face().expect("read-text");
    assert_eq!(job.end(), exited(0));
}

#[test]
fn a_user_that_vanishes_hangs_up() {
    let node = Node::new();
    let script = "trap 'exit 7' HUP; echo ready; while :; do sleep 0.05; done";
    for on_terminal in [true, false] {
        let mut job = node.exec(&["sh", "-c", script], on_terminal);
        if on_terminal {
            job.face().expect("ready");
        } else {
            job.stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut [0; 6])
                .unwrap();
        }
        job.face = None;
        job.collect(exited(7));
    }
}

#[test]
fn a_detached_job_keeps_its_last_output_for_whoever_attaches() {
    let node = Node::new();
    let mut job = node.exec(
        &[
            "sh",
            "-c",
            "echo first; read line; echo then-$line; read again",
        ],
        true,
    );
    job.face().expect("first");
    job.face().say(&ToJob::Detach);
    job.face = None;
    let path = job.handle.attach_path();
    let deadline = Instant::now() + Duration::from_secs(10);
    while job.handle.info().unwrap().info.attached {
        assert!(Instant::now() < deadline, "still attached");
    }
    let mut face = Face::connect(path.clone(), Role::Attach);
    face.expect("first");
    let mut second = Face::connect(path, Role::Attach);
    assert!(
        matches!(second.next(), FromJob::Refused(_)),
        "one at a time"
    );
    face.type_in("more\n");
    face.expect("then-more");
    drop(face);
    assert_eq!(job.handle.info().unwrap().info.status, None, "it runs on");
    job.handle.signal(9).unwrap();
    job.collect(9);
}

#[test]
fn a_daemon_that_comes_back_finds_the_job_and_its_end() {
    let node = Node::new();
    let mut job = node.exec(&["sh", "-c", "read line; exit 4"], false);
    let folder = node.launcher.folder(&job.id);
    let init = job.handle.info().unwrap().init;
    let Job {
        handle,
        events,
        face,
        stdin,
        ..
    } = job;
    drop((handle, events));
    drop(stdin);
    let mut face = face.unwrap();
    assert_eq!(
        face.next(),
        FromJob::Exited(exited(4)),
        "no daemon is needed for that"
    );
    assert_eq!(
        fs::read_to_string(folder.join("status")).unwrap(),
        exited(4).to_string()
    );
    let mut handle = migd::capsule::Handle::connect(&folder).unwrap();
    assert_eq!(handle.info().unwrap().info.status, Some(exited(4)));
    let mut events = handle.subscribe().unwrap();
    handle.collect().unwrap();
    drop(face);
    while events.next_event().unwrap().is_some() {}
    crate::harness::remove(handle);
    let mut set = [PollFd::new(&init, PollFlags::IN)];
    assert_eq!(
        poll(
            &mut set,
            Some(&Timespec {
                tv_sec: 10,
                tv_nsec: 0
            })
        ),
        Ok(1),
        "the init has ended"
    );
}

#[test]
fn an_orphan_keeps_the_capsule_alive_and_no_longer() {
    let node = Node::new();
    let mut job = node.exec(&["sh", "-c", "exec 3<&0; (read x <&3) & exit 0"], false);
    assert_eq!(job.face().next(), FromJob::Exited(exited(0)));
    job.handle.collect().unwrap();
    assert!(job.handle.info().is_ok(), "an orphan is left");
    drop(job.stdin.take());
    while job.events.next_event().unwrap().is_some() {}
    crate::harness::remove(job.handle);
}

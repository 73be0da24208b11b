//! Real processes in states that cannot move: each is named, and what can move
//! is not. Nothing of the machine but children of the test is touched.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod oddity;

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use libmig::{
    api::Obstacle,
    inspect::{
        preflight::{preflight_process, preflight_tree},
        process,
    },
    sys::HostPid,
};
use oddity::{Oddity, Program, wait_for};

const NEWTIME: &str = "80";
const FILES: &str = "400";
const FS: &str = "200";
const VM: &str = "100";

fn texts(obstacles: &[Obstacle]) -> Vec<String> {
    for obstacle in obstacles {
        assert!(!obstacle.remedy.is_empty(), "{obstacle}");
    }
    obstacles.iter().map(ToString::to_string).collect()
}

/// What stands in the way of a process; the test stands for its capsule's init.
fn obstacles(process: HostPid) -> Vec<String> {
    texts(&preflight_process(process, HostPid::own()))
}

/// Brings a program into a state and checks that this, and nothing else, is named.
fn assert_refused(program: &Program, args: &[&str], expected: &str) {
    let Some(odd) = Oddity::start(program, args) else {
        println!("{args:?}: not to be had on this machine");
        return;
    };
    let found = obstacles(odd.pid());
    assert!(!found.is_empty(), "{args:?} is not refused");
    for text in found {
        assert!(text.contains(expected), "{args:?}: {text}");
    }
}

#[test]
fn what_an_ordinary_program_does_is_no_obstacle() {
    let program = Program::compile();
    let odd = Oddity::start(&program, &["plenty"]).unwrap();
    assert_eq!(obstacles(odd.pid()), [""; 0]);
    assert_eq!(texts(&preflight_tree(odd.pid())), [""; 0]);
    let tree = process::tree(odd.pid());
    assert_eq!(tree.len(), 3, "a zombie, a stopped child, a session");
    for (host, _) in tree {
        assert_eq!(texts(&preflight_process(host, odd.pid())), [""; 0]);
    }
}

#[test]
fn sandboxes_are_no_obstacle() {
    let program = Program::compile();
    for mode in ["strict", "filter"] {
        let odd = Oddity::start(&program, &[mode]).unwrap();
        assert_eq!(obstacles(odd.pid()), [""; 0], "{mode}");
    }
}

#[test]
fn a_tracer_is_named() {
    let program = Program::compile();
    let odd = Oddity::start(&program, &["traced"]).unwrap();
    let (child, _) = process::tree(odd.pid())[0];
    let found = obstacles(child).join("\n");
    assert!(
        found.contains(&format!("(process {})", odd.pid())),
        "{found}"
    );
    assert!(found.contains("traced by"), "{found}");
}

#[test]
fn namespaces_of_its_own_are_named() {
    let program = Program::compile();
    let time = "another time (for its children) namespace";
    assert_refused(&program, &["unshare", NEWTIME], time);
    for flag in [
        "20000", "2000000", "4000000", "8000000", "10000000", "20000000", "40000000",
    ] {
        let odd = Oddity::start(&program, &["unshare", flag]).unwrap();
        assert_eq!(obstacles(odd.pid()), [""; 0]);
    }
    let thread = &["unshare-thread", "4000000"];
    assert_refused(&program, thread, "in other namespaces than its process");
    let odd = Oddity::start(&program, &["unshare-child", NEWTIME]).unwrap();
    let (child, _) = process::tree(odd.pid())[0];
    assert_eq!(obstacles(child), [""; 0]);
}

#[test]
fn what_threads_must_share_and_processes_must_not() {
    let program = Program::compile();
    assert_refused(
        &program,
        &["unshare-thread", FILES],
        "a descriptor table of its own",
    );
    assert_refused(
        &program,
        &["unshare-thread", FS],
        "a current directory and umask of its own",
    );
    for (flag, what) in [
        (VM, "shares its address space with process"),
        (FILES, "shares its descriptor table with process"),
        (FS, "shares its current directory and umask with process"),
    ] {
        let Some(odd) = Oddity::start(&program, &["clone", flag]) else {
            continue;
        };
        let found = obstacles(odd.pid());
        assert!(found.iter().any(|text| text.contains(what)), "{found:?}");
        let all = texts(&preflight_tree(HostPid::own()));
        let told = all.iter().filter(|text| text.contains(what)).count();
        assert_eq!(told, 1, "each pair once: {all:?}");
    }
}

#[test]
fn a_vfork_passes() {
    let program = Program::compile();
    let odd = Oddity::start(&program, &["vfork"]).unwrap();
    let init = HostPid::own();
    let found = preflight_process(odd.pid(), init);
    assert!(found.iter().all(|obstacle| obstacle.transient), "{found:?}");
    assert!(
        texts(&found).iter().any(|text| text.contains("vfork")),
        "{found:?}"
    );
    let (child, _) = process::tree(odd.pid())[0];
    let of_child = preflight_process(child, init);
    assert!(
        of_child.iter().all(|obstacle| obstacle.transient),
        "{of_child:?}"
    );
}

#[test]
fn a_thread_that_cannot_be_woken_is_named_and_so_is_a_stranger() {
    let program = Program::compile();
    let odd = Oddity::start(&program, &["vfork"]).unwrap();
    let elsewhere = Oddity::start(&program, &["nothing"]).unwrap();
    let found = preflight_process(odd.pid(), elsewhere.pid());
    let of = |what: &str| found.iter().find(|obstacle| obstacle.reason.contains(what));
    assert!(of("uninterruptible").unwrap().transient, "{found:?}");
    assert!(!of("outside of the job").unwrap().transient, "{found:?}");
}

#[test]
fn a_stop_that_not_all_threads_follow_is_named() {
    let program = Program::compile();
    let odd = Oddity::start(&program, &["vfork"]).unwrap();
    odd.signal(rustix::process::Signal::STOP);
    wait_for("it stops", || {
        process::stat(odd.pid()).unwrap().state == b'T'
    });
    let found = obstacles(odd.pid()).join("\n");
    assert!(
        found.contains("other threads of its process are not yet"),
        "{found}"
    );
}

#[test]
fn a_dead_leader_with_live_threads_is_named() {
    let program = Program::compile();
    let odd = Oddity::start(&program, &["leaderless"]).unwrap();
    wait_for("the leader ends", || {
        process::stat(odd.pid()).unwrap().state == b'Z'
    });
    let found = obstacles(odd.pid()).join("\n");
    assert!(found.contains("main thread has ended"), "{found}");
}

#[test]
fn mappings_that_cannot_move_are_named() {
    let program = Program::compile();
    for (args, expected) in [
        (&["faults"][..], "userfaultfd"),
        (&["ring"], "has closed its descriptor"),
        (&["packets"], "it maps a socket"),
        (&["segment"], "System V shared memory of the node"),
        (&["aio"], "asynchronous I/O"),
        (&["secret"], "secret memory"),
        (&["pkey"], "memory protection key"),
    ] {
        assert_refused(&program, args, expected);
    }
}

#[test]
fn a_mapped_file_needs_a_name_only_if_others_may_see_what_is_written() {
    let program = Program::compile();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let odd = Oddity::start(&program, &["file", path.to_str().unwrap()]).unwrap();
    assert_eq!(obstacles(odd.pid()), [""; 0]);
    let other = folder.path().join("other");
    fs::write(&other, [0; 4096]).unwrap();
    let link = folder.path().join("link");
    fs::hard_link(&path, &link).unwrap();
    fs::rename(&other, &path).unwrap();
    let found = obstacles(odd.pid()).join("\n");
    assert!(found.contains("other links of it exist"), "{found}");
    fs::remove_file(&link).unwrap();
    assert_eq!(obstacles(odd.pid()), [""; 0]);
}

#[test]
fn timers_and_policies_of_this_node_are_named() {
    let program = Program::compile();
    assert_refused(&program, &["thread-clock"], "one of several threads");
    assert_refused(&program, &["dead-target"], "is to notify has ended");
    assert_refused(&program, &["deadline"], "SCHED_DEADLINE");
}

#[test]
fn directories_must_be_found_by_name() {
    let program = Program::compile();
    let folder = tempfile::tempdir().unwrap();
    let cwd = folder.path().join("cwd");
    fs::create_dir(&cwd).unwrap();
    assert_refused(&program, &["cwd", cwd.to_str().unwrap()], "cwd ");

    let copy = folder.path().join("program");
    fs::copy(program.path(), &copy).unwrap();
    let odd = Oddity::start(&Program::at(&copy), &["nothing"]).unwrap();
    assert_eq!(obstacles(odd.pid()), [""; 0]);
    fs::remove_file(&copy).unwrap();
    assert_eq!(obstacles(odd.pid()), [""; 0], "its contents travel");
}

#[test]
fn another_root_directory_is_no_obstacle() {
    let program = Program::compile();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let odd = Oddity::start(&program, &["chroot", path]).unwrap();
    assert_eq!(obstacles(odd.pid()), [""; 0]);
}

#[test]
fn a_32_bit_program_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small");
    fs::write(&path, oddity::elf32()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let Some(odd) = Oddity::start(&Program::at(&path), &[]) else {
        println!("this kernel runs no 32-bit programs");
        return;
    };
    let found = obstacles(odd.pid()).join("\n");
    assert!(found.contains("32-bit program"), "{found}");
}

#[test]
fn what_belongs_to_the_capsule_is_named() {
    const SCRIPT: &str = "mount -t tmpfs none /dev && mkdir /dev/shm && \
        mount -t tmpfs none /dev/shm && \
        mknod /dev/shm/left c 1 3 && echo ready && exec sleep 1000";
    let mut command = Command::new("unshare");
    command.args(["-p", "-f", "-m", "-i", "--kill-child", "sh", "-c", SCRIPT]);
    let Some(odd) = Oddity::run(command) else {
        println!("this machine has no unshare");
        return;
    };
    let (init, _) = process::tree(odd.pid())[0];
    let mut command = Command::new("nsenter");
    command.args(["-p", "-t", &init.to_string(), "sh", "-c"]);
    command.arg("echo ready; exec sleep 1000");
    let guest = Oddity::run(command).unwrap();
    let found = texts(&preflight_tree(init)).join("\n");
    for expected in ["device /dev/shm/left", "outside of the job"] {
        assert!(found.contains(expected), "{expected} is not in\n{found}");
    }
    drop(guest);
}

#[test]
fn a_process_that_left_the_control_group_of_its_job_is_named() {
    let Some(group) = oddity::Group::new() else {
        println!("no cgroup v2 here");
        return;
    };
    let program = Program::compile();
    let init = Oddity::start(&program, &["unshare-child", "0"]).unwrap();
    let (child, _) = process::tree(init.pid())[0];
    group.put("init", init.pid());
    group.put("job", child);
    assert_eq!(texts(&preflight_process(child, init.pid())), [""; 0]);
    group.put("elsewhere", child);
    let found = texts(&preflight_process(child, init.pid())).join("\n");
    assert!(found.contains("has left the control group"), "{found}");
}

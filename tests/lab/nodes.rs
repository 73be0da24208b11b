//! What a node is to those who live in it.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use mig_tests::lab::{Lab, Node, SHARED, binary, eventually};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn a_node_is_a_machine_of_its_own() {
    let lab = Lab::up_with(2, &["--bare"]);
    let views = ["n1", "n2"].map(|name| {
        let node = lab.node(name);
        assert_eq!(node.sh("hostname"), format!("{name}\n"));
        assert!(node.sh("tr '\\0' ' ' < /proc/1/cmdline").contains("internal-node"));
        assert_eq!(node.sh("ls /sys/class/net").split_whitespace().collect::<Vec<_>>(), ["eth0", "lo"]);
        assert_eq!(node.sh("ls -A /run /tmp").lines().filter(|line| line.contains("mig-lab")).count(), 0);
        assert_eq!(node.sh("cat /proc/self/cgroup | grep ^0::"), "0::/\n");
        node.sh("readlink /proc/self/ns/net /proc/self/ns/pid /proc/self/ns/mnt /proc/self/ns/uts /proc/self/ns/ipc /proc/self/ns/cgroup")
    });
    let all: BTreeSet<_> = views.iter().flat_map(|view| view.lines()).collect();
    assert_eq!(all.len(), 12, "namespaces are shared: {views:?}");
}

#[test]
fn files_are_the_nodes_own_and_shared_is_shared() {
    let lab = Lab::up_with(2, &["--bare"]);
    let (n1, n2) = (lab.node("n1"), lab.node("n2"));
    let _ = n1
        .sh("for dir in /etc /usr/lib /tmp /run /var/tmp /dev/shm; do echo n1 > $dir/of-n1; done");
    let _ = n2.sh("! ls /etc/of-n1 /usr/lib/of-n1 /tmp/of-n1 /run/of-n1 /var/tmp/of-n1 /dev/shm/of-n1 2>&1 | grep -v 'No such'");
    assert!(
        !std::path::Path::new("/etc/of-n1").exists(),
        "a node wrote to the machine"
    );

    let _ = n1.sh(&format!(
        "echo hello > {SHARED}/file; chmod 600 {SHARED}/file"
    ));
    assert_eq!(n2.sh(&format!("cat {SHARED}/file")), "hello\n");
    let seen = |node: Node<'_>| node.sh(&format!("stat -c '%d %i %a %Y' {SHARED}/file"));
    assert_eq!(seen(n1), seen(n2));
}

#[test]
fn the_machines_files_are_seen_and_cannot_be_changed() {
    let lab = Lab::up_with(1, &["--bare"]);
    let before = std::fs::metadata("/etc/passwd").unwrap();
    let _ = lab
        .node("n1")
        .sh("grep -q ^root: /etc/passwd; echo x >> /etc/passwd; rm /etc/hostname");
    let after = std::fs::metadata("/etc/passwd").unwrap();
    assert_eq!((before.len(), before.mtime()), (after.len(), after.mtime()));
}

#[test]
fn nodes_take_cpus_in_turn() {
    let lab = Lab::up_with(3, &["--bare"]);
    let masks = ["n1", "n2", "n3"].map(|name| {
        lab.node(name)
            .sh("grep ^Cpus_allowed_list /proc/self/status")
    });
    let machine = procfs::process::Process::myself()
        .unwrap()
        .status()
        .unwrap();
    if machine
        .cpus_allowed_list
        .unwrap()
        .iter()
        .map(|(first, last)| last - first + 1)
        .sum::<u32>()
        > 1
    {
        assert_ne!(masks[0], masks[1]);
        assert!(lab.status().nodes.iter().all(|node| node.cpu.is_some()));
    } else {
        assert_eq!(masks[0], masks[1]);
    }
}

#[test]
fn a_command_behaves_as_it_does_here() {
    let lab = Lab::up_with(1, &["--bare"]);
    let node = lab.node("n1");
    assert_eq!(node.run(&["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(
        node.run(&["sh", "-c", "kill -TERM $$"]).status.code(),
        Some(128 + 15)
    );
    assert_eq!(node.run(&["no-such-program"]).status.code(), Some(127));
    assert_eq!(node.run(&["/etc/passwd"]).status.code(), Some(126));
    let who = node.command_as("nobody", &["id", "-un"]).output().unwrap();
    assert_eq!(who.stdout, b"nobody\n");
    let stranger = node.command_as("nobody-at-all", &["id"]).output().unwrap();
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("no user nobody-at-all"));

    let mut cat = node.spawn(&["cat"]);
    cat.stdin.take().unwrap().write_all(b"through\n").unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"through\n");
}

#[test]
fn signals_reach_a_command() {
    let lab = Lab::up_with(1, &["--bare"]);
    let mut shell = lab.node("n1").spawn(&[
        "sh",
        "-c",
        "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done",
    ]);
    let mut line = String::new();
    BufReader::new(shell.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    kill(
        Pid::from_raw(i32::try_from(shell.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(shell.wait().unwrap().code(), Some(9));
}

#[test]
fn a_command_at_a_terminal_has_a_terminal_of_the_node() {
    let lab = Lab::up_with(1, &["--bare"]);
    let shell = format!(
        "stty rows 33 cols 77; {} lab --name {} shell n1 -- bash -ic 'tty; stty size; sleep 0.1 & jobs; exit 5'",
        binary("mig").display(),
        lab.name()
    );
    let output = Command::new("script")
        .args(["-qec", &shell, "/dev/null"])
        .stdin(Stdio::null())
        .output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/dev/pts/"), "{text}");
    assert!(text.contains("33 77"), "{text}");
    assert!(text.contains("Running"), "{text}");
    assert!(!text.contains("job control"), "{text}");
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn orphans_are_reaped() {
    let lab = Lab::up_with(1, &["--bare"]);
    let node = lab.node("n1");
    let orphan = node.sh("sh -c 'sleep 0.05 >/dev/null & echo $!'");
    let state = format!("cat /proc/{}/stat 2>/dev/null || true", orphan.trim());
    eventually("the orphan is reaped", || node.sh(&state).is_empty());
    assert_eq!(
        node.sh("grep -l '^State:.Z' /proc/[0-9]*/status || true"),
        ""
    );
}

/// One end of a TCP connection between two nodes, told what to do line by line.
struct End {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl End {
    fn start(node: Node<'_>, program: &str) -> Self {
        let mut child = node.spawn(&["python3", "-uc", program]);
        let (stdin, stdout) = (
            child.stdin.take().expect("a pipe"),
            child.stdout.take().expect("a pipe"),
        );
        Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("read its answer");
        line.trim().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").expect("ask it");
        self.hear()
    }
}

const ECHO: &str = "
import socket
s = socket.create_server(('', 5000)); print('ready')
c, _ = s.accept()
while data := c.recv(100): c.sendall(data)
";

const ASKER: &str = "
import socket, sys
s = socket.create_connection(('n2', 5000)); print('ready')
for line in sys.stdin:
    word, patience = line.split()
    s.settimeout(float(patience))
    if word != '-': s.sendall(word.encode())
    try: print(s.recv(100).decode())
    except TimeoutError: print('silence')
";

#[test]
fn a_cut_is_silent_and_heals() {
    let lab = Lab::up_with(3, &["--bare"]);
    let mut echo = End::start(lab.node("n2"), ECHO);
    assert_eq!(echo.hear(), "ready");
    let mut asker = End::start(lab.node("n1"), ASKER);
    assert_eq!(asker.hear(), "ready");
    assert_eq!(asker.ask("one 5"), "one");

    lab.cut("n2", "n1");
    assert_eq!(lab.status().cuts, [("n1".to_owned(), "n2".to_owned())]);
    assert_eq!(asker.ask("two 0.7"), "silence");
    let probe = "import socket; socket.create_connection(('n2', 5000), 0.5)";
    let blocked = lab.node("n1").run(&["python3", "-c", probe]);
    assert!(String::from_utf8_lossy(&blocked.stderr).contains("timed out"));
    let others = lab.node("n3").run(&["python3", "-c", probe]);
    assert!(others.status.success(), "n3 was cut off too");

    lab.heal();
    assert_eq!(lab.status().cuts, []);
    assert_eq!(asker.ask("- 30"), "two", "the connection did not live on");
    drop(asker.stdin);
    assert!(asker.child.wait().unwrap().success());
    assert!(echo.child.wait().unwrap().success());
}

#[test]
fn nodes_and_pairs_that_are_not_there_are_refused() {
    let lab = Lab::up_with(1, &["--bare"]);
    for (arguments, says) in [
        (vec!["cut", "n1", "n1"], "from itself"),
        (vec!["cut", "n1", "n2"], "no node n2"),
        (vec!["shell", "n9", "--", "true"], "no node n9"),
        (vec!["shell", "x", "--", "true"], "is called n1"),
        (vec!["up", "0"], "1 to 64"),
    ] {
        let output = lab.command(&arguments).output().unwrap();
        assert!(!output.status.success());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(says), "{arguments:?}: {errors}");
    }
}

#[test]
fn migd_dies_and_comes_back() {
    let lab = Lab::up(2);
    let node = lab.node("n1");
    let first = node.status();
    assert!(first.migd, "up returns when every migd answers");
    let pid = first.migd_pid.expect("it runs");
    let masks = node.sh(&format!("grep -E '^Sig(Blk|Ign)' /proc/{pid}/status"));
    assert!(
        masks
            .lines()
            .any(|line| line == "SigBlk:\t0000000000000000"),
        "{masks}"
    );
    node.kill_migd();
    let dead = node.status();
    assert!(!dead.migd && dead.migd_pid.is_none());
    assert!(lab.node("n2").status().migd);
    node.start_migd();
    let second = node.status();
    assert!(second.migd && second.migd_pid != first.migd_pid);
    lab.down_and_check();
}

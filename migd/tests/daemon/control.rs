//! The local socket: users and their jobs, and messages that break the rules.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use libmig::api::exec::{ExecRequest, StdioKind};
use libmig::api::local::{self, LocalHello, REPLY_MAX, REQUEST_MAX};
use libmig::api::{
    ClientError, Code, ExitStatus, FromDaemon, JobId, MoveMode, MoveRequest, Reply, Request, Target,
};
use serde_bytes::ByteBuf;

use crate::fixture::{Authority, Node, Noise, cluster, eventually, read_to_close, unique_name};

/// A user without jobs.
const NOBODY: u32 = 65534;

fn one() -> (Authority, Node) {
    let authority = Authority::new();
    let mut node = cluster(&authority, &[&unique_name()]).remove(0);
    node.start();
    (authority, node)
}

fn exec(node: &Node, argv: &[&str], name: Option<&str>) -> JobId {
    let request = Request::Exec(ExecRequest {
        argv: argv.iter().map(|word| ByteBuf::from(*word)).collect(),
        env: vec![ByteBuf::from("PATH=/usr/bin:/bin")],
        stdio: [StdioKind::Descriptor; 3],
        terminal: None,
        detach: true,
        name: name.map(str::to_owned),
        node: None,
        pin: false,
        cpu: None,
    });
    let root = std::fs::File::open("/").unwrap();
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let fds = [root.as_fd(), null.as_fd(), null.as_fd(), null.as_fd()];
    match node.client().ask_with_fds(&request, &fds, |_| {}).unwrap() {
        Reply::Exec(reply) => reply.job,
        other => panic!("{other:?}"),
    }
}

fn failure(result: Result<Reply, ClientError>) -> Code {
    match result {
        Err(ClientError::Failed(failure)) => failure.code,
        other => panic!("{other:?}"),
    }
}

fn wait(node: &Node, job: &JobId) -> ExitStatus {
    let request = Request::Wait {
        target: Target::Job(job.clone()),
    };
    match node.client().ask(&request, |_| {}).unwrap() {
        Reply::Exited(exit) => exit.status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_is_listed_signalled_and_waited_for() {
    let (_authority, node) = one();
    let job = exec(&node, &["sleep", "1000"], Some("nap"));
    assert_eq!(job.to_string(), format!("{}-1", node.name));
    let Reply::Jobs(jobs) = node
        .client()
        .ask(&Request::Ps { all: false }, |_| {})
        .unwrap()
    else {
        panic!("no jobs")
    };
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].command.as_str(), jobs[0].uid), ("sleep 1000", 0));
    let kill = Request::Kill {
        target: "nap".parse().unwrap(),
        signal: 15,
    };
    assert_eq!(
        node.client().ask(&kill, |_| {}).unwrap(),
        Reply::Killed(job.clone())
    );
    assert_eq!(wait(&node, &job), ExitStatus::Signal(15));
    let second = exec(&node, &["sh", "-c", "exit 7"], None);
    assert_eq!(second.to_string(), format!("{}-2", node.name));
    assert_eq!(wait(&node, &second), ExitStatus::Code(7));
    eventually("nothing is left of them", || {
        std::fs::read_dir(node.dir.path().join("run/jobs"))
            .unwrap()
            .count()
            == 0
    });
}

#[test]
fn a_daemon_that_was_killed_finds_its_jobs_again() {
    let (_authority, mut node) = one();
    let job = exec(&node, &["sh", "-c", "sleep 1.5; exit 9"], None);
    let quick = exec(&node, &["sh", "-c", "sleep 0.1; exit 3"], None);
    node.kill();
    std::thread::sleep(Duration::from_millis(300)); // the quick one ends meanwhile
    node.start();
    assert_eq!(wait(&node, &quick), ExitStatus::Code(3));
    assert_eq!(wait(&node, &job), ExitStatus::Code(9));
    assert_eq!(
        exec(&node, &["true"], None).number,
        3,
        "numbers count for ever"
    );
}

/// Re-runs this very test as another user: the kernel tells the daemon who asks.
#[test]
fn users_act_on_their_own_jobs_only() {
    if let Ok(socket) = std::env::var("MIG_TEST_SOCKET") {
        return as_nobody(socket.as_ref());
    }
    let (_authority, node) = one();
    let job = exec(&node, &["sleep", "1000"], Some("nap"));
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "control::users_act_on_their_own_jobs_only",
            "--exact",
            "--nocapture",
        ])
        .env("MIG_TEST_SOCKET", node.socket())
        .env("MIG_TEST_JOB", job.to_string())
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{errors}"
    );
    let kill = Request::Kill {
        target: Target::Job(job.clone()),
        signal: 9,
    };
    node.client().ask(&kill, |_| {}).unwrap();
    assert_eq!(wait(&node, &job), ExitStatus::Signal(9));
}

fn as_nobody(socket: &std::path::Path) {
    let mut client = libmig::api::Client::connect(socket).unwrap();
    let job: Target = std::env::var("MIG_TEST_JOB").unwrap().parse().unwrap();
    let requests = [
        Request::Kill {
            target: job.clone(),
            signal: 9,
        },
        Request::Wait {
            target: job.clone(),
        },
        Request::Why {
            target: job.clone(),
            to: None,
        },
        Request::Where {
            target: job.clone(),
        },
        Request::Attach {
            target: job.clone(),
        },
        Request::Move(MoveRequest {
            target: job,
            to: None,
            mode: MoveMode::Auto,
        }),
    ];
    for request in requests {
        assert_eq!(
            failure(client.ask(&request, |_| {})),
            Code::NotYours,
            "{request:?}"
        );
    }
    // Another user's names are not even there.
    let named = Request::Where {
        target: "nap".parse().unwrap(),
    };
    assert_eq!(failure(client.ask(&named, |_| {})), Code::NotFound);
    let Reply::Jobs(own) = client.ask(&Request::Ps { all: false }, |_| {}).unwrap() else {
        panic!("no listing")
    };
    assert!(own.is_empty());
}

#[test]
fn unknown_things_are_clear_errors() {
    let (_authority, node) = one();
    let mut client = node.client();
    let target = |text: &str| text.parse::<Target>().unwrap();
    let ours = format!("{}-99", node.name);
    for unknown in [ours.as_str(), "n9-1", "nobody", "2147483646", "1"] {
        let code = failure(client.ask(
            &Request::Where {
                target: target(unknown),
            },
            |_| {},
        ));
        assert_eq!(code, Code::NotFound, "{unknown}");
    }
    let job = exec(&node, &["sleep", "1000"], None);
    let to = |node: &str| {
        let to = Some(node.parse().unwrap());
        Request::Move(MoveRequest {
            target: Target::Job(job.clone()),
            to,
            mode: MoveMode::Auto,
        })
    };
    assert_eq!(failure(client.ask(&to("n9"), |_| {})), Code::NotFound);
    assert_eq!(failure(client.ask(&to(&node.name), |_| {})), Code::Usage);
    let nonsense = Request::Kill {
        target: Target::Job(job.clone()),
        signal: 0,
    };
    assert_eq!(failure(client.ask(&nonsense, |_| {})), Code::Usage);
    let kill = Request::Kill {
        target: Target::Job(job),
        signal: 9,
    };
    client.ask(&kill, |_| {}).unwrap();
}

fn greeted(node: &Node) -> UnixStream {
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    local::send(&mut stream, &LocalHello::ours(None), REQUEST_MAX).unwrap();
    let hello: LocalHello = local::receive(&mut stream, REPLY_MAX).unwrap();
    assert_eq!(hello.node.as_deref(), Some(node.name.as_str()));
    stream
}

#[test]
fn malformed_messages_close_their_connection_and_nothing_else() {
    let (_authority, mut node) = one();
    // Announced too long: refused before a byte of it is read.
    let mut stream = greeted(&node);
    stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
    let FromDaemon::Failed(failure) = local::receive(&mut stream, REPLY_MAX).unwrap() else {
        panic!("no failure")
    };
    assert_eq!(failure.code, Code::Protocol);
    assert!(
        failure.causes.concat().contains("longer than the limit"),
        "{failure:?}"
    );
    assert_eq!(read_to_close(&mut stream), b"");
    let mut noise = Noise(3);
    for round in 0..300 {
        let mut stream = if round % 2 == 0 {
            greeted(&node)
        } else {
            UnixStream::connect(node.socket()).unwrap()
        };
        let len = usize::try_from(noise.next() % 200).unwrap();
        let mut bytes = noise.bytes(len);
        if round % 3 == 0 {
            let header = u32::try_from(len).unwrap().to_le_bytes();
            bytes.splice(0..0, header);
        }
        drop(stream.write_all(&bytes));
        drop(stream.shutdown(std::net::Shutdown::Write));
        read_to_close(&mut stream);
    }
    // Forty at once announce 32 MiB each and send little of it.
    let half_told: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = greeted(&node);
            stream.write_all(&REQUEST_MAX.to_le_bytes()).unwrap();
            stream.write_all(b"[[[[").unwrap();
            stream
        })
        .collect();
    node.alive();
    assert_eq!(node.nodes().len(), 1, "it serves others still");
    assert!(node.peak_memory() < 200 << 20, "{}", node.peak_memory());
    drop(half_told);
}

#[test]
fn another_local_version_gets_a_hello_and_no_more() {
    let (_authority, node) = one();
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    let hello = LocalHello {
        protocol: 99,
        ..LocalHello::ours(None)
    };
    local::send(&mut stream, &hello, REQUEST_MAX).unwrap();
    let theirs: LocalHello = local::receive(&mut stream, REPLY_MAX).unwrap();
    assert_eq!(theirs.protocol, local::PROTOCOL);
    assert_eq!(read_to_close(&mut stream), b"");
}

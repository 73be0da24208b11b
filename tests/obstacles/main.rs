//! What stands in the way of a move is named, all of it and before anything is
//! frozen, whichever node it is found on; and the job runs on.

mod room;

use std::process::Output;

use mig_tests::job::Job;
use mig_tests::lab::{Lab, Node};

/// Runs `setup` in a folder of its node, then ticks until it is told to stop.
fn start<'a>(lab: &'a Lab, name: &str, setup: &str) -> Job<'a> {
    let script = format!(
        "mkdir -p /opt/job && cd /opt/job || exit 1\n{setup}\necho ready; tick=0\n\
         until read -r -t 0.02 line; do tick=$((tick+1)); echo tick $tick; done\n\
         kill $(jobs -p) 2>/dev/null; echo PASS"
    );
    let argv = ["bash", "-c", &script].map(str::to_owned);
    let job = Job::start_argv(lab, "n1", name, &argv).expect("it starts");
    job.running.wait_ready().expect("it is ready");
    job
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether the daemons have come to the failpoint `name`, which was armed.
fn came_to(node: Node<'_>, name: &str) -> bool {
    let mark = format!("/run/mig/failpoints.{name}.hit");
    node.run(&["test", "-e", &mark]).status.success()
}

/// The obstacles that `mig why` lists, as one text; they are reasons not to move.
fn why(lab: &Lab, job: &str, to: &str) -> (Option<i32>, String) {
    let output = lab.node("n1").mig(&["why", job, to]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text + &stderr(&output))
}

fn assert_names(text: &str, expected: &[&str]) {
    for words in expected {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    assert!(!text.contains("roken pipe"), "{text}");
}

fn assert_runs_on(job: &Job<'_>) {
    let seen = job.running.ticks();
    job.running.wait_tick_after(seen + 1).expect("it runs on");
}

#[test]
fn files_that_the_destination_lacks_are_all_named_before_the_freeze() {
    let lab = Lab::up(2);
    let job = start(
        &lab,
        "lacking",
        "echo gone >gone; echo long >longer; echo file >folder; mkdir here
         cp /bin/sleep program; ./program 1000 3<gone 4<longer 5<folder & cd here",
    );
    let (n1, n2) = (lab.node("n1"), lab.node("n2"));
    drop(n2.sh("mkdir -p /opt/job/folder; echo longer >/opt/job/longer"));
    let expected = [
        "fd 3 (/opt/job/gone): it is not there",
        "fd 4 (/opt/job/longer): it has 7 bytes at the destination and 5 at the source",
        "fd 5 (/opt/job/folder): it is a directory at the destination and a regular file",
        "program /opt/job/program: it is not there",
        "current directory /opt/job/here: it is not there",
    ];
    assert_refused(&lab, &job, "lacking", &expected);

    drop(n2.sh(
        "cd /opt/job; rmdir folder; mkdir here; echo gone >gone; echo long >longer
         echo file >folder; cp /bin/sleep program",
    ));
    assert_eq!(why(&lab, "lacking", "n2").0, Some(0));
    job.move_to("n2").expect("nothing is missing now");
    assert!(came_to(n1, "source.prepared"));
    assert_runs_on(&job);
    assert_eq!(job.node().unwrap(), "n2");
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

/// `mig why` names all of it, and so does `mig move`, which freezes nothing for that.
fn assert_refused(lab: &Lab, job: &Job<'_>, name: &str, expected: &[&str]) {
    let (code, text) = why(lab, name, "n2");
    assert_eq!(code, Some(3), "{text}");
    assert_names(&text, expected);
    let n1 = lab.node("n1");
    drop(n1.sh("echo 'source.prepared stall 0' >/run/mig/failpoints"));
    let refused = job.try_move("n2");
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert_names(&stderr(&refused), expected);
    assert!(!came_to(n1, "source.prepared"), "it was about to be frozen");
    assert_runs_on(job);
}

/// What a job has made in /tmp goes along, but takes no name from anybody.
#[test]
fn a_name_that_is_taken_is_told_before_the_freeze() {
    let lab = Lab::up(2);
    let (n1, n2) = (lab.node("n1"), lab.node("n2"));
    let there = |node: Node<'_>, path: &str| node.run(&["test", "-e", path]).status.success();
    drop(n1.sh("echo older >/tmp/older"));
    let setup =
        "exec 3<>/tmp/own 4</tmp/older; mkdir /tmp/made; exec 5>/tmp/made/log; echo own >&3";
    let job = start(&lab, "own", setup);
    drop(n2.sh("mkdir /opt/job; echo another >/tmp/own"));
    let expected = [
        "fd 3 (/tmp/own): another file at the destination has that name",
        "fd 4 (/tmp/older): it is not there",
    ];
    let refused = job.try_move("n2");
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert_names(&stderr(&refused), &expected);
    assert!(!stderr(&refused).contains("/tmp/made"));
    drop(n2.sh("rm /tmp/own; echo older >/tmp/older"));
    // What fails later leaves nothing there.
    drop(n2.sh("echo 'destination.image error' >/run/mig/failpoints"));
    assert!(!job.try_move("n2").status.success());
    assert!(!there(n2, "/tmp/made") && !there(n2, "/tmp/own"));
    assert!(there(n1, "/tmp/made/log") && there(n1, "/tmp/own"));
    job.move_to("n2").expect("nothing is in the way");
    assert_eq!(n2.sh("cat /tmp/own; ls -A /tmp/made"), "own\nlog\n");
    assert!(!there(n1, "/tmp/made/log") && !there(n1, "/tmp/own"));
    assert_runs_on(&job);
    job.move_to("n1").expect("it comes back");
    assert_eq!(n1.sh("cat /tmp/own; ls -A /tmp/made"), "own\nlog\n");
    assert!(!there(n2, "/tmp/own"));
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

/// Its memory takes a while to send: the destination gives up in the middle of it.
#[test]
fn what_only_the_build_finds_is_told_by_its_name() {
    let lab = Lab::up(2);
    let fill = "ballast=$(head -c 60000000 /dev/zero | tr '\\0' x)";
    let job = start(&lab, "late", &format!("echo one >log; exec 3>>log; {fill}"));
    let n2 = lab.node("n2");
    // A log may grow while the destination looks: its size is compared at the freeze.
    drop(n2.sh("mkdir -p /opt/job; echo other >/opt/job/log"));
    assert_eq!(why(&lab, "late", "n2").0, Some(0));
    for _ in 0..3 {
        let refused = job.try_move("n2");
        assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
        let reason = "file /opt/job/log: it has 6 bytes at the destination and 4 at the source";
        assert_names(&stderr(&refused), &[reason]);
        assert_runs_on(&job);
    }
    // What goes away after the offer is found, too.
    drop(
        n2.sh("echo one >/opt/job/log; echo 'destination.reserved stall 400' >/run/mig/failpoints"),
    );
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| job.try_move("n2"));
        mig_tests::lab::eventually("it is reserved", || came_to(n2, "destination.reserved"));
        drop(n2.sh("rm /opt/job/log"));
        let refused = moving.join().unwrap();
        assert_names(
            &stderr(&refused),
            &["file /opt/job/log: it is not there at the destination"],
        );
    });
    assert_runs_on(&job);
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

#[test]
fn an_address_that_somebody_at_the_destination_has_is_named_before_the_freeze() {
    let lab = Lab::up(2);
    let serve = "python3 -m http.server --bind 127.0.0.1 8090 >/dev/null 2>&1 </dev/null &
         echo $! >/run/server
         until curl -sf -o /dev/null http://127.0.0.1:8090/; do sleep 0.05; done";
    let job = start(&lab, "port", serve);
    let n2 = lab.node("n2");
    drop(n2.sh(&format!("mkdir -p /opt/job; {serve}")));
    let expected = ["network address 127.0.0.1:8090: somebody at the destination has it"];
    assert_refused(&lab, &job, "port", &expected);
    drop(n2.sh("kill $(cat /run/server); while kill -0 $(cat /run/server) 2>/dev/null; do sleep 0.05; done"));
    let moved = job.try_move("n2");
    assert!(moved.status.success(), "{}", stderr(&moved));
    assert_eq!(
        n2.sh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8090/")
            .trim(),
        "200"
    );
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

#[test]
fn what_cannot_leave_is_named_also_when_the_destination_is_down() {
    let lab = Lab::up(2);
    let job = start(&lab, "socket", "exec 3<>/dev/tcp/10.77.0.1/7440");
    lab.node("n2").kill_migd();
    let refused = job.try_move("n2");
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert_names(&stderr(&refused), &["fd 3 (socket)"]);
    mig_tests::lab::eventually("n1 knows that n2 is down", || {
        let (code, text) = why(&lab, "socket", "n2");
        code == Some(3) && text.contains("fd 3 (socket)") && text.contains("node n2: ")
    });
    assert_runs_on(&job);
    lab.node("n2").start_migd();
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

/// Nobody but the process itself can find out, and it gives back what it has taken.
#[test]
fn what_a_thread_gives_back_alone_is_named_and_nothing_changes() {
    const TAKER: &str = "import ctypes, threading, time
c = ctypes.CDLL(None); shorts = ctypes.c_short * 3
sem = c.semget(0, 2, 0o1600); c.semop(sem, ctypes.byref(shorts(1, 5, 0)), 1)
def work():
    c.unshare(0x40000); done = c.semop(sem, ctypes.byref(shorts(1, -2, 0x1000)), 1)
    open('value', 'w').write(str(done))
    while c.semctl(sem, 1, 12) == 3: time.sleep(0.01)
    open('changed', 'w')
threading.Thread(target=work).start()";
    let lab = Lab::up(2);
    drop(lab.node("n2").sh("mkdir -p /opt/job"));
    let taker = format!("python3 -c \"{TAKER}\" & until [ -s value ]; do sleep 0.01; done");
    let job = start(&lab, "taker", &taker);
    for _ in 0..3 {
        let refused = job.try_move("n2");
        assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
        let names = ["its threads do not share what SEM_UNDO adjusts"];
        assert_names(&stderr(&refused), &names);
        assert_runs_on(&job);
    }
    let left = "cd /opt/job; cat value; [ ! -e changed ]";
    assert_eq!(lab.node("n1").sh(left), "0");
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

#[test]
fn a_queue_that_tells_of_its_next_message_is_named() {
    const TOLD: &str = "import ctypes, time
c = ctypes.CDLL(None); queue = c.mq_open(b'/told', 0o102, 0o600, None)
event = (ctypes.c_int * 16)(); event[3] = 1
done = c.mq_notify(queue, ctypes.byref(event)); open('told', 'w').write(str(done))
time.sleep(1000)";
    let lab = Lab::up(2);
    drop(lab.node("n2").sh("mkdir -p /opt/job"));
    let told = format!("python3 -c \"{TOLD}\" & until [ -s told ]; do sleep 0.01; done");
    let job = start(&lab, "told", &told);
    assert_eq!(lab.node("n1").sh("cat /opt/job/told"), "0");
    let (code, text) = why(&lab, "told", "n2");
    assert_eq!(code, Some(3), "{text}");
    assert_names(&text, &["POSIX message queue /told", "mq_notify"]);
    let refused = job.try_move("n2");
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert_runs_on(&job);
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

/// A service of the node, as a system log or a display is one.
#[test]
fn a_socket_towards_a_stranger_is_named() {
    const SERVICE: &str = "import socket
listener = socket.socket(socket.AF_UNIX); listener.bind('service'); listener.listen()
open('listening', 'w'); peer, _ = listener.accept(); open('accepted', 'w'); peer.recv(1)";
    const CLIENT: &str = "import socket, time
client = socket.socket(socket.AF_UNIX); client.connect('service'); time.sleep(1000)";
    let lab = Lab::up(2);
    let wait = |file: &str| format!("until [ -e {file} ]; do sleep 0.01; done");
    drop(lab.node("n1").sh(&format!(
        "mkdir -p /opt/job; cd /opt/job; python3 -c \"{SERVICE}\" >/dev/null 2>&1 </dev/null & \
         cd /opt/job; {}",
        wait("listening")
    )));
    let client = format!("python3 -c \"{CLIENT}\" & {}", wait("accepted"));
    let job = start(&lab, "client", &client);
    let refused = job.try_move("n2");
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert_names(
        &stderr(&refused),
        &[
            "fd 3 (socket:[",
            ": its other end is held by a process that is not part of the job",
        ],
    );
    assert_runs_on(&job);
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

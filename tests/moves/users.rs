//! Jobs of ordinary users: what they are allowed, and who may act on them.

use std::process::{Output, Stdio};

use mig_tests::job::MoveReport;
use mig_tests::lab::Lab;
use mig_tests::workload::Running;

/// Exit codes of docs/exit-codes.md.
const NOT_YOURS: i32 = 5;

/// Ticks for as long as everything that /proc says of its rights stays the same; counts a real-time signal.
const PROGRAM: &str = r#"
got=0
trap 'got=$((got+1)); echo signal $got' RTMIN+3
rights() {
  while read -r key value; do
    case $key in Uid:|Gid:|Groups:|Cap*|NoNewPrivs:) echo $key $value;; esac
  done </proc/$BASHPID/status
  ulimit -a; ulimit -Ha; umask
}
first=$(rights)
[[ $first == *'Uid: 65534 65534 65534 65534'* ]] || echo "FAIL: $first"
[[ $first == *'CapEff: 0000000000000000'* ]] || echo "FAIL: $first"
echo ready
tick=0
until read -r -t 0.02 line && [ $line = stop ]; do
  now=$(rights)
  [ "$now" = "$first" ] || { echo "FAIL: $(diff <(echo "$first") <(echo "$now") | tr '\n' ' ')"; exit 1; }
  echo tick $((++tick))
done
[ $got = 4 ] && echo PASS || echo FAIL: $got signals"#;

fn mig_as(lab: &Lab, node: &str, user: &str, arguments: &[&str]) -> Output {
    let mut argv = vec!["mig"];
    argv.extend(arguments);
    let output = lab.node(node).command_as(user, &argv).output();
    output.expect("start mig")
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// A job of `nobody` on n1, with limits of its own.
fn start(lab: &Lab) -> Running {
    let exec = r#"ulimit -n 321; ulimit -c 0; ulimit -S -s 4096; umask 027; exec mig exec --name mine -- bash -c "$0""#;
    let argv = ["bash", "-c", exec, PROGRAM].map(str::to_owned);
    let running = Running::launch(&argv, |argv| {
        let mut command = lab.node("n1").command_as("nobody", argv);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(piped.spawn()?)
    });
    let running = running.expect("it starts");
    running.wait_ready().expect("it is ready");
    running
}

/// The job's ID.
fn id(lab: &Lab) -> String {
    let listed = mig_as(lab, "n1", "nobody", &["ps", "--json"]);
    let jobs: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).expect("a list");
    jobs[0]["job"].as_str().expect("an ID").to_owned()
}

#[test]
fn a_job_of_an_ordinary_user_keeps_its_rights_and_its_owner() {
    let lab = Lab::up(3);
    let running = start(&lab);
    let job = id(&lab);
    for node in ["n2", "n3", "n1"] {
        let seen = running.ticks();
        let moved = mig_as(&lab, "n1", "nobody", &["move", "--json", "mine", node]);
        let report: MoveReport =
            serde_json::from_slice(&moved.stdout).unwrap_or_else(|_| panic!("{}", said(&moved)));
        assert_eq!(report.to, node);
        let seen = running.wait_tick_after(seen).expect("it has its rights");
        running.wait_tick_after(seen).expect("it has its rights");
        strangers_are_refused(&lab, &job);
        if node != "n1" {
            // Wherever the job is, and whoever is asked.
            let sent = mig_as(&lab, "n3", "nobody", &["kill", "--signal", "37", &job]);
            assert!(sent.status.success(), "{}", said(&sent));
            // To `mig exec` itself, which passes it on.
            let kill = ["bash", "-c", "kill -37 $(pgrep -u nobody -x mig)"];
            let sent = lab.node("n1").run(&kill);
            assert!(sent.status.success(), "{}", said(&sent));
        }
    }
    let root = lab.node("n2").mig(&["move", "--json", &job, "n2"]);
    assert!(root.status.success(), "{}", said(&root));
    let seen = running.ticks();
    running.wait_tick_after(seen).expect("it has its rights");
    let outcome = running.finish().expect("it ends");
    outcome.expect_pass().expect("it passes");
    // How it ended is nobody else's business either.
    assert_eq!(
        mig_as(&lab, "n1", "daemon", &["wait", &job]).status.code(),
        Some(NOT_YOURS)
    );
    for user in ["nobody", "root"] {
        let waited = mig_as(&lab, "n1", user, &["wait", &job]);
        assert!(waited.status.success(), "{user}: {}", said(&waited));
    }
}

fn strangers_are_refused(lab: &Lab, job: &str) {
    let requests: [&[&str]; 4] = [
        &["move", job, "n2"],
        &["kill", job],
        &["wait", job],
        &["why", job],
    ];
    for node in ["n1", "n2"] {
        for request in requests {
            assert_not_yours(&mig_as(lab, node, "daemon", request), request);
        }
    }
    // It wants a terminal, before it asks.
    let attach = format!("mig attach {job}");
    let script = [
        "env",
        "SHELL=/bin/sh",
        "script",
        "-qec",
        &attach,
        "/dev/null",
    ];
    let attached = lab.node("n1").command_as("daemon", &script).output();
    assert_not_yours(&attached.expect("start mig"), &script);
}

fn assert_not_yours(refused: &Output, request: &[&str]) {
    let code = refused.status.code();
    assert_eq!(code, Some(NOT_YOURS), "{request:?}: {}", said(refused));
}

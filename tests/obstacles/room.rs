//! What a destination has no room for, and whom it does not accept.

use mig_tests::lab::{Lab, eventually};

use super::{assert_names, assert_refused, assert_runs_on, start, why};

/// All of it in one go, and again when the job is to move.
#[test]
fn what_the_destination_has_no_room_for_is_named_before_the_freeze() {
    let lab = Lab::up(2);
    let ballast = "ballast=$(head -c 30000000 /dev/zero | tr '\\0' x)";
    let job = start(&lab, "large", &format!("ulimit -S -n 1000; {ballast}"));
    let (n1, n2) = (lab.node("n1"), lab.node("n2"));
    n2.kill_migd();
    drop(n2.sh(
        "mkdir -p /opt/job; sed -i 's/^accept_root = .*/accept_root = false/' /etc/mig/migd.toml
         sed 's/^MemAvailable:.*/MemAvailable: 20000 kB/; s/^SwapFree:.*/SwapFree: 0 kB/' \
             /proc/meminfo >/tmp/meminfo
         mount --bind /tmp/meminfo /proc/meminfo",
    ));
    n2.start_migd();
    let migd = n2.status().migd_pid.expect("it runs");
    drop(n2.sh(&format!("prlimit --pid {migd} --nofile=900:900")));
    let connected = || !why(&lab, "large", "n2").1.contains("node n2: ");
    eventually("n1 knows that n2 is up", connected);

    let expected = [
        "limit NOFILE: it is 1000, and no more than 900 can be had on n2",
        "memory: the job has ",
        " MiB, and n2 has 19 MiB to give",
        "node n2 accepts no jobs of root",
    ];
    assert_refused(&lab, &job, "large", &expected);

    // The same of a process that is part of no job.
    let process = n1.sh("ulimit -S -n 1000; sleep 1000 >/dev/null 2>&1 & echo $!");
    let (code, text) = why(&lab, process.trim(), "n2");
    assert_eq!(code, Some(3), "{text}");
    assert_names(&text, &[expected[0], expected[3]]);

    n2.kill_migd();
    drop(n2.sh(
        "umount /proc/meminfo; sed -i 's/^accept_root = .*/accept_root = true/' /etc/mig/migd.toml",
    ));
    n2.start_migd();
    eventually("nothing is in the way", || {
        why(&lab, "large", "n2").0 == Some(0)
    });
    job.move_to("n2").expect("there is room now");
    assert_runs_on(&job);
    job.finish().unwrap().expect_pass().unwrap();
    lab.down_and_check();
}

//! Real programs, captured in mid-work in one capsule and put into another.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "other tests use more of the capsule")]

mod capsule;

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use capsule::{Capsule, NoHost, Source, until};
use libmig::{
    capture::{
        BulkSink, Captured, Frozen,
        files::{self, CapsuleStdio, FileSource},
        freeze,
    },
    image::BulkTarget,
    inspect::maps,
    restore::prepare,
    sys::HostPid,
};

#[test]
fn role() {
    capsule::play_role();
}

#[derive(Default)]
struct Contents(Vec<(BulkTarget, Vec<u8>)>);

impl BulkSink for Contents {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        self.0.push((target, bytes.to_vec()));
        Ok(())
    }
}

/// What lives below `init`, stopped, and all that is to be sent of it.
fn capture(init: HostPid) -> (Frozen, Captured, Contents) {
    let mut frozen = freeze(init).unwrap();
    let captured = frozen.capture(|sources, shared| {
        let sources: Vec<FileSource<'_>> = sources.iter().map(FileSource::from).collect();
        files::capture(
            &sources,
            &CapsuleStdio::default(),
            shared,
            &mut files::NoHold,
        )
        .map(|tables| tables.split().0)
    });
    let captured = captured.unwrap();
    let mut contents = Contents::default();
    frozen.send_memory(&captured, None, &mut contents).unwrap();
    (frozen, captured, contents)
}

/// Moves the program `command` once it has made `marker`, and returns what it
/// then writes to `result`.
fn moved(command: &str, folder: &Path) -> String {
    let source = Source::new(command);
    until("the program to be at work", || {
        folder.join("marker").exists().then_some(())
    });
    let (frozen, captured, contents) = capture(source.init);
    let before: Vec<Vec<String>> = frozen.processes().map(outline).collect();
    let result = folder.join("result");
    assert!(!result.exists(), "the program ended too early");

    let capsule = Capsule::new();
    let mut building = prepare(&capsule.reference())
        .unwrap()
        .build(&captured.image, &mut NoHost)
        .unwrap();
    for (target, bytes) in &contents.0 {
        building.bulk(*target, bytes).unwrap();
    }
    let complete = building.finish(&captured.image).unwrap();
    let mut after: Vec<Vec<String>> = complete
        .processes()
        .iter()
        .map(|(_, host)| outline(*host))
        .collect();
    let mut before = before;
    before.sort();
    after.sort();
    assert_eq!(before, after);
    drop(frozen);
    drop(source);
    assert!(!result.exists(), "the original wrote the result");
    complete.release().unwrap();
    until("the result", || {
        fs::read_to_string(&result)
            .ok()
            .filter(|text| text.ends_with('\n'))
    })
}

/// Addresses, protection and names of the mappings.
fn outline(pid: HostPid) -> Vec<String> {
    let areas = maps::read(pid).unwrap();
    let shown = areas.iter().map(|a| {
        format!(
            "{:x}-{:x} {} {}",
            a.start,
            a.end,
            a.protection,
            a.name.escape_ascii()
        )
    });
    shown.collect()
}

fn write_script(folder: &Path, text: &str) -> String {
    let path = folder.join("program");
    fs::write(&path, text.replace("FOLDER", folder.to_str().unwrap())).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_shell_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let script = write_script(
        folder.path(),
        "cd /; >FOLDER/marker; for ((i = 0; i < 300000; i++)); do s=$((s + i % 7)); done; echo $s >FOLDER/result",
    );
    let expected: u64 = (0..300_000).map(|i| i % 7).sum();
    assert_eq!(
        moved(&format!("bash {script}"), folder.path()),
        format!("{expected}\n")
    );
}

#[test]
fn a_tree_of_shells_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let script = write_script(
        folder.path(),
        "{ cd /; for n in 1 2 3; do
           (for ((i = 0; i < 150000; i++)); do s=$((s + i % 7)); done; echo $s >FOLDER/$n; exit $((n + 200))) &
           pids+=($!)
         done
         >FOLDER/marker
         for pid in ${pids[@]}; do wait $pid; t=\"$t $?\"; done
         echo $t >FOLDER/result; exit; }",
    );
    assert_eq!(
        moved(&format!("bash {script}"), folder.path()),
        "201 202 203\n"
    );
    let expected: u64 = (0..150_000).map(|i| i % 7).sum();
    for n in 1..=3 {
        assert_eq!(
            fs::read_to_string(folder.path().join(n.to_string())).unwrap(),
            format!("{expected}\n")
        );
    }
}

#[test]
fn python_threads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let script = write_script(
        folder.path(),
        "
import threading, time, hashlib, os
os.chdir('/')
results = {}
started = threading.Barrier(5)
def work(n):
    digest = hashlib.sha256()
    started.wait()
    for i in range(60):
        digest.update(b'%d %d' % (n, i))
        time.sleep(0.01)
        sum(range(20000))
    results[n] = digest.hexdigest()
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for t in threads: t.start()
started.wait()
clock = time.monotonic()
open('FOLDER/marker', 'w').close()
for t in threads: t.join()
def expected(n):
    digest = hashlib.sha256()
    for i in range(60): digest.update(b'%d %d' % (n, i))
    return digest.hexdigest()
good = all(results[n] == expected(n) for n in range(4)) and 0.5 < time.monotonic() - clock < 30
open('FOLDER/result', 'w').write('good\\n' if good else 'bad %r\\n' % results)
",
    );
    assert_eq!(moved(&format!("python3 {script}"), folder.path()), "good\n");
}

#[test]
fn a_pipeline_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let script = write_script(
        folder.path(),
        "cd /
         (for ((i = 0; i < 60000; i++)); do echo $i; [ $i = 5000 ] && >FOLDER/marker; done) | sort -n | tail -n 1 >FOLDER/last
         cat FOLDER/last >FOLDER/result",
    );
    assert_eq!(moved(&format!("bash {script}"), folder.path()), "59999\n");
}

/// Each move finds the sleep restarted by the one before.
#[test]
fn a_sleep_is_moved_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = write_script(
        folder.path(),
        "cd /; began=$(date +%s%N); >FOLDER/marker; sleep 2; echo $((($(date +%s%N) - began) / 1000000)) >FOLDER/result",
    );
    let source = Source::new(&format!("bash {script}"));
    until("the program to be at work", || {
        folder.path().join("marker").exists().then_some(())
    });
    std::thread::sleep(Duration::from_millis(200));
    let mut pauses = Duration::ZERO;
    let mut init = source.init;
    let mut capsules = Vec::new();
    for _ in 0..4 {
        let frozen = Instant::now();
        let capsule = move_to_new_capsule(init);
        pauses += frozen.elapsed();
        init = capsule.reference().init;
        capsules.push(capsule);
        std::thread::sleep(Duration::from_millis(100));
    }
    let result = folder.path().join("result");
    let took: u128 = until("the result", || {
        fs::read_to_string(&result)
            .ok()?
            .strip_suffix('\n')?
            .parse()
            .ok()
    });
    let longest = 2000 + pauses.as_millis() + 300;
    assert!(
        (1990..longest).contains(&took),
        "took {took} ms, of which {pauses:?} in moves"
    );
}

/// Moves what lives below `init`; the copy that was left is killed.
fn move_to_new_capsule(init: HostPid) -> Capsule {
    let (frozen, captured, contents) = capture(init);
    let capsule = Capsule::new();
    let mut building = prepare(&capsule.reference())
        .unwrap()
        .build(&captured.image, &mut NoHost)
        .unwrap();
    for (target, bytes) in &contents.0 {
        building.bulk(*target, bytes).unwrap();
    }
    let complete = building.finish(&captured.image).unwrap();
    let killed: Vec<HostPid> = frozen.processes().collect();
    for pid in killed {
        nix::sys::signal::kill(pid.into(), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    drop(frozen);
    complete.release().unwrap();
    capsule
}

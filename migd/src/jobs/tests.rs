//! The rules of ownership, and what a crash leaves of them.

use std::path::Path;
use std::process::{Command, Stdio};

use libmig::api::{Code, ExitStatus, JobId, NodeName};
use libmig::image::{FileLock, LockKind};
use libmig::migration::Verdict;

use super::record::{Change, JobRecord, NewJob, Place, Stage};
use super::registry::{Registry, Relock, ended_now};
use super::store::Store;

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn open(dir: &Path, name: &str) -> Registry {
    let store = Store::open(&dir.join(name)).unwrap();
    Registry::open(node(name), 4, store).unwrap().0
}

fn create(registry: &mut Registry) -> JobRecord {
    registry
        .create(NewJob {
            uid: 1000,
            user: "ann".into(),
            command: "sleep 9".into(),
            ..NewJob::default()
        })
        .unwrap()
}

/// A job of n1 that n2 has built; nobody has committed.
fn built(n1: &mut Registry, n2: &mut Registry) -> (JobId, u64) {
    let job = create(n1).id;
    let (record, epoch) = n1.leave(&job, &node("n2")).unwrap();
    n2.reserve(record, epoch, node("n1")).unwrap();
    n2.built(&job, epoch, Vec::new()).unwrap();
    (job, epoch)
}

#[test]
fn a_move_there_and_back_is_owned_by_one_side_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (mut n1, mut n2) = (open(dir.path(), "n1"), open(dir.path(), "n2"));
    let (job, epoch) = built(&mut n1, &mut n2);
    assert_eq!(
        n1.commit_state(&node("n2"), &job, epoch),
        Verdict::Undecided
    );
    assert!(
        n2.view(&job).is_none(),
        "not the destination's before the commit"
    );
    n1.commit(&job, epoch).unwrap();
    assert_eq!(
        n1.commit_state(&node("n2"), &job, epoch),
        Verdict::Committed
    );
    assert_eq!(n1.leave(&job, &node("n3")).unwrap_err().code, Code::Busy);
    assert!(n2.live(&job, epoch, None).unwrap());
    assert!(
        !n2.live(&job, epoch, None).unwrap(),
        "a repeated commit changes nothing"
    );
    assert_eq!(n2.commit_answer(&node("n1"), &job, epoch), Verdict::Live);
    // Told of it, but not yet rid of the copy: it cannot come back beside that.
    n1.located(&job, epoch, &node("n2")).unwrap();
    let record = n1.view(&job).unwrap().record;
    let back = n1.reserve(record, epoch + 1, node("n2"));
    assert_eq!(back.unwrap_err().code, Code::Undecided);
    n1.gone(&job, epoch).unwrap();
    n1.gone(&job, epoch).unwrap();
    let away = n1.view(&job).unwrap().record;
    assert_eq!(
        (away.place, away.epoch),
        (Place::Away { node: node("n2") }, 1)
    );
    assert_eq!(n1.leave(&job, &node("n3")).unwrap_err().code, Code::Busy);
    // And back.
    let (record, second) = n2.leave(&job, &node("n1")).unwrap();
    assert_eq!(second, 2);
    n1.reserve(record, second, node("n2")).unwrap();
    n1.built(&job, second, Vec::new()).unwrap();
    n2.commit(&job, second).unwrap();
    n1.live(&job, second, None).unwrap();
    n2.gone(&job, second).unwrap();
    assert!(n1.view(&job).unwrap().record.is_here());
    assert!(
        n2.view(&job).is_none(),
        "only home remembers a job that has gone"
    );
    assert_eq!(
        n2.commit_answer(&node("n1"), &job, epoch),
        Verdict::Live,
        "also much later"
    );
}

#[test]
fn an_epoch_is_never_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mut n1, mut n2) = (open(dir.path(), "n1"), open(dir.path(), "n2"));
    let (job, first) = built(&mut n1, &mut n2);
    // The source dies before its commit; n2 keeps what it built.
    drop(n1);
    let mut n1 = open(dir.path(), "n1");
    assert_eq!(n1.commit_state(&node("n2"), &job, first), Verdict::Aborted);
    // It goes to n3 instead; that commit says nothing about the first attempt.
    let (_, second) = n1.leave(&job, &node("n3")).unwrap();
    assert!(second > first);
    n1.commit(&job, second).unwrap();
    assert_eq!(n1.commit_state(&node("n2"), &job, first), Verdict::Aborted);
    assert_eq!(
        n1.commit_state(&node("n2"), &job, second),
        Verdict::Aborted,
        "not n2's"
    );
    assert_eq!(
        n1.commit_state(&node("n3"), &job, second),
        Verdict::Committed
    );
    n2.arrival_gone(&job, first).unwrap();
    assert_eq!(n2.commit_answer(&node("n1"), &job, first), Verdict::Absent);
    assert!(
        n2.live(&job, first, None).is_err(),
        "what was discarded never runs"
    );
}

#[test]
fn a_destination_that_never_had_it_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut n1 = open(dir.path(), "n1");
    let job = create(&mut n1).id;
    let (_, epoch) = n1.leave(&job, &node("n2")).unwrap();
    assert!(!n1.disowned(&job, epoch).unwrap(), "nothing was committed");
    n1.commit(&job, epoch).unwrap();
    drop(n1);
    let mut n1 = open(dir.path(), "n1");
    assert_eq!(
        n1.leave(&job, &node("n3")).unwrap_err().code,
        Code::Undecided
    );
    assert!(n1.disowned(&job, epoch).unwrap());
    assert!(!n1.disowned(&job, epoch).unwrap());
    n1.leave(&job, &node("n3")).unwrap();
}

#[test]
fn reservations_are_bounded_and_never_against_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (mut n1, mut n2) = (open(dir.path(), "n1"), open(dir.path(), "n2"));
    let (job, epoch) = built(&mut n1, &mut n2);
    let record = n1.view(&job).unwrap().record;
    assert_eq!(
        n1.reserve(record.clone(), 9, node("n2")).unwrap_err().code,
        Code::Refused
    );
    assert_eq!(
        n2.reserve(record, epoch + 1, node("n1")).unwrap_err().code,
        Code::Undecided
    );
    for _ in 0..3 {
        let record = create(&mut n1);
        n2.reserve(record, 1, node("n1")).unwrap();
    }
    assert_eq!(
        n2.reserve(create(&mut n1), 1, node("n1")).unwrap_err().code,
        Code::Busy
    );
}

#[test]
fn home_believes_the_higher_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let (mut n1, mut n2) = (open(dir.path(), "n1"), open(dir.path(), "n2"));
    let (job, epoch) = built(&mut n1, &mut n2);
    n1.commit(&job, epoch).unwrap();
    n2.live(&job, epoch, None).unwrap();
    // n2 moves it on before n1 hears that it arrived.
    n1.located(&job, epoch + 1, &node("n3")).unwrap();
    n1.gone(&job, epoch).unwrap();
    n1.located(&job, epoch, &node("n2")).unwrap();
    let record = n1.view(&job).unwrap().record;
    assert_eq!(
        (record.place, record.epoch),
        (Place::Away { node: node("n3") }, epoch + 1)
    );
}

#[test]
fn ends_are_remembered_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut n1 = open(dir.path(), "n1");
    for _ in 0..1005 {
        let job = create(&mut n1).id;
        n1.exited(&ended_now(job, ExitStatus::Code(3))).unwrap();
    }
    assert_eq!(n1.exits.len(), 1000);
    assert!(n1.records.is_empty());
    drop(n1);
    let n1 = open(dir.path(), "n1");
    assert_eq!((n1.exits.len(), n1.last_number), (1000, 1005));
}

#[test]
fn an_end_that_is_heard_twice_is_still_its_owners() {
    let dir = tempfile::tempdir().unwrap();
    let mut n1 = open(dir.path(), "n1");
    let record = create(&mut n1);
    for _ in 0..2 {
        let mut exit = ended_now(record.id.clone(), ExitStatus::Code(0));
        exit.uid = record.uid + 1;
        n1.exited(&exit).unwrap();
        assert_eq!(n1.exits[&record.id].uid, record.uid);
    }
}

#[test]
fn two_daemons_never_open_one_table() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path(), "n1");
    assert!(Store::open(&dir.path().join("n1")).is_err());
}

const CRASH_DIR: &str = "MIG_TEST_CRASH_DIR";

/// The helper of the next test: commits for ever, and says on stdout what it
/// has been promised is on disk.
#[test]
fn crash_writer() {
    let Ok(dir) = std::env::var(CRASH_DIR) else {
        return;
    };
    let mut n1 = open(dir.as_ref(), "n1");
    loop {
        let job = create(&mut n1).id;
        let (record, epoch) = n1.leave(&job, &node("n2")).unwrap();
        println!("left {job} {epoch}");
        n1.commit(&job, epoch).unwrap();
        println!("committed {job} {epoch}");
        let from = JobRecord {
            id: format!("n2-{}", job.number).parse().unwrap(),
            ..record
        };
        let guest = from.id.clone();
        n1.reserve(from, 7, node("n2")).unwrap();
        n1.built(&guest, 7, Vec::new()).unwrap();
        n1.live(&guest, 7, None).unwrap();
        println!("live {guest} 7");
    }
}

#[test]
fn what_was_promised_survives_kill_9_at_any_instant() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut promised = Vec::new();
    for round in 0..12u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["jobs::tests::crash_writer", "--exact", "--nocapture"])
            .env(CRASH_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Another number of lines each time: another place in the cycle.
        let said = lines.map(Result::unwrap).filter(|line| is_promise(line));
        promised.extend(said.take(5 + 4 * round as usize));
        child.kill().unwrap();
        child.wait().unwrap();
        let n1 = open(dir.path(), "n1");
        for line in &promised {
            check(&n1, line);
        }
    }
    assert!(promised.len() > 200);
}

/// The test harness may put a word of its own in front of a line.
fn is_promise(line: &str) -> bool {
    ["left ", "committed ", "live "]
        .iter()
        .any(|word| line.starts_with(word))
}

fn check(n1: &Registry, line: &str) {
    let mut words = line.split(' ');
    let (what, job, epoch) = (words.next(), words.next().unwrap(), words.next().unwrap());
    let (job, epoch): (JobId, u64) = (job.parse().unwrap(), epoch.parse().unwrap());
    match what {
        Some("left") => assert!(n1.records[&job].last_attempt >= epoch, "{line}"),
        Some("committed") => assert_eq!(n1.committed[&job].epoch, epoch, "{line}"),
        Some("live") => {
            assert_eq!(n1.arrivals[&job].stage, Stage::Live, "{line}");
            assert!(n1.records[&job].is_here(), "{line}: both or neither");
        }
        _ => unreachable!("is_promise"),
    }
}

#[test]
fn locks_are_taken_by_one_at_a_time_and_not_forgotten_before() {
    let lock = FileLock {
        kind: LockKind::Process,
        exclusive: true,
        start: 1 << 30,
        length: 1,
        pid: 2,
        number: 3,
        file: 0,
    };
    let dir = tempfile::tempdir().unwrap();
    let (mut n1, mut n2) = (open(dir.path(), "n1"), open(dir.path(), "n2"));
    let job = create(&mut n1).id;
    let (record, epoch) = n1.leave(&job, &node("n2")).unwrap();
    n2.reserve(record, epoch, node("n1")).unwrap();
    n2.built(&job, epoch, vec![lock]).unwrap();
    n1.commit(&job, epoch).unwrap();
    n2.live(&job, epoch, None).unwrap();
    assert_eq!(n2.relock(&job, epoch), Relock::Locks(vec![lock]));
    assert_eq!(n2.relock(&job, epoch), Relock::Busy);
    assert_eq!(n2.relock(&job, epoch + 1), Relock::Nothing);
    drop(n2);
    let mut n2 = open(dir.path(), "n2");
    assert_eq!(n2.relock(&job, epoch), Relock::Locks(vec![lock]));
    n2.relocked(&job, epoch).unwrap();
    assert_eq!(n2.relock(&job, epoch), Relock::Nothing);
    drop(n2);
    let mut n2 = open(dir.path(), "n2");
    assert_eq!(n2.relock(&job, epoch), Relock::Nothing);
}

#[test]
fn all_changes_of_one_commit_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    store
        .commit(&[Change::LastNumber(4), Change::Generation(2)])
        .unwrap();
    drop(store);
    let contents = Store::open(&dir.path().join("s"))
        .unwrap()
        .contents()
        .unwrap();
    assert_eq!((contents.last_number, contents.generation), (4, 2));
}

/// As after a crash of the machine: last written before it was started.
fn before_the_boot(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
}

#[test]
fn no_number_is_given_twice_after_a_crash_of_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::open(&path).unwrap();
    store.commit(&[Change::LastNumber(4)]).unwrap();
    drop(store);
    before_the_boot(&path);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.contents().unwrap().last_number, 1004);
}

#[test]
fn a_table_that_a_crash_of_the_machine_damaged_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.redb");
    drop(Store::open(&path).unwrap());
    let length = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xa5; 4096], 64).unwrap();
    drop(file);
    assert!(
        Store::open(&path).is_err(),
        "it did not crash: somebody is to look"
    );
    before_the_boot(&path);
    let contents = Store::open(&path).unwrap().contents().unwrap();
    assert!(contents.last_number > 1 << 30 && contents.records.is_empty());
    let aside = std::fs::metadata(path.with_extension("damaged")).unwrap();
    assert_eq!(aside.len(), length);
}

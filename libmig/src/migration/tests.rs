//! Two conductors over an in-memory link that breaks at every single frame,
//! in both directions: exactly one copy may ever be owned and run.

use std::{
    io::{self, Read, Write},
    ops::Range,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use super::*;
use crate::{
    capture::BulkSink,
    image::{BulkTarget, CapsuleImage, Clocks, Draft, FilePath, JobImage, NeededFile, Pid, Usage},
    transfer::{Link as TransferLink, Offer, Proposal, TransferError},
};

/// One end of a link of which each direction carries at most so many bytes.
struct Link {
    incoming: mpsc::Receiver<Vec<u8>>,
    outgoing: Option<mpsc::Sender<Vec<u8>>>,
    rest: Vec<u8>,
    left: usize,
}

fn link(there: usize, back: usize) -> (Link, Link) {
    let (to_destination, from_source) = mpsc::channel();
    let (to_source, from_destination) = mpsc::channel();
    let end = |incoming, outgoing, left| Link {
        incoming,
        outgoing: Some(outgoing),
        rest: Vec::new(),
        left,
    };
    (
        end(from_destination, to_destination, there),
        end(from_source, to_source, back),
    )
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.incoming.recv() {
                Ok(bytes) => self.rest = bytes,
                Err(_) => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.rest.len());
        buffer[..taken].copy_from_slice(&self.rest[..taken]);
        self.rest.drain(..taken);
        Ok(taken)
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.outgoing = None;
        }
        let Some(outgoing) = &self.outgoing else {
            return Err(io::ErrorKind::ConnectionReset.into());
        };
        let taken = bytes.len().min(self.left);
        self.left -= taken;
        outgoing
            .send(bytes[..taken].to_vec())
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TransferLink for Link {
    fn has_news(&mut self) -> bool {
        if self.rest.is_empty() {
            match self.incoming.try_recv() {
                Ok(bytes) => self.rest = bytes,
                Err(mpsc::TryRecvError::Empty) => return false,
                Err(mpsc::TryRecvError::Disconnected) => {}
            }
        }
        true
    }
}

fn needed(name: usize) -> NeededFile {
    NeededFile {
        pid: 2,
        usage: Usage::Mapping,
        file: FilePath {
            space: None,
            path: format!("/lib/{name}").into_bytes(),
            mode: libc::S_IFREG | 0o644,
            size: 7,
        },
        settled: true,
        own: None,
        identity: (0, 0),
    }
}

fn image() -> JobImage {
    let capsule = CapsuleImage {
        hostname: "n1".into(),
        domainname: String::new(),
        clocks: Clocks::default(),
    };
    JobImage {
        capsule,
        processes: Vec::new(),
        files: Vec::new(),
        pipes: Vec::new(),
        ttys: Vec::new(),
        shared: Vec::new(),
        locks: Vec::new(),
        shm: Vec::new(),
        system_v: crate::image::SystemV::default(),
        namespaces: Vec::new(),
        systems: Vec::new(),
    }
}

/// Which copies run, and every moment at which two did.
#[derive(Debug, Default)]
struct World {
    source_runs: bool,
    destination_runs: bool,
    twice: bool,
    given_up: bool,
    destination_owns: bool,
    surrendered: bool,
}

impl World {
    fn check(&mut self) {
        self.twice |= self.source_runs && self.destination_runs;
    }
}

struct Source {
    world: Arc<Mutex<World>>,
    image: Option<JobImage>,
    files: usize,
    /// Memory is sent while it runs.
    ahead: bool,
    /// Its tree is another one when it is stopped.
    outgrows: bool,
    /// Bulk is sent only when the destination has gone, if there is this.
    gone: Option<mpsc::Receiver<()>>,
}

impl Source {
    fn new(world: &Arc<Mutex<World>>) -> Self {
        Self {
            world: Arc::clone(world),
            image: None,
            files: 2,
            ahead: false,
            outgrows: false,
            gone: None,
        }
    }
}

impl SourceJob for Source {
    fn entered(&mut self, _: crate::api::Phase) {}

    fn propose(&mut self) -> Result<Proposal, JobError> {
        let offer = Offer {
            addresses: Vec::new(),
            job: "n1-1".into(),
            epoch: 2,
            home: "n1".into(),
            source: "n1".into(),
            name: None,
            command: "true".into(),
            uid: 0,
            user: "root".into(),
            pinned: false,
            started: 0,
            cpu_ms: 0,
            main: 2,
            console: None,
            processes: 1,
            highest_tid: 2,
            memory_bytes: 4096,
            cpu: Vec::new(),
            cpu_level: None,
            limits: Vec::new(),
            files: 0,
        };
        let files = (0..self.files).map(needed).collect();
        Ok(Proposal { offer, files })
    }

    fn gone(&mut self, _: &[NeededFile]) -> Vec<crate::api::Obstacle> {
        Vec::new()
    }

    fn draft(&mut self) -> Result<Option<Draft>, JobError> {
        Ok(self.ahead.then(|| Draft {
            image: image(),
            console: None,
        }))
    }

    fn forget_draft(&mut self) {
        self.ahead = false;
    }

    fn round(&mut self, sink: &mut dyn BulkSink) -> Result<u64, JobError> {
        assert!(self.world.lock().unwrap().source_runs);
        let address = 7 * 4096;
        sink.bulk(BulkTarget::Memory { pid: 2, address }, &[9; 64])?;
        Ok(64)
    }

    fn outgrew_draft(&self) -> bool {
        self.ahead && self.outgrows
    }

    fn freeze(&mut self) -> Result<(), JobError> {
        self.world.lock().unwrap().source_runs = false;
        Ok(())
    }

    fn capture(&mut self) -> Result<Vec<u8>, JobError> {
        self.image = Some(image());
        Ok(b"state".to_vec())
    }

    fn image(&self) -> Result<&JobImage, JobError> {
        self.image
            .as_ref()
            .ok_or_else(|| "nothing was captured".into())
    }

    fn send_bulk(&mut self, sink: &mut dyn BulkSink) -> Result<(), JobError> {
        if let Some(gone) = &self.gone {
            gone.recv()?;
        }
        for page in 0..3 {
            let address = page * 4096;
            sink.bulk(BulkTarget::Memory { pid: 2, address }, &[7; 64])?;
        }
        if self.ahead && !self.outgrows {
            sink.absent(2, 7 * 4096..8 * 4096)?;
        }
        Ok(())
    }

    fn hold(&mut self) -> Result<(), JobError> {
        Ok(())
    }

    fn thaw(&mut self) {
        let mut world = self.world.lock().unwrap();
        assert!(!world.given_up, "a job that was given up must not run here");
        world.source_runs = true;
        world.check();
    }

    fn commit(&mut self, _: u64) -> Result<(), JobError> {
        self.world.lock().unwrap().given_up = true;
        Ok(())
    }

    fn lend(&mut self) {
        let world = self.world.lock().unwrap();
        assert!(world.destination_owns && !world.surrendered);
    }

    fn surrender(&mut self, _: u64) -> Result<(), JobError> {
        let mut world = self.world.lock().unwrap();
        assert!(world.destination_owns, "nobody may be without a copy");
        world.surrendered = true;
        Ok(())
    }

    fn reap(&mut self, _: u64) {
        assert!(self.world.lock().unwrap().destination_runs);
    }
}

#[derive(Default)]
struct Destination {
    world: Arc<Mutex<World>>,
    bytes: usize,
    files: Vec<NeededFile>,
    refuses: bool,
    waits: bool,
    built: bool,
    discarded: bool,
    drafted: bool,
    drafts_not: bool,
}

impl DestinationJob for Destination {
    fn reserve(&mut self, proposal: &Proposal) -> Result<(), JobError> {
        self.files = proposal.files.clone();
        Ok(())
    }

    fn draft(&mut self, _: Draft) -> Result<bool, JobError> {
        self.drafted = !self.drafts_not;
        Ok(self.drafted)
    }

    fn afresh(&mut self) -> Result<(), JobError> {
        assert!(self.drafted);
        self.drafted = false;
        self.bytes = 0;
        Ok(())
    }

    fn absent(&mut self, _: Pid, _: Range<u64>) -> Result<(), JobError> {
        assert!(self.drafted);
        self.bytes = 3 * 64;
        Ok(())
    }

    fn build(&mut self, state: &[u8], _: JobImage) -> Result<(), JobError> {
        assert_eq!(state, b"state");
        if self.refuses {
            return Err("it does not fit".into());
        }
        Ok(())
    }

    fn bulk(&mut self, _: BulkTarget, bytes: &[u8]) -> Result<(), JobError> {
        self.bytes += bytes.len();
        Ok(())
    }

    fn finish(&mut self, _: u64) -> Result<bool, JobError> {
        assert_eq!(self.bytes, 3 * 64);
        self.built = true;
        Ok(self.waits)
    }

    fn own(&mut self, _: u64) -> Result<(), JobError> {
        let mut world = self.world.lock().unwrap();
        assert!(self.built && world.given_up);
        world.destination_owns = true;
        Ok(())
    }

    fn share(&mut self) {
        assert!(!self.world.lock().unwrap().surrendered);
    }

    fn release(&mut self, _: u64) -> Result<Vec<String>, JobError> {
        let mut world = self.world.lock().unwrap();
        assert!(world.destination_owns);
        world.destination_runs = true;
        world.check();
        Ok(Vec::new())
    }

    fn discard(&mut self) {
        assert!(!self.world.lock().unwrap().destination_runs);
        self.discarded = true;
    }
}

fn depart(source: &mut Source, near: Link) -> Departure {
    Proposed::new(source)
        .expect("nothing stands in the way")
        .to(near)
        .run()
}

/// What is different from one move to another.
#[derive(Debug, Clone, Copy, Default)]
struct Kind {
    waits: bool,
    ahead: bool,
    outgrows: bool,
    drafts_not: bool,
}

const PLAIN: Kind = Kind {
    waits: false,
    ahead: false,
    outgrows: false,
    drafts_not: false,
};

const KINDS: [Kind; 5] = [
    PLAIN,
    Kind {
        waits: true,
        ..PLAIN
    },
    Kind {
        ahead: true,
        ..PLAIN
    },
    Kind {
        ahead: true,
        outgrows: true,
        ..PLAIN
    },
    Kind {
        ahead: true,
        drafts_not: true,
        ..PLAIN
    },
];

/// One move over a link that breaks after so many bytes.
fn attempt(there: usize, back: usize, kind: Kind) -> (Departure, Arrival, Arc<Mutex<World>>, bool) {
    let world = Arc::new(Mutex::new(World {
        source_runs: true,
        ..World::default()
    }));
    let (near, far) = link(there, back);
    let mut destination = Destination {
        world: Arc::clone(&world),
        waits: kind.waits,
        drafts_not: kind.drafts_not,
        ..Destination::default()
    };
    let other_end = thread::spawn(move || {
        let arrival = receive(&mut destination, far);
        (arrival, destination.discarded)
    });
    let mut source = Source {
        ahead: kind.ahead,
        outgrows: kind.outgrows,
        ..Source::new(&world)
    };
    let departure = depart(&mut source, near);
    let (arrival, discarded) = other_end.join().expect("the destination must not panic");
    (departure, arrival, world, discarded)
}

#[test]
fn an_unbroken_link_moves_the_job() {
    KINDS.into_iter().for_each(moves_over_an_unbroken_link);
}

fn moves_over_an_unbroken_link(kind: Kind) {
    let (departure, arrival, world, _) = attempt(usize::MAX, usize::MAX, kind);
    let Departure::Moved(moved) = departure else {
        panic!("{departure:?}");
    };
    assert!(matches!(arrival, Arrival::Live { epoch: 2 }));
    assert!(moved.bytes_sent > 3 * 64);
    assert_eq!(moved.rounds > 0, kind.ahead && !kind.drafts_not);
    let world = world.lock().unwrap();
    assert!(!world.source_runs && world.destination_runs && !world.twice);
    assert_eq!(world.surrendered, kind.waits);
}

#[test]
fn a_link_that_breaks_anywhere_leaves_exactly_one_owner() {
    KINDS.into_iter().for_each(breaks_anywhere);
}

fn breaks_anywhere(kind: Kind) {
    let mut seen = [0; 3];
    for (there, back) in (0..1300)
        .map(|n| (n, usize::MAX))
        .chain((0..200).map(|n| (usize::MAX, n)))
    {
        let (departure, arrival, world, discarded) = attempt(there, back, kind);
        let world = world.lock().unwrap();
        assert!(!world.twice, "cut after {there}/{back}: two copies ran");
        match departure {
            Departure::Stayed(_) => {
                seen[0] += 1;
                assert!(world.source_runs && !world.given_up && !world.surrendered);
                // The destination discards what it has, or keeps a complete copy to ask about.
                assert!(discarded || matches!(arrival, Arrival::Undecided { .. }));
            }
            Departure::Unknown { .. } => {
                seen[1] += 1;
                assert!(world.given_up && !world.source_runs);
                assert!(matches!(
                    arrival,
                    Arrival::Live { .. } | Arrival::Undecided { .. }
                ));
            }
            Departure::Moved(_) => {
                seen[2] += 1;
                assert!(world.destination_runs && !world.source_runs);
            }
        }
    }
    assert!(
        seen.iter().all(|&n| n > 0),
        "every outcome must have been reached: {seen:?}"
    );
}

#[test]
fn a_destination_that_gives_up_while_it_is_sent_to_is_heard() {
    let world = Arc::new(Mutex::new(World {
        source_runs: true,
        ..World::default()
    }));
    let (near, far) = link(usize::MAX, usize::MAX);
    let mut destination = Destination {
        refuses: true,
        ..Destination::default()
    };
    let (tell, gone) = mpsc::channel();
    let other_end = thread::spawn(move || {
        let arrival = receive(&mut destination, far);
        tell.send(()).unwrap();
        arrival
    });
    let mut source = Source::new(&world);
    source.gone = Some(gone);
    let departure = depart(&mut source, near);
    let arrival = other_end.join().unwrap();
    assert!(matches!(arrival, Arrival::Discarded(_)));
    let Departure::Stayed(MoveError::There {
        source: TransferError::Refused(refusal),
        ..
    }) = departure
    else {
        panic!("{departure:?}");
    };
    assert!(
        format!("{refusal}").contains("it does not fit"),
        "{refusal}"
    );
    assert!(world.lock().unwrap().source_runs);
}

#[test]
fn a_long_list_of_files_arrives_whole() {
    let world = Arc::new(Mutex::new(World {
        source_runs: true,
        ..World::default()
    }));
    let (near, far) = link(usize::MAX, usize::MAX);
    let mut destination = Destination {
        world: Arc::clone(&world),
        ..Destination::default()
    };
    let other_end = thread::spawn(move || {
        let arrival = receive(&mut destination, far);
        (arrival, destination.files)
    });
    let mut source = Source::new(&world);
    source.files = 50_000;
    assert!(matches!(depart(&mut source, near), Departure::Moved(_)));
    let (_, files) = other_end.join().unwrap();
    assert_eq!(files, (0..50_000).map(needed).collect::<Vec<_>>());
}

#[test]
fn a_destination_that_ends_without_a_word_is_called_silent() {
    let (departure, ..) = attempt(usize::MAX, 0, PLAIN);
    let Departure::Stayed(error) = departure else {
        panic!("{departure:?}");
    };
    let words = error.refusal().to_string();
    assert!(words.contains("without a word"), "{words}");
}

#[test]
fn what_has_gone_at_the_source_too_is_tried_again() {
    let named = |object: &str| crate::api::Obstacle {
        pid: Some(2),
        object: object.into(),
        reason: "it is not there at the destination".into(),
        remedy: "none".into(),
        transient: false,
    };
    let refused = |obstacles| {
        let causes = vec!["it cannot live there".into()];
        let refusal = crate::transfer::Refusal { causes, obstacles };
        MoveError::there("offering the job")(TransferError::Refused(refusal))
    };
    let mut passes = refused(vec![named("fd 5 (/journal)")]);
    passes.excuse(&[named("fd 5 (/journal)")]);
    assert!(passes.is_transient());
    let mut stays = refused(vec![named("fd 5 (/journal)"), named("fd 3 (/data)")]);
    stays.excuse(&[named("fd 5 (/journal)")]);
    assert!(!stays.is_transient());
}

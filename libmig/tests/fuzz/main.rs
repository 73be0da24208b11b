//! Every decoder of hostile input, fed with damaged input: it may refuse, and it must not panic, overflow, or take
//! memory for what never comes.
//!
//! Texts of `/proc` are damaged copies of the files in `corpus`. Frames and images have no corpus, whose form would be
//! that of some older version: a value is grown byte by byte, for as long as the decoder only asks for more.
//!
//! A run is short; `MIG_FUZZ=600` makes each of these tests take ten minutes. The seed of a run is printed when it
//! fails; `MIG_FUZZ_SEED` repeats it.

mod damage;

use std::io::{Cursor, Read, Write};
use std::time::{Duration, Instant};

use damage::Noise;
use libmig::checkpoint::{Header, Reader, Writer, summarize};
use libmig::image::{JobImage, NeededFile};
use libmig::inspect::cpu::CpuFeatures;
use libmig::inspect::{fdinfo::FdInfo, lock, maps, process, smaps, timers};
use libmig::transfer::{Connection, Link, Message};
use libmig::wire::{self, FRAME_HEADER, Frame};
use serde::{Serialize, de::DeserializeOwned};

/// Seconds that a test takes when it is not told otherwise.
const SHORT: f64 = 0.5;

/// Calls `attempt` with a source of noise until the time is over.
fn repeat(mut attempt: impl FnMut(&mut Noise)) {
    let seconds = std::env::var("MIG_FUZZ").map_or(SHORT, |text| text.parse().expect("seconds"));
    let mut noise = Noise::new();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        for _ in 0..100 {
            attempt(&mut noise);
        }
    }
}

/// Damages a text again and again, after a check that the whole one is understood.
fn texts(whole: &[u8], parse: impl Fn(&[u8]) -> bool) {
    assert!(parse(whole), "the decoder refuses its corpus");
    repeat(|noise| _ = parse(&noise.damaged(whole)));
}

#[test]
fn fdinfo_is_hostile() {
    texts(include_bytes!("corpus/fdinfo"), |text| {
        FdInfo::parse(&String::from_utf8_lossy(text)).is_ok()
    });
}

#[test]
fn maps_are_hostile() {
    texts(include_bytes!("corpus/maps"), |text| {
        let areas = maps::parse(text).unwrap_or_default();
        for area in &areas {
            let _ = (area.len(), area.is_empty(), area.readable());
        }
        let _ = maps::find_hole(&areas, 4096);
        !areas.is_empty()
    });
}

#[test]
fn smaps_are_hostile() {
    texts(include_bytes!("corpus/smaps"), |text| {
        smaps::parse(text).is_some()
    });
}

#[test]
fn a_status_is_hostile() {
    texts(include_bytes!("corpus/status"), |text| {
        process::parse_status(text).is_some()
    });
    texts(include_bytes!("corpus/stat"), |text| {
        process::parse_stat(text).is_some()
    });
}

#[test]
fn locks_and_timers_are_hostile() {
    texts(include_bytes!("corpus/locks"), |text| {
        String::from_utf8_lossy(text)
            .lines()
            .all(|line| lock::HeldLock::parse(line).is_some())
    });
    texts(include_bytes!("corpus/timers"), |text| {
        timers::parse(&String::from_utf8_lossy(text)).is_some()
    });
}

/// Grows a value that decodes, then damages it. What decodes must be what it becomes when it is written and read.
fn values<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>() {
    let mut decoded = 0_u32;
    repeat(|noise| {
        let bytes = noise.grown(|bytes| postcard::take_from_bytes::<T>(bytes).map(drop));
        for input in [bytes.clone(), noise.damaged(&bytes)] {
            let Ok(value) = postcard::from_bytes::<T>(&input) else {
                continue;
            };
            decoded += 1;
            let written = postcard::to_stdvec(&value).expect("plain data");
            assert_eq!(postcard::from_bytes::<T>(&written).as_ref(), Ok(&value));
            let kept = wire::named(&value).expect("plain data");
            assert_eq!(wire::decode_named::<T>(&kept).ok().as_ref(), Some(&value));
            drop(wire::decode_named::<T>(&noise.damaged(&kept)));
        }
    });
    assert!(decoded > 0, "no value ever decoded: nothing was tried");
}

#[test]
fn an_image_is_hostile() {
    values::<JobImage>();
}

#[test]
fn messages_are_hostile() {
    values::<Message>();
    values::<Vec<NeededFile>>();
    values::<CpuFeatures>();
}

/// What comes over a connection; writing goes nowhere.
struct Incoming<'a>(&'a [u8]);

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Incoming<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Link for Incoming<'_> {
    fn has_news(&mut self) -> bool {
        !self.0.is_empty()
    }
}

/// A frame with a header that is right, or nearly so.
fn frame(noise: &mut Noise) -> Vec<u8> {
    let payload = match noise.below(4) {
        0 | 1 => noise.grown(|bytes| postcard::take_from_bytes::<Message>(bytes).map(drop)),
        2 => wire::named(&Message::Round).expect("plain data"),
        _ => noise.bytes(64),
    };
    let mut frame = vec![0; FRAME_HEADER];
    frame[0] = u8::try_from(noise.below(9)).expect("small");
    let length = u32::try_from(payload.len()).expect("small");
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[8] = u8::try_from(noise.below(256)).expect("small");
    frame.extend(payload);
    if noise.below(3) == 0 {
        noise.damaged(&frame)
    } else {
        frame
    }
}

#[test]
fn frames_are_hostile() {
    let mut understood = 0_u32;
    repeat(|noise| {
        let stream: Vec<u8> = (0..4).flat_map(|_| frame(noise)).collect();
        let (mut rest, mut bulk) = (&stream[..], Vec::new());
        while let Ok(frame) = wire::read_frame::<Message, JobImage>(&mut rest, &mut bulk) {
            understood += 1;
            if let Frame::Bulk(_) = frame {
                assert!(bulk.len() <= stream.len(), "bytes that nobody sent");
            }
        }
        let most = stream.len() + (2 << 20);
        assert!(
            bulk.capacity() <= most,
            "a header alone took {} bytes",
            bulk.capacity()
        );
        // The list of files that an offer announces is read in pieces.
        drop(Connection::new(Incoming(&stream)).proposal());
    });
    assert!(understood > 0, "no frame was ever understood");
}

/// A file whose hashes are right: what is in it is as hostile as what comes over a connection.
fn checkpoint(noise: &mut Noise) -> Vec<u8> {
    let header = Header {
        uuid: String::new(),
        protocol: wire::version::NEWEST,
        node: String::new(),
        release: String::new(),
        kernel: String::new(),
        cpu: noise.bytes(9),
        job: String::new(),
        name: None,
        epoch: 0,
        uid: 0,
        terminal: false,
        piped: true,
        captured_unix: 0,
        memory_bytes: u64::MAX,
        bases: Vec::new(),
    };
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, &header).expect("memory takes it");
    for _ in 0..4 {
        writer.write_all(&frame(noise)).expect("memory takes it");
    }
    writer.finish(|_| Ok(Vec::new())).expect("memory takes it");
    file
}

#[test]
fn checkpoints_are_hostile() {
    let mut opened = 0_u32;
    repeat(|noise| {
        let whole = checkpoint(noise);
        for file in [noise.damaged(&whole), whole] {
            if let Ok(reader) = Reader::open(Cursor::new(file)) {
                opened += 1;
                drop(summarize(reader));
            }
        }
    });
    assert!(opened > 0, "no file was ever opened");
}

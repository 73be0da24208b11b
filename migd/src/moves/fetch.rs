//! A checkpoint of a job that lives at another node than the one where its file is to be.
//!
//! ```text
//!  where the file is              where the job is
//!  known pages     ──────────►    only when the file is to build on others
//!                  ◄──────────    report, length, all bytes of the file: it is complete
//!  one byte        ──────────►    only when the job is to end: the file is kept
//!                  ◄──────────    the report once more, or why there is none
//! ```
//!
//! Whoever has the job writes a file without a name first: what it compresses while the job
//! runs on, or stands still, waits for no network.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libmig::api::{CheckpointReport, Code, Failure, JobId, NodeName, local};
use libmig::checkpoint::Known;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::disk;
use crate::control::{Caller, Events};
use crate::daemon::Daemon;
use crate::peer::{BlockingTls, Purpose, dial_move};

/// How long the next words of the other node may take: it compresses all of a job's memory, or
/// waits for a disk.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is said between the bytes of the file.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// So many bytes follow.
    File(CheckpointReport, u64),
    /// The end of it.
    Done(Result<CheckpointReport, Failure>),
}

/// Gets a checkpoint of `job` from `node` into `file`; as [`disk::save`].
///
/// # Errors
/// Why there is none, or the job runs on.
pub(crate) fn save(
    daemon: &Daemon,
    caller: Caller,
    (job, node): (&JobId, &NodeName),
    (file, known): (&File, Option<Known>),
    asker: Option<UnixStream>,
) -> Result<CheckpointReport, Failure> {
    let purpose = Purpose::Fetch {
        job: job.clone(),
        uid: caller.uid,
        end: asker.is_some(),
        known: known.is_some(),
    };
    let (mut stream, _) = dial_move(daemon, node, purpose).map_err(|error| error.failure(node))?;
    let lost = |error: &(dyn std::error::Error + 'static)| {
        let said = format!("the checkpoint of job {job} has not come from node {node}");
        Failure::from_error(Code::PeerLost, said, error).hint("`mig ps` says whether the job runs")
    };
    stream.wait_for(PATIENCE).map_err(|error| lost(&error))?;
    if let Some(known) = known {
        let mut out = BufWriter::new(&mut stream);
        known
            .write(&mut out)
            .and_then(|()| out.flush())
            .map_err(|error| lost(&error))?;
    }
    let (report, length) = match hear(&mut stream).map_err(|error| lost(&error))? {
        Word::File(report, length) => (report, length),
        Word::Done(done) => return done,
    };
    let mut out = file;
    let copied =
        io::copy(&mut (&mut stream).take(length), &mut out).and_then(|copied| {
            match copied == length {
                true => file.sync_all(),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        });
    copied.map_err(|error| lost(&error))?;
    let ends = asker.is_some();
    if let Some(asker) = asker {
        disk::kept(asker, &report)
            .and_then(|()| stream.write_all(&[1]))
            .and_then(|()| stream.flush())
            .map_err(|error| lost(&error))?;
    }
    match hear(&mut stream).map_err(|error| lost(&error))? {
        Word::Done(done) => {
            if ends && done.is_ok() && &job.home == daemon.node() {
                disk::wait_for_end(daemon, job);
            }
            done
        }
        Word::File(..) => Err(Failure::new(Code::Protocol, "the file came twice")),
    }
}

/// Serves such a request.
pub(crate) fn serve(
    mut stream: BlockingTls,
    daemon: &Daemon,
    uid: u32,
    job: &JobId,
    (end, known): (bool, bool),
) {
    let known = match known
        .then(|| Known::read(BufReader::new(&mut stream)))
        .transpose()
    {
        Ok(known) => known,
        Err(error) => {
            info!(%job, %error, "it is not said what the files of a checkpoint have");
            return;
        }
    };
    let done = answer(&mut stream, daemon, uid, job, (end, known));
    if let Err(error) = say(&mut stream, &Word::Done(done)) {
        info!(%job, %error, "nobody hears of a checkpoint");
    }
    stream.linger(Duration::from_secs(1));
}

fn answer(
    stream: &mut BlockingTls,
    daemon: &Daemon,
    uid: u32,
    job: &JobId,
    (end, known): (bool, Option<Known>),
) -> Result<CheckpointReport, Failure> {
    let caller = Caller { uid, hops: 1 };
    let view = daemon.jobs.view_blocking(job);
    let view = view.ok_or_else(|| crate::jobs::registry::no_such(job))?;
    caller.check(&view.record)?;
    let host = |error: io::Error| {
        Failure::from_error(Code::Host, "the checkpoint cannot be written here", &error)
    };
    let spool = rustix::fs::open(
        &daemon.config.state_dir,
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    );
    let spool = File::from(spool.map_err(|error| host(error.into()))?);
    let none = Events::none();
    if !end {
        let report = disk::save(daemon, caller, job, (&spool, known), None, &none)?;
        send(stream, &report, &spool).map_err(host)?;
        return Ok(report);
    }
    let (mut ours, theirs) = UnixStream::pair().map_err(host)?;
    std::thread::scope(|scope| {
        // The mover waits for its word, frozen job in hand.
        let relay = scope.spawn(|| -> io::Result<()> {
            let report: CheckpointReport =
                local::receive(&mut ours, local::REPLY_MAX).map_err(io::Error::other)?;
            send(stream, &report, &spool)?;
            stream.wait_for(PATIENCE)?;
            stream.read_exact(&mut [0])?;
            ours.write_all(&[1])
        });
        let saved = disk::save(daemon, caller, job, (&spool, known), Some(theirs), &none);
        // What it says otherwise is in `saved` too: nobody has said that the file is kept.
        relay.join().ok();
        saved
    })
}

fn send(stream: &mut BlockingTls, report: &CheckpointReport, spool: &File) -> io::Result<()> {
    let mut spool = spool;
    let length = spool.seek(SeekFrom::End(0))?;
    spool.seek(SeekFrom::Start(0))?;
    say(stream, &Word::File(report.clone(), length))?;
    io::copy(&mut spool, stream)?;
    stream.flush()
}

fn say(stream: &mut BlockingTls, word: &Word) -> io::Result<()> {
    local::send(stream, word, local::REPLY_MAX).map_err(io::Error::other)
}

fn hear(stream: &mut BlockingTls) -> io::Result<Word> {
    local::receive(stream, local::REPLY_MAX).map_err(io::Error::other)
}

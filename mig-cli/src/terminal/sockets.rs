//! Standard streams that are sockets: the program gets a pipe, and `mig exec` copies.
//!
//! A socket cannot stay behind when its job moves; a pipe's other end can.

use std::{
    fs::File,
    io::{self, IsTerminal, PipeReader, PipeWriter},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread::{self, JoinHandle},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FileType, fstat},
    io::Errno,
};

/// Bytes copied in one go.
const CHUNK: usize = 64 << 10;

/// The copiers of one `mig exec`.
#[derive(Debug)]
pub(crate) struct Sockets {
    outward: Vec<JoinHandle<()>>,
    /// Closing it tells the outward copiers to finish with what is there.
    stop: PipeWriter,
    stopped: PipeReader,
}

/// Copies to be started once the job runs.
#[derive(Debug)]
pub(crate) struct Copy {
    from: OwnedFd,
    to: OwnedFd,
    outward: bool,
}

/// Whether a descriptor is a socket.
fn is_socket(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

/// What the program gets as descriptor `number`, and what is to be copied for it.
pub(crate) fn for_program(
    number: usize,
    fd: BorrowedFd<'_>,
) -> io::Result<(OwnedFd, Option<Copy>)> {
    if !is_socket(fd) {
        return Ok((fd.try_clone_to_owned()?, None));
    }
    let (program, copy) = by_pipe(number, fd)?;
    Ok((program, Some(copy)))
}

/// The same, for a job that has had a pipe: it cannot have the user's terminal instead, and what is
/// typed there is not for it.
pub(crate) fn for_restored(
    number: usize,
    fd: BorrowedFd<'_>,
) -> io::Result<(OwnedFd, Option<Copy>)> {
    match (fd.is_terminal(), number) {
        (false, _) => for_program(number, fd),
        (true, 0) => Ok((File::open("/dev/null")?.into(), None)),
        (true, _) => {
            let (program, copy) = by_pipe(number, fd)?;
            Ok((program, Some(copy)))
        }
    }
}

fn by_pipe(number: usize, fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, Copy)> {
    let own = fd.try_clone_to_owned()?;
    let (reader, writer) = io::pipe()?;
    Ok(if number == 0 {
        (
            reader.into(),
            Copy {
                from: own,
                to: writer.into(),
                outward: false,
            },
        )
    } else {
        (
            writer.into(),
            Copy {
                from: reader.into(),
                to: own,
                outward: true,
            },
        )
    })
}

impl Sockets {
    /// Starts copying.
    pub(crate) fn start(copies: Vec<Copy>) -> io::Result<Sockets> {
        let (stopped, stop) = io::pipe()?;
        let mut outward = Vec::new();
        for copy in copies {
            let stopped = stopped.try_clone()?;
            let is_outward = copy.outward;
            let handle = thread::spawn(move || run(&copy, &stopped));
            // A reader of standard input may wait for ever: it ends with the process.
            if is_outward {
                outward.push(handle);
            }
        }
        Ok(Sockets {
            outward,
            stop,
            stopped,
        })
    }

    /// The program has ended: what it wrote last is copied, and no more.
    pub(crate) fn finish(self) {
        drop((self.stop, self.stopped));
        for handle in self.outward {
            handle.join().ok();
        }
    }
}

fn run(copy: &Copy, stopped: &PipeReader) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut set = [
            PollFd::new(&copy.from, PollFlags::IN),
            PollFd::new(stopped, PollFlags::empty()),
        ];
        match poll(&mut set, None) {
            Ok(_) | Err(Errno::INTR) => (),
            Err(_) => return,
        }
        if set[0].revents().is_empty() {
            if set[1].revents().is_empty() {
                continue;
            }
            return;
        }
        match rustix::io::read(&copy.from, &mut buffer) {
            Ok(length) if length > 0 => {
                if write_all(&copy.to, &buffer[..length]).is_err() {
                    return;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => (),
            Ok(_) | Err(_) => return,
        }
    }
}

fn write_all(to: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(&to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => (),
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&to, PollFlags::OUT)], None)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn a_socket_becomes_a_pipe_both_ways_and_its_last_words_arrive() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (stdin, inward) = for_program(0, theirs.as_fd()).unwrap();
        let (stdout, outward) = for_program(1, theirs.as_fd()).unwrap();
        assert!(!is_socket(stdin.as_fd()) && !is_socket(stdout.as_fd()));
        let sockets = Sockets::start(inward.into_iter().chain(outward).collect()).unwrap();
        ours.write_all(b"question").unwrap();
        let mut word = [0; 8];
        PipeReader::from(stdin).read_exact(&mut word).unwrap();
        assert_eq!(&word, b"question");
        let mut program = PipeWriter::from(stdout);
        program.write_all(b"last words").unwrap();
        let orphan = program.try_clone().unwrap();
        sockets.finish();
        let mut word = [0; 10];
        ours.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"last words");
        drop(orphan);
    }
}

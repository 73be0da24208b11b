//! Descriptors of a real process: captured, opened again, captured again; and
//! the process that was captured is as it was.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    process::{Child, Command, Stdio},
};

use libmig::{
    capture::{
        BulkSink, SharedRegistry,
        files::{CapsuleStdio, FileSource, FileTables, NoHold, capture},
    },
    image::{
        AsyncOwner, BulkTarget, CapsuleImage, Clocks, Descriptor, FileMapping, FileObject,
        FilePath, FsContext, IntervalTimer, JobImage, Layout, LiveProcess, LockFuture, MemoryImage,
        OpenFile, Process, ProcessKind, Stdio as Stream, Tty, TtyInput,
    },
    inspect::maps,
    restore::{
        RestoreHost,
        files::{Opened, Seat, open, place},
    },
    sys::{
        HostPid, descriptor,
        ptrace::{self, Options, SignalState, Waited},
        remote::{Batch, Injector},
        tty,
    },
};
use rustix::{
    fs::{Mode, OFlags, SeekFrom},
    io::FdFlags,
    process::{Pid, PidfdFlags},
    pty::OpenptFlags,
};

/// A process that holds descriptors and does nothing.
struct Holder {
    child: Child,
    pidfd: OwnedFd,
}

impl Holder {
    /// Numbers are those of `fds` here; 0, 1 and 2 are /dev/null.
    fn new(fds: &[&OwnedFd]) -> Self {
        // The harness may leave us descriptors of its own.
        libmig::sys::close_range::mark_all_close_on_exec().unwrap();
        for fd in fds {
            rustix::io::fcntl_setfd(fd, FdFlags::empty()).unwrap();
        }
        let child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for fd in fds {
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).unwrap();
        }
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        // exec(2) is over when the loader has closed what it opened: when the
        // program sleeps.
        let wchan = format!("/proc/{}/syscall", child.id());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !std::fs::read_to_string(&wchan)
            .is_ok_and(|call| call.starts_with("35 ") || call.starts_with("230 "))
        {
            assert!(std::time::Instant::now() < deadline, "sleep never sleeps");
            std::thread::yield_now();
        }
        Self { child, pidfd }
    }

    fn source(&self) -> FileSource<'_> {
        FileSource {
            pid: self.child.id().cast_signed(),
            host: HostPid::new(self.child.id().cast_signed()),
            pidfd: self.pidfd.as_fd(),
        }
    }

    fn capture(&self) -> FileTables {
        let mut shared = SharedRegistry::new();
        capture(
            &[self.source()],
            &CapsuleStdio::default(),
            &mut shared,
            &mut NoHold,
        )
        .unwrap()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// No capsule: neither streams nor a console are asked for.
struct NoHost;

impl RestoreHost for NoHost {
    fn stdio(&mut self, _: Stream) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn console(&mut self, _: &Tty) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn console_master(&mut self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn names(&mut self, _: &[libmig::restore::StagedName]) -> io::Result<()> {
        Ok(())
    }
}

fn image(tables: &FileTables) -> JobImage {
    JobImage {
        shm: Vec::new(),
        system_v: libmig::image::SystemV::default(),
        namespaces: Vec::new(),
        systems: Vec::new(),
        capsule: CapsuleImage {
            hostname: String::new(),
            domainname: String::new(),
            clocks: Clocks::default(),
        },
        processes: Vec::new(),
        files: tables.files.clone(),
        pipes: tables.pipes.clone(),
        ttys: tables.ttys.clone(),
        shared: Vec::new(),
        locks: tables.locks.clone(),
    }
}

fn reopen(image: &JobImage) -> Opened {
    let root = rustix::fs::open("/", OFlags::PATH, Mode::empty()).unwrap();
    open(image, root.as_fd(), &mut NoHost, &|_| None).unwrap()
}

/// The number of descriptions of 0, 1 and 2, which every holder has.
fn of_null(tables: &FileTables) -> usize {
    let highest = tables.descriptors[0][..3].iter().map(|own| own.file).max();
    highest.unwrap() as usize + 1
}

/// Captures what has been opened again, in a process of its own.
fn capture_again(image: &JobImage, opened: &Opened) -> FileTables {
    let copies: Vec<OwnedFd> = (0..)
        .zip(&image.files)
        .map(|(file, _)| {
            let fd = opened.file(file).unwrap();
            rustix::io::fcntl_dupfd_cloexec(fd, 200 + file.cast_signed()).unwrap()
        })
        .collect();
    let holder = Holder::new(&copies.iter().collect::<Vec<_>>());
    holder.capture()
}

/// Captures, opens again and captures again; the files must be equal, but for
/// the names of files that have none. Returns those of the first capture.
fn round_trip(fds: &[&OwnedFd]) -> (Vec<OpenFile>, JobImage, Opened) {
    let holder = Holder::new(fds);
    let before = states(fds);
    let tables = holder.capture();
    assert_eq!(before, states(fds), "the source was changed");
    let image = image(&tables);
    let opened = reopen(&image);
    let again = capture_again(&image, &opened);
    let skipped = of_null(&again);
    for (first, second) in tables.files.iter().zip(&again.files[skipped..]) {
        assert_eq!(&comparable(first), &comparable(second));
    }
    assert_eq!(again.files.len() - skipped, tables.files.len());
    assert_eq!(tables.pipes, again.pipes);
    (tables.files[of_null(&tables)..].to_vec(), image, opened)
}

fn comparable(file: &OpenFile) -> OpenFile {
    let mut file = file.clone();
    match &mut file.object {
        FileObject::Unlinked(unlinked) => {
            unlinked.path.clear();
            unlinked.same_as = unlinked.same_as.map(|_| 0);
        }
        FileObject::Timer(timer) => timer.remaining_ns /= 10_000_000_000,
        _ => {}
    }
    file
}

/// What a capture must leave alone: offset and flags.
fn states(fds: &[&OwnedFd]) -> Vec<(Option<u64>, i32)> {
    let state = |fd: &&OwnedFd| {
        let offset = rustix::fs::seek(fd, SeekFrom::Current(0)).ok();
        (offset, descriptor::status_flags(fd).unwrap())
    };
    fds.iter().map(state).collect()
}

fn file(path: &std::path::Path, flags: OFlags) -> OwnedFd {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).unwrap()
}

#[test]
fn files_by_name_keep_offset_and_flags() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, b"0123456789").unwrap();
    let reader = file(&path, OFlags::RDONLY);
    rustix::fs::seek(&reader, SeekFrom::Start(4)).unwrap();
    let writer = file(
        &path,
        OFlags::RDWR | OFlags::APPEND | OFlags::NONBLOCK | OFlags::CREATE,
    );
    let directory = file(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY);
    let null = file(std::path::Path::new("/dev/null"), OFlags::WRONLY);
    let shared = reader.try_clone().unwrap();
    let (files, ..) = round_trip(&[&reader, &writer, &directory, &null, &shared]);
    assert_eq!(files.len(), 4, "two descriptors are one description");
    assert_eq!(files[0].position, 4);
    assert!(matches!(&files[0].object, FileObject::Path(path) if path.size == 10));
    assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
}

#[test]
fn a_file_that_is_another_one_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    std::fs::write(&path, b"1234").unwrap();
    let fd = file(&path, OFlags::RDONLY);
    let image = image(&Holder::new(&[&fd]).capture());
    let refusal = || {
        let root = rustix::fs::open("/", OFlags::PATH, Mode::empty()).unwrap();
        let opened = open(&image, root.as_fd(), &mut NoHost, &|_| None);
        opened.unwrap_err().to_string()
    };
    std::fs::write(&path, b"12345").unwrap();
    assert!(
        refusal().contains("data: it has 5 bytes at the destination and 4 at the source"),
        "{}",
        refusal()
    );
    std::fs::remove_file(&path).unwrap();
    assert!(refusal().ends_with("data: it is not there at the destination"));
    std::fs::create_dir(&path).unwrap();
    assert!(refusal().ends_with("at the destination and a regular file at the source"));
}

/// Collects what travels beside the image.
#[derive(Default)]
struct Collected(Vec<(u32, u64, Vec<u8>)>);

impl BulkSink for Collected {
    fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> io::Result<()> {
        let BulkTarget::File { file, offset } = target else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        self.0.push((file, offset, bytes.to_vec()));
        Ok(())
    }
}

#[test]
fn unlinked_files_travel_with_their_contents_and_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone");
    let first = file(&path, OFlags::RDWR | OFlags::CREATE);
    let second = file(&path, OFlags::RDONLY);
    std::fs::remove_file(&path).unwrap();
    let target = std::fs::File::from(first.try_clone().unwrap());
    target.write_all_at(b"head", 0).unwrap();
    target.write_all_at(b"tail", 64 << 20).unwrap();
    rustix::fs::seek(&first, SeekFrom::Start(2)).unwrap();
    let (files, image, opened) = round_trip(&[&first, &second]);
    assert!(matches!(&files[1].object, FileObject::Unlinked(file) if file.same_as.is_some()));
    let holder = Holder::new(&[&first, &second]);
    let mut sent = Collected::default();
    holder.capture().unlinked.send(&mut sent).unwrap();
    let total: usize = sent.0.iter().map(|(_, _, bytes)| bytes.len()).sum();
    assert!(total < 1 << 20, "the hole was sent");
    for (file, offset, bytes) in sent.0 {
        opened.write_unlinked(file, offset, &bytes).unwrap();
    }
    let id = |n: usize| u32::try_from(image.files.len() - 2 + n).unwrap();
    let mut tail = [0; 4];
    rustix::io::pread(opened.file(id(1)).unwrap(), &mut tail, 64 << 20).unwrap();
    assert_eq!(&tail, b"tail");
    let mut rest = [0; 2];
    rustix::io::read(opened.file(id(0)).unwrap(), &mut rest).unwrap();
    assert_eq!(&rest, b"ad", "the offset came along");
    assert_eq!(
        rustix::fs::fstat(opened.file(id(0)).unwrap())
            .unwrap()
            .st_nlink,
        0
    );
}

#[test]
fn pipes_keep_their_contents_at_both_ends() {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 8192).unwrap();
    rustix::io::write(&writer, b"unread").unwrap();
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let (_, image, opened) = round_trip(&[&reader, &writer]);
    assert_eq!(image.pipes[0].capacity, 8192);
    let last = u32::try_from(image.files.len() - 2).unwrap();
    let mut buffer = [0; 20];
    for end in [opened.file(last).unwrap(), reader.as_fd()] {
        let count = rustix::io::read(end, &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"unread");
    }
}

#[test]
fn packets_stay_packets_and_a_closed_end_stays_closed() {
    let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::DIRECT;
    let (reader, writer) = rustix::pipe::pipe_with(flags).unwrap();
    rustix::io::write(&writer, b"one").unwrap();
    rustix::io::write(&writer, b"three").unwrap();
    drop(writer);
    let (_, image, opened) = round_trip(&[&reader]);
    assert!(image.pipes[0].packets);
    let end = opened
        .file(u32::try_from(image.files.len() - 1).unwrap())
        .unwrap();
    let mut buffer = [0; 20];
    let mut read = || rustix::io::read(end, &mut buffer).unwrap();
    assert_eq!([read(), read(), read()], [3, 5, 0]);
}

fn fifo(path: &std::path::Path) {
    let kind = rustix::fs::FileType::Fifo;
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

/// Reads what waits in the last description but `back` of the image.
fn waiting_in(image: &JobImage, opened: &Opened, back: usize) -> Vec<u8> {
    let file = u32::try_from(image.files.len() - 1 - back).unwrap();
    let mut buffer = [0; 100];
    let count = rustix::io::read(opened.file(file).unwrap(), &mut buffer).unwrap();
    buffer[..count].to_vec()
}

#[test]
fn a_fifo_is_opened_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    fifo(&path);
    let both = file(&path, OFlags::RDWR);
    let writer = file(&path, OFlags::WRONLY);
    rustix::io::write(&writer, b"queued").unwrap();
    let holder = Holder::new(&[&both, &writer]);
    let tables = holder.capture();
    drop(holder);
    drop((both, writer));
    let image = image(&tables);
    let opened = reopen(&image);
    assert_eq!(waiting_in(&image, &opened, 1), b"queued");
}

#[test]
fn a_fifo_that_both_nodes_share_is_not_filled_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    fifo(&path);
    let both = file(&path, OFlags::RDWR | OFlags::NONBLOCK);
    rustix::io::write(&both, b"queued").unwrap();
    let holder = Holder::new(&[&both]);
    let mut image = image(&holder.capture());
    let opened = reopen(&image);
    assert_eq!(waiting_in(&image, &opened, 0), b"queued");
    let again = rustix::io::read(&both, &mut [0; 100]);
    assert_eq!(again, Err(rustix::io::Errno::AGAIN), "there is more of it");

    // The FIFO of another machine has nothing to do with what waits in this one.
    rustix::io::write(&both, b"a stranger's").unwrap();
    let described = image.pipes.iter_mut().find_map(|pipe| pipe.fifo.as_mut());
    described.unwrap().boot = "another".to_owned();
    let root = rustix::fs::open("/", OFlags::PATH, Mode::empty()).unwrap();
    let refused = open(&image, root.as_fd(), &mut NoHost, &|_| None).unwrap_err();
    assert!(refused.to_string().contains("uses this FIFO"), "{refused}");
}

#[test]
fn a_fifo_outlives_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    fifo(&path);
    let both = file(&path, OFlags::RDWR);
    rustix::fs::fchmod(&both, Mode::from_raw_mode(0o620)).unwrap();
    let reader = file(&path, OFlags::RDONLY | OFlags::NONBLOCK);
    rustix::io::write(&both, b"queued").unwrap();
    std::fs::remove_file(&path).unwrap();
    let holder = Holder::new(&[&both, &reader]);
    let image = image(&holder.capture());
    let opened = reopen(&image);
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 0, "a name stays behind");
    let first = opened
        .file(u32::try_from(image.files.len() - 2).unwrap())
        .unwrap();
    let stat = rustix::fs::fstat(first).unwrap();
    assert_eq!((stat.st_mode, stat.st_nlink), (libc::S_IFIFO | 0o620, 0));
    assert_eq!(waiting_in(&image, &opened, 0), b"queued");
    rustix::io::write(first, b"more").unwrap();
    assert_eq!(waiting_in(&image, &opened, 0), b"more", "two pipes of one");
    let mut own = [0; 100];
    let count = rustix::io::read(&reader, &mut own).unwrap();
    assert_eq!(&own[..count], b"queued", "the source was changed");
}

#[test]
fn counters_clocks_and_masks() {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::SEMAPHORE).unwrap();
    let mut adder = std::fs::File::from(event.try_clone().unwrap());
    adder.write_all(&0x1_2345_6789_u64.to_ne_bytes()).unwrap();
    let timer = descriptor::timerfd(1).unwrap();
    descriptor::set_timerfd(&timer, 0, 3_605_000_000_000, 7_000_000_000).unwrap();
    descriptor::set_timerfd_ticks(&timer, 3).unwrap();
    let absolute = descriptor::timerfd(0).unwrap();
    descriptor::set_timerfd(&absolute, 1, 1, 0).unwrap();
    let signals = descriptor::signalfd(0x8000_0000_0000_0200).unwrap();
    let (files, ..) = round_trip(&[&event, &timer, &absolute, &signals]);
    let expected = FileObject::Event {
        count: 0x1_2345_6789,
        semaphore: true,
    };
    assert_eq!(files[0].object, expected);
    let FileObject::Timer(state) = files[1].object else {
        panic!("{:?}", files[1]);
    };
    assert_eq!(
        (state.clock, state.ticks, state.interval_ns),
        (1, 3, 7_000_000_000)
    );
    assert!((3_590_000_000_000..=3_605_000_000_000).contains(&state.remaining_ns));
    let FileObject::Timer(state) = files[2].object else {
        panic!("{:?}", files[2]);
    };
    assert_eq!(
        (state.ticks, state.remaining_ns, state.settime_flags),
        (1, 0, 1)
    );
    let mask = FileObject::Signal {
        mask: 0x8000_0000_0000_0200,
    };
    assert_eq!(files[3].object, mask);
}

#[test]
fn an_interest_list_knows_its_descriptions() {
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let first = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let second = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    epoll::add(&set, &first, EventData::new_u64(11), EventFlags::IN).unwrap();
    // The second goes in under a number that is closed afterwards.
    let alias = second.try_clone().unwrap();
    let number = alias.as_raw_fd();
    let flags = EventFlags::OUT | EventFlags::ET;
    epoll::add(&set, &alias, EventData::new_u64(22), flags).unwrap();
    drop(alias);
    let holder = Holder::new(&[&set, &first, &second]);
    let tables = holder.capture();
    let by_number: BTreeMap<i32, u32> = tables.descriptors[0]
        .iter()
        .map(|own| (own.number, own.file))
        .collect();
    let list = &tables.files[by_number[&set.as_raw_fd()] as usize].object;
    let FileObject::Epoll(entries) = list else {
        panic!("{list:?}");
    };
    let mut entries = entries.clone();
    entries.sort_by_key(|entry| entry.data);
    assert_eq!(entries[0].file, by_number[&first.as_raw_fd()]);
    assert_eq!(entries[1].file, by_number[&second.as_raw_fd()]);
    assert_eq!(
        (entries[0].data, entries[1].data, entries[1].number),
        (11, 22, number)
    );
    assert_eq!(entries[1].events, flags.bits() | 0x18);
}

#[test]
fn a_terminal_of_ones_own_comes_back_with_its_queues() {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
    tty::set_window(&master, [31, 99, 0, 0]).unwrap();
    rustix::io::write(&slave, b"out\n").unwrap();
    let output = b"out\r\n".to_vec();
    // Typed now, it would be echoed behind the output.
    let mut modes = tty::modes(&master).unwrap();
    modes.c_lflag &= !linux_raw_sys::general::ECHO;
    tty::set_modes(&master, &modes).unwrap();
    rustix::io::write(&master, b"line\nhal").unwrap();
    let holder = Holder::new(&[&master, &slave]);
    let tables = holder.capture();
    assert_eq!(
        holder.capture().ttys,
        tables.ttys,
        "a capture changes nothing"
    );
    let seen = &tables.ttys[0];
    assert_eq!((seen.window, &seen.output), ([31, 99, 0, 0], &output));
    let input = [b"line\n".to_vec(), b"hal".to_vec()].map(TtyInput::Bytes);
    assert_eq!(seen.input, input);
    // The index must be free to come back.
    drop((holder, master, slave));
    let image = image(&tables);
    let opened = reopen(&image);
    let again = capture_again(&image, &opened);
    assert_eq!(again.ttys, tables.ttys);
}

#[test]
fn what_cannot_travel_stops_the_capture() {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::NETLINK,
        rustix::net::SocketType::RAW,
        None,
    )
    .unwrap();
    let holder = Holder::new(&[&socket]);
    let mut shared = SharedRegistry::new();
    let refusal = capture(
        &[holder.source()],
        &CapsuleStdio::default(),
        &mut shared,
        &mut NoHold,
    );
    let refusal = refusal.unwrap_err().to_string();
    assert!(
        refusal.ends_with("a netlink socket cannot move"),
        "{refusal}"
    );
}

/// A process of an image that has nothing but descriptors.
fn bare(pid: i32, descriptors: Vec<Descriptor>) -> Process {
    let file = FilePath {
        space: None,
        path: b"/".to_vec(),
        mode: 0,
        size: 0,
    };
    let exe = FileMapping {
        file: file.clone(),
        offset: 0,
    };
    let live = LiveProcess {
        memory: MemoryImage {
            exe_object: None,
            layout: Layout::default(),
            exe,
            mappings: Vec::new(),
            vdso: None,
            membarrier: 0,
            lock_future: LockFuture::Not,
            merge_future: false,
        },
        descriptors,
        fs: FsContext {
            cwd: file.clone(),
            root: file,
            umask: 0,
        },
        actions: Vec::new(),
        pending: Vec::new(),
        stopped: None,
        itimers: [IntervalTimer::default(); 3],
        timers: Vec::new(),
        limits: Vec::new(),
        oom_score_adj: 0,
        coredump_filter: 0,
        dumpable: 1,
        child_subreaper: false,
        thp_disable: false,
        exec_gain: 0,
        personality: 0,
        filters: Vec::new(),
        namespaces: libmig::image::Membership::default(),
        child_space: libmig::image::ChildSpace::default(),
        threads: Vec::new(),
    };
    Process {
        pid,
        ppid: 1,
        pgid: pid,
        sid: pid,
        inner: libmig::image::InnerIds::default(),
        kind: ProcessKind::Live(Box::new(live)),
    }
}

/// Has another process run the calls that give it the table.
fn place_in(holder: &Holder, table: &[Descriptor], opened: &Opened, daemon_pidfd: i32) {
    let host = holder.source().host;
    ptrace::seize(host, Options::PTRACE_O_TRACESYSGOOD).unwrap();
    ptrace::interrupt(host).unwrap();
    let Waited::Stopped(mut stopped, _) = ptrace::wait(host).unwrap() else {
        panic!("it died")
    };
    stopped.guard(SignalState::default()).unwrap();
    let site = maps::injection_site(host).unwrap();
    let injector = Injector::install(&mut stopped, &site).unwrap();
    let mut batch = Batch::new();
    let seat = Seat {
        pid: host.raw(),
        daemon: daemon_pidfd,
        seen: &|id| id,
    };
    place(&seat, table, opened, &mut batch, |_, _| {});
    injector
        .run(&mut stopped, &batch)
        .unwrap()
        .complete()
        .unwrap();
    injector.remove(&mut stopped, site.foothold).unwrap();
    stopped.release().unwrap();
}

#[test]
fn a_husk_gets_numbers_interests_and_owners() {
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    let event = || rustix::event::eventfd(5, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let (set, first, second) = (
        epoll::create(CreateFlags::CLOEXEC).unwrap(),
        event(),
        event(),
    );
    epoll::add(&set, &first, EventData::new_u64(1), EventFlags::IN).unwrap();
    let alias = second.try_clone().unwrap();
    epoll::add(&set, &alias, EventData::new_u64(2), EventFlags::ET).unwrap();
    // One number of the interest list is closed, another means something else.
    drop(alias);
    let reused = first.try_clone().unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let other = second.try_clone().unwrap();
    epoll::add(&set, &other, EventData::new_u64(3), EventFlags::OUT).unwrap();
    drop(other);
    let fds = [&set, &first, &second, &reused, &reader, &writer];
    let source = Holder::new(&fds);
    let mut tables = source.capture();

    // The pipe's reader raises a signal for the process that is being filled.
    let me = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    let husk = Holder::new(&[&me]);
    let pid = husk.source().pid;
    let table = &tables.descriptors[0];
    let of = |fd: &OwnedFd| {
        let own = table.iter().find(|own| own.number == fd.as_raw_fd());
        own.unwrap().file
    };
    let signalling = of(&reader) as usize;
    tables.files[signalling].flags |= O_ASYNC;
    tables.files[signalling].owner = Some(AsyncOwner {
        kind: 1,
        id: pid,
        signal: 10,
    });
    let table = tables.descriptors[0].clone();
    let mut image = image(&tables);
    image.processes.push(bare(pid, table.clone()));
    let opened = reopen(&image);
    place_in(&husk, &table, &opened, me.as_raw_fd());

    let again = husk.capture();
    assert_eq!(again.descriptors, tables.descriptors);
    let sorted = |files: &[OpenFile]| {
        let mut files = files.to_vec();
        for file in &mut files {
            if let FileObject::Epoll(entries) = &mut file.object {
                entries.sort_by_key(|entry| (entry.data, entry.number));
            }
        }
        files
    };
    assert_eq!(sorted(&again.files), sorted(&tables.files));
    assert_eq!(again.pipes, tables.pipes);
}

/// O_ASYNC, which rustix has no name for.
const O_ASYNC: i32 = 0o20_000;

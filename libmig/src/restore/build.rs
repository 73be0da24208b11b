//! From the zygote to a tree of husks with mapped, empty address spaces,
//! and their contents.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use super::{
    RestoreHost,
    address_space::{self, Sources, VdsoPlace},
    clocks::{self, Offsets},
    error::{self, RestoreError},
    files::{Opened, pidfd},
    grow::{self, Husks, Seat},
    husk,
    layout::{self, Layout, MappedFile},
    namespaces::Namespaces,
    numbers::Numbers,
    own_vdso::OwnVdso,
    pin::Pin,
    prepare::Prepared,
    remains::Remains,
    shm::Tree,
    sources::{MappedFiles, SharedObjects},
    task::Task,
    thread::{clone3, wait_for},
    world::{World, segments},
};
use crate::{
    api::Obstacle,
    image::{BulkTarget, INIT, JobImage, LiveProcess, Pid, Process, ProcessKind, SharedMemory},
    inspect::{self, maps},
    sys::{
        HostPid,
        cgroup::JobGroup,
        process_vm,
        remote::{Batch, Foothold, Injector, Site},
    },
};

/// A tree of husks: mapped, waiting for contents.
///
/// **Afterwards**: dropped (or when the daemon dies), everything is gone.
#[derive(Debug)]
pub struct Building {
    pub(super) remains: Remains,
    pub(super) group: JobGroup,
    pub(super) zygote: Task,
    pub(super) pin: Pin,
    pub(super) husks: Husks,
    pub(super) spaces: BTreeMap<Pid, Space>,
    pub(super) injector: Injector,
    pub(super) vdso: OwnVdso,
    pub(super) shared: SharedObjects,
    pub(super) shm: Tree,
    /// Open file descriptions of the tree.
    pub(super) opened: Opened,
    /// What the job's clocks are shifted by.
    pub(super) offsets: Offsets,
    /// The time namespace that each husk has yet to enter.
    pub(super) time: Option<File>,
    /// What is nothing any more of the memory that came before the image.
    pub(super) absent: BTreeMap<Pid, Vec<Range<u64>>>,
    /// Keeps the descriptors open that the spaces name.
    pub(super) files: MappedFiles,
    /// Those that the job had made.
    pub(super) namespaces: Namespaces,
    /// What the processes call each other.
    pub(super) numbers: Numbers,
    /// The husks' descriptor that stands for the daemon.
    pub(super) daemon: i32,
    /// Whether timer_create(2) can be told an ID.
    pub(super) exact_timers: bool,
    /// The capsule's init.
    pub(super) init: HostPid,
    /// Descriptors are given when there are threads: they name some.
    pub(super) late: bool,
}

/// What is known of an address space.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) layout: Layout,
    pub(super) vdso: Option<VdsoPlace>,
    pub(super) exe: RawFd,
}

const CLONE_NEWTIME: u64 = 0x80;
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;

impl Prepared {
    /// Makes the tree of `image` and maps its memory.
    ///
    /// # Errors
    /// What stands in the way; nothing is left then.
    pub fn build(
        mut self,
        image: &JobImage,
        host: &mut dyn RestoreHost,
    ) -> Result<Building, RestoreError> {
        let layouts = layouts(&image.processes)?;
        let steps = grow::plan(&image.processes, self.zygote.id, self.zygote_group)?;
        let base = self.base(image)?;
        let (offsets, time) = self.make_time(image, base)?;
        self.enter_time(base, &time)?;
        let (world, attachments) = World::make(&mut self, image, host, (base, offsets))?;
        let seat = Seat {
            numbers: &world.numbers,
            terminals: world.opened.terminals(),
            daemon: base.daemon,
        };
        let (zygote, remains) = (&mut self.zygote, &mut self.remains);
        let husks = grow::grow(zygote, base.injector, &steps, &seat, remains)?;
        let mut building = self.building(base, husks, world, (offsets, None))?;
        for (process, layout) in live(&image.processes).zip(layouts) {
            building.map(process.0, process.1, layout, &image.shared)?;
        }
        drop(attachments);
        building.complete(image, host)?;
        Ok(building)
    }

    pub(super) fn building(
        self,
        base: Base,
        husks: Husks,
        world: World,
        (offsets, time): (Offsets, Option<File>),
    ) -> Result<Building, RestoreError> {
        let files = MappedFiles::with(self.root, world.namespaces.mounts.roots())?;
        Ok(Building {
            remains: self.remains,
            group: self.group,
            zygote: self.zygote,
            pin: self.pin,
            husks,
            spaces: BTreeMap::new(),
            injector: base.injector,
            vdso: self.vdso,
            shared: world.shared,
            shm: world.shm,
            opened: world.opened,
            offsets,
            namespaces: world.namespaces,
            time,
            absent: BTreeMap::new(),
            numbers: world.numbers,
            files,
            daemon: base.daemon,
            exact_timers: base.exact_timers,
            init: self.init,
            late: false,
        })
    }

    /// What every husk is born with.
    pub(super) fn base(&mut self, image: &JobImage) -> Result<Base, RestoreError> {
        let injector = self.inject(image)?;
        let (daemon, exact_timers) = self.ready(image, injector)?;
        Ok(Base {
            injector,
            daemon,
            exact_timers,
        })
    }

    /// Puts the injected pages where no process of the tree has anything.
    fn inject(&mut self, image: &JobImage) -> Result<Injector, RestoreError> {
        let areas = maps::read(self.zygote.host())
            .map_err(error::host("read the mappings of the zygote"))?;
        let mut occupied: Vec<(u64, u64)> =
            areas.iter().map(|area| (area.start, area.end)).collect();
        for (_, process) in live(&image.processes) {
            occupied.extend(
                process
                    .memory
                    .mappings
                    .iter()
                    .map(|mapping| (mapping.start, mapping.end)),
            );
        }
        let hole = layout::hole(occupied, Injector::SPAN).ok_or_else(|| Obstacle {
            pid: None,
            object: "address space".into(),
            reason: "has no gap that is free in every process of the job".into(),
            remedy: "none: the programs use all of their addresses".into(),
            transient: false,
        })?;
        let site = Site {
            hole,
            foothold: Foothold::Syscall(husk::SYSCALL),
        };
        Injector::install(&mut self.zygote.stopped, &site)
            .map_err(error::remote(self.zygote.id, "take injected code"))
    }

    /// Undoes what execve(2) leaves of the init's signal actions, moves the
    /// daemon's pidfd out of the way of the job's descriptors, and learns what
    /// this kernel can do.
    fn ready(&mut self, image: &JobImage, injector: Injector) -> Result<(i32, bool), RestoreError> {
        let used = |number: i32| {
            live(&image.processes).any(|(_, p)| p.descriptors.iter().any(|d| d.number == number))
        };
        let daemon = (husk::DAEMON_PIDFD..i32::MAX)
            .find(|number| !used(*number))
            .unwrap_or(husk::DAEMON_PIDFD);
        let mut batch = Batch::new();
        let default = batch.reserve(32);
        batch.call(
            libc::SYS_rt_sigaction,
            &[
                libc::SIGCHLD.into(),
                default.into(),
                0u64.into(),
                8u64.into(),
            ],
        );
        if daemon != husk::DAEMON_PIDFD {
            batch.call(
                libc::SYS_dup3,
                &[husk::DAEMON_PIDFD.into(), daemon.into(), 0.into()],
            );
            batch.call(libc::SYS_close, &[husk::DAEMON_PIDFD.into()]);
        }
        let asked = [
            PR_TIMER_CREATE_RESTORE_IDS.into(),
            1u64.into(),
            0u64.into(),
            0u64.into(),
            0u64.into(),
        ];
        let exact = batch.attempt(libc::SYS_prctl, &asked);
        let withdrawn = [
            PR_TIMER_CREATE_RESTORE_IDS.into(),
            0u64.into(),
            0u64.into(),
            0u64.into(),
            0u64.into(),
        ];
        batch.attempt(libc::SYS_prctl, &withdrawn);
        let results = self.zygote.run(injector, &batch, "get ready")?;
        Ok((daemon, results.outcome(exact).value().is_some()))
    }

    /// Makes a time namespace in which the job's clocks go on; the zygote's children are
    /// born into it from now on.
    pub(super) fn make_time(
        &mut self,
        image: &JobImage,
        base: Base,
    ) -> Result<(Offsets, File), RestoreError> {
        let mut batch = Batch::new();
        batch.call(libc::SYS_unshare, &[CLONE_NEWTIME.into()]);
        self.zygote
            .run(base.injector, &batch, "make the time namespace of the job")?;
        let here = clocks::machine().map_err(error::host("read the clocks"))?;
        let offsets = clocks::offsets(&image.capsule.clocks, &here);
        clocks::write(self.zygote.host(), offsets)
            .map_err(error::host("set the offsets of the job's clocks"))?;
        let path = format!("/proc/{}/ns/time_for_children", self.zygote.host());
        let namespace = File::open(&path).map_err(error::host(format!("open {path}")))?;
        Ok((offsets, namespace))
    }

    fn enter_time(&mut self, base: Base, namespace: &File) -> Result<(), RestoreError> {
        let mut batch = Batch::new();
        enter_time(&mut batch, base.daemon, namespace);
        self.zygote
            .run(base.injector, &batch, "enter the time namespace of the job")?;
        Ok(())
    }
}

/// Has a process without threads enter a time namespace.
pub(super) fn enter_time(batch: &mut Batch, daemon: i32, namespace: &File) {
    let fd = batch.call(
        libc::SYS_pidfd_getfd,
        &[daemon.into(), namespace.as_raw_fd().into(), 0u64.into()],
    );
    batch.call(libc::SYS_setns, &[fd.into(), CLONE_NEWTIME.into()]);
    batch.call(libc::SYS_close, &[fd.into()]);
}

/// What every husk is born with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base {
    pub(super) injector: Injector,
    /// As in [`Building`].
    pub(super) daemon: i32,
    /// As in [`Building`].
    pub(super) exact_timers: bool,
}

impl Building {
    /// What needs the processes: ends of the dead, connections, views.
    pub(super) fn complete(
        &mut self,
        image: &JobImage,
        host: &mut dyn RestoreHost,
    ) -> Result<(), RestoreError> {
        self.mount_late(image)?;
        let mut hosts: BTreeMap<Pid, HostPid> = BTreeMap::from([(INIT, self.init)]);
        hosts.extend(self.husks.iter().map(|(pid, husk)| (*pid, husk.host())));
        self.bury(&image.processes)?;
        self.opened
            .open_processes(image, |pid| hosts.get(&pid).copied())?;
        self.outlive(image)?;
        let root = self.files.root().try_clone_to_owned();
        let root = root.map_err(error::host("keep the root of the job open"))?;
        let means = (self.injector, self.daemon);
        let husks = &mut self.husks;
        self.opened
            .connect(image, root.as_fd(), host, husks, means)?;
        self.opened.open_views(image, root.as_fd())?;
        Ok(())
    }

    /// Of what was written before the image came, this is nothing any more.
    ///
    /// # Errors
    /// For a process that is not there.
    pub fn absent(&mut self, pid: Pid, range: Range<u64>) -> Result<(), RestoreError> {
        if !self.husks.contains_key(&pid) {
            return Err(nowhere(format!("memory of pid {pid}")).into());
        }
        self.absent.entry(pid).or_default().push(range);
        Ok(())
    }

    /// Writes bytes that travel beside the image.
    ///
    /// # Errors
    /// When they do not belong anywhere, or memory is short.
    pub fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> Result<(), RestoreError> {
        match target {
            BulkTarget::Memory { pid, address } => write(&self.husks, pid, address, bytes),
            BulkTarget::Shared { object, offset } => self
                .shared
                .write(object, offset, bytes)
                .map_err(error::host(format!(
                    "write shared memory {object} at {offset:#x}"
                ))),
            BulkTarget::File { file, offset } => {
                let written = self.opened.write_unlinked(file, offset, bytes);
                written.map_err(error::host(format!(
                    "write unlinked file {file} at {offset:#x}"
                )))
            }
        }
    }

    /// Empties a husk and maps what its process has.
    fn map(
        &mut self,
        pid: Pid,
        process: &LiveProcess,
        layout: Layout,
        objects: &[SharedMemory],
    ) -> Result<(), RestoreError> {
        let keep = (
            self.injector.address(),
            self.injector.address() + Injector::SPAN,
        );
        let vdso = self.vdso.place(pid, &process.memory, &layout, keep)?;
        let (files, exe) = self.open_for(pid, process, &layout)?;
        let segments = segments(pid, (&layout, &process.memory), [keep], objects)?;
        let shared = |id, writable| self.shared.raw(id, writable);
        let sources = Sources {
            daemon: self.daemon,
            files: &files,
            shared: &shared,
            is_ring: &|id| self.shared.is_ring(id),
            segments: &segments,
        };
        let batch = address_space::map((&layout, &process.memory), keep, vdso, &sources);
        let husk = self
            .husks
            .get_mut(&pid)
            .expect("the tree has every process of the image");
        husk.run(self.injector, &batch, "map its memory")?;
        if let Some(place) = vdso {
            self.vdso.settle(pid, husk.host(), &process.memory, place)?;
        }
        self.map_rings(pid, &layout)?;
        self.spaces.insert(pid, Space { layout, vdso, exe });
        Ok(())
    }

    /// Descriptors of the files of a layout, and of the program.
    pub(super) fn open_for(
        &mut self,
        pid: Pid,
        process: &LiveProcess,
        layout: &Layout,
    ) -> Result<(Vec<RawFd>, RawFd), RestoreError> {
        let program = MappedFile {
            file: process.memory.exe.file.clone(),
            writable: false,
        };
        let exe = match process.memory.exe_object {
            Some(object) => self.shared.raw(object, false).unwrap_or(-1),
            None => self.files.get(pid, &program)?,
        };
        let files = &layout.files;
        let numbers = files.iter().map(|file| self.files.get(pid, file));
        Ok((numbers.collect::<Result<_, _>>()?, exe))
    }

    /// Lets the zombies die again. Their parents, being husks, do not wait.
    fn bury(&mut self, processes: &[Process]) -> Result<(), RestoreError> {
        for process in processes {
            let ProcessKind::Zombie { status, comm } = &process.kind else {
                continue;
            };
            let mut husk = self
                .husks
                .remove(&process.pid)
                .expect("the tree has every process of the image");
            let mut batch = Batch::new();
            let name = batch.string(comm);
            batch.call(libc::SYS_prctl, &[libc::PR_SET_NAME.into(), name.into()]);
            husk.end(self.injector, batch, *status)?;
            self.remains.forget(husk.host());
        }
        Ok(())
    }

    /// Makes those who have been waited for, and are named by pidfds: children of the zygote,
    /// which end at once.
    fn outlive(&mut self, image: &JobImage) -> Result<(), RestoreError> {
        const STEP: &str = "make somebody for a pidfd";
        for ended in pidfd::ended(image) {
            let mut batch = Batch::new();
            clone3(&mut batch, 0, 0, &[]);
            let results = self.zygote.run(self.injector, &batch, STEP)?;
            let born = results.children().first().copied();
            let born = born.ok_or_else(|| {
                error::host(STEP)(std::io::Error::from(std::io::ErrorKind::NotFound))
            })?;
            self.remains.add(born);
            let status = inspect::process::status(born).map_err(error::host(STEP))?;
            let id = status.own_id().unwrap_or(born.raw());
            let mut child = Task::born(id, born)?;
            for file in ended.files {
                self.opened.name(image, file, Some(born))?;
            }
            child.end(self.injector, Batch::new(), ended.status)?;
            self.remains.forget(born);
            let mut batch = Batch::new();
            wait_for(&mut batch, id);
            self.zygote.run(self.injector, &batch, STEP)?;
        }
        Ok(())
    }
}

/// Writes into the memory of a husk.
pub(super) fn write(
    husks: &Husks,
    pid: Pid,
    address: u64,
    bytes: &[u8],
) -> Result<(), RestoreError> {
    let Some(husk) = husks.get(&pid) else {
        return Err(nowhere(format!("memory of pid {pid}")).into());
    };
    // Pages that may not be written to are written past their protection.
    process_vm::write_all(husk.host(), address, bytes)
        .or_else(|_| process_vm::force_write(husk.host(), address, bytes))
        .map_err(error::host(format!(
            "write memory of pid {pid} at {address:#x}"
        )))
}

/// The live processes of an image.
pub(super) fn live(processes: &[Process]) -> impl Iterator<Item = (Pid, &LiveProcess)> {
    processes.iter().filter_map(|process| match &process.kind {
        ProcessKind::Live(live) => Some((process.pid, &**live)),
        ProcessKind::Zombie { .. } => None,
    })
}

pub(super) fn layouts(processes: &[Process]) -> Result<Vec<Layout>, Obstacle> {
    live(processes)
        .map(|(pid, process)| layout::plan(pid, &process.memory))
        .collect()
}

pub(super) fn nowhere(object: String) -> Obstacle {
    Obstacle {
        pid: None,
        object,
        reason: "is not part of the image".into(),
        remedy: "report it: the source should not have sent this".into(),
        transient: false,
    }
}

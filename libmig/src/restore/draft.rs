//! A tree of husks that is made, and whose memory is filled, while the job still runs at
//! its source.

use std::{collections::BTreeMap, os::fd::RawFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{
    RestoreHost,
    address_space::{self, Sources, VdsoPlace},
    build::{self, Base, Building, Space, live},
    error::{self, RestoreError},
    files::ControllingTerminal,
    grow::{self, Husks, Seat},
    layout::{Layout, Source},
    numbers::Numbers,
    prepare::Prepared,
    revise,
    sources::MappedFiles,
    world::{self, World},
};
use crate::{
    api::Obstacle,
    image::{self, BulkTarget, Draft, JobImage, LiveProcess, MemoryImage, Pid, SharedMemory},
    sys::remote::{Batch, Injector},
};

/// More than the data and the code of a vDSO take.
const VDSO_SPAN: u64 = 64 << 10;

/// A tree of husks for a job that runs elsewhere.
///
/// **Afterwards**: dropped (or when the daemon dies), everything is gone.
#[derive(Debug)]
pub struct Drafted {
    prepared: Prepared,
    base: Base,
    husks: Husks,
    /// What of each address space is there.
    spaces: BTreeMap<Pid, Laid>,
}

#[derive(Debug)]
struct Laid {
    layout: Layout,
    vdso: Option<VdsoPlace>,
    memory: MemoryImage,
}

impl Prepared {
    /// Makes the tree of a draft, and maps what its processes have of their own.
    ///
    /// # Errors
    /// What stands in the way; nothing is left then.
    pub fn draft(mut self, draft: &Draft) -> Result<Drafted, RestoreError> {
        let image = &draft.image;
        let layouts = build::layouts(&image.processes)?;
        let steps = grow::plan(&image.processes, self.zygote.id, self.zygote_group)?;
        let base = self.base(image)?;
        let terminals: Vec<_> = draft
            .console
            .map(|seat| self.terminal(seat))
            .transpose()?
            .into_iter()
            .collect();
        let numbers = Numbers::of(&image.processes);
        let seat = Seat {
            terminals: &terminals,
            numbers: &numbers,
            daemon: base.daemon,
        };
        let (zygote, remains) = (&mut self.zygote, &mut self.remains);
        let husks = grow::grow(zygote, base.injector, &steps, &seat, remains)?;
        let root = self.root.try_clone();
        let root = root.map_err(error::host("keep the root of the job open"))?;
        let mut files = MappedFiles::new(root);
        let mut drafted = Drafted {
            prepared: self,
            base,
            husks,
            spaces: BTreeMap::new(),
        };
        for ((pid, process), layout) in live(&image.processes).zip(layouts) {
            drafted.lay(pid, process, revise::own(layout), &mut files)?;
        }
        Ok(drafted)
    }

    /// The slave of the job's own terminal, to be taken by its session.
    fn terminal(&self, seat: image::Seat) -> Result<ControllingTerminal, RestoreError> {
        let slave = rustix::fs::openat2(
            &self.root,
            format!("dev/pts/{}", seat.index),
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        );
        let slave = slave
            .map_err(|errno| error::host("open the job's terminal")(std::io::Error::from(errno)))?;
        Ok(ControllingTerminal::of(slave, seat.session))
    }
}

impl Drafted {
    fn lay(
        &mut self,
        pid: Pid,
        process: &LiveProcess,
        layout: Layout,
        files: &mut MappedFiles,
    ) -> Result<(), RestoreError> {
        let keep = keep(self.base.injector);
        let vdso = self
            .prepared
            .vdso
            .place(pid, &process.memory, &layout, keep)?;
        let numbers = open_mapped(files, pid, &layout)?;
        let sources = Sources {
            daemon: self.base.daemon,
            files: &numbers,
            shared: &|_, _| None,
            is_ring: &|_| false,
            segments: &[],
        };
        let batch = address_space::map((&layout, &process.memory), keep, vdso, &sources);
        let husk = self
            .husks
            .get_mut(&pid)
            .expect("the tree has every process of the draft");
        husk.run(self.base.injector, &batch, "map its memory")?;
        if let Some(place) = vdso {
            let own = &self.prepared.vdso;
            own.settle(pid, husk.host(), &process.memory, place)?;
        }
        let laid = Laid {
            layout,
            vdso,
            memory: process.memory.clone(),
        };
        self.spaces.insert(pid, laid);
        Ok(())
    }

    /// Writes bytes that come before the image.
    ///
    /// # Errors
    /// When they do not belong anywhere, or memory is short.
    pub fn bulk(&mut self, target: BulkTarget, bytes: &[u8]) -> Result<(), RestoreError> {
        match target {
            BulkTarget::Memory { pid, address } => build::write(&self.husks, pid, address, bytes),
            other => Err(build::nowhere(format!("{other:?}")).into()),
        }
    }

    /// Makes of it the tree of `image`, which the draft fits ([`Draft::fits`]).
    ///
    /// # Errors
    /// What stands in the way; nothing is left then.
    pub fn build(
        self,
        image: &JobImage,
        host: &mut dyn RestoreHost,
    ) -> Result<Building, RestoreError> {
        let Self {
            mut prepared,
            base,
            husks,
            mut spaces,
        } = self;
        let layouts = build::layouts(&image.processes)?;
        let (offsets, time) = prepared.make_time(image, base)?;
        let (world, attachments) = World::make(&mut prepared, image, host, (base, offsets))?;
        let mut building = prepared.building(base, husks, world, (offsets, Some(time)))?;
        for ((pid, process), layout) in live(&image.processes).zip(layouts) {
            let laid = spaces.remove(&pid);
            let laid = laid.ok_or_else(|| outgrown(pid, "is not one of the draft"))?;
            check(pid, &laid, (&process.memory, &layout), keep(base.injector))?;
            building.change(pid, process, (laid, layout), &image.shared)?;
        }
        drop(attachments);
        building.complete(image, host)?;
        Ok(building)
    }
}

impl Building {
    /// Changes what a husk has of memory into what its process has now.
    fn change(
        &mut self,
        pid: Pid,
        process: &LiveProcess,
        (laid, layout): (Laid, Layout),
        objects: &[SharedMemory],
    ) -> Result<(), RestoreError> {
        let lasting = process.memory.lasting(&laid.memory);
        let revision = revise::revise(&laid.layout, &layout, &lasting);
        let mut batch = Batch::new();
        for (address, length) in revision.unmap {
            batch.call(libc::SYS_munmap, &[address.into(), length.into()]);
        }
        let (numbers, exe) = self.open_for(pid, process, &layout)?;
        let taken = foreign(laid.vdso).chain([keep(self.injector)]);
        let segments = world::segments(pid, (&layout, &process.memory), taken, objects)?;
        let shared = |id, writable| self.shared.raw(id, writable);
        let sources = Sources {
            daemon: self.daemon,
            files: &numbers,
            shared: &shared,
            is_ring: &|id| self.shared.is_ring(id),
            segments: &segments,
        };
        address_space::attach(&mut batch, &revision.layout, &sources);
        address_space::extend(&mut batch, &revision.layout, &sources);
        address_space::describe(&mut batch, &layout, &process.memory);
        let husk = self
            .husks
            .get_mut(&pid)
            .ok_or_else(|| outgrown(pid, "is not one of the draft"))?;
        husk.run(self.injector, &batch, "change its memory")?;
        self.map_rings(pid, &layout)?;
        let vdso = laid.vdso;
        self.spaces.insert(pid, Space { layout, vdso, exe });
        Ok(())
    }

    /// Empties what is nothing any more.
    pub(super) fn forget_absent(&mut self) -> Result<(), RestoreError> {
        for (pid, ranges) in std::mem::take(&mut self.absent) {
            let Some(husk) = self.husks.get_mut(&pid) else {
                continue;
            };
            let mut batch = Batch::new();
            for range in ranges {
                let length = range.end - range.start;
                let dropped = libc::MADV_DONTNEED;
                batch.call(
                    libc::SYS_madvise,
                    &[range.start.into(), length.into(), dropped.into()],
                );
            }
            husk.run(self.injector, &batch, "forget memory that is gone")?;
        }
        Ok(())
    }
}

/// Descriptors of the files that are mapped, by their places in the layout.
fn open_mapped(
    files: &mut MappedFiles,
    pid: Pid,
    layout: &Layout,
) -> Result<Vec<RawFd>, RestoreError> {
    let mapped = |index: usize| {
        let mut maps = layout.maps.iter();
        maps.any(|map| map.source == Source::File(index))
    };
    let all = layout.files.iter().enumerate();
    all.map(|(index, file)| match mapped(index) {
        true => files.get(pid, file),
        false => Ok(-1),
    })
    .collect()
}

fn keep(injector: Injector) -> (u64, u64) {
    (injector.address(), injector.address() + Injector::SPAN)
}

fn build_id(memory: &MemoryImage) -> Option<Vec<u8>> {
    memory.vdso.as_ref().map(|vdso| vdso.build_id.clone())
}

/// What lies where the draft could not know that anything would.
fn check(
    pid: Pid,
    laid: &Laid,
    (memory, layout): (&MemoryImage, &Layout),
    (from, to): (u64, u64),
) -> Result<(), Obstacle> {
    let vdso = (layout.vdso, layout.vdso_group) == (laid.layout.vdso, laid.layout.vdso_group);
    if !vdso || build_id(memory) != build_id(&laid.memory) {
        return Err(outgrown(pid, "has moved its vDSO"));
    }
    let mut maps = memory.mappings.iter();
    let free = |(from, to): (u64, u64)| !maps.any(|map| map.start < to && map.end > from);
    if !foreign(laid.vdso).chain([(from, to)]).all(free) {
        return Err(outgrown(pid, "has mapped memory where mig works"));
    }
    Ok(())
}

/// Where this kernel's vDSO lies, when the program came with that of another one.
fn foreign(vdso: Option<VdsoPlace>) -> impl Iterator<Item = (u64, u64)> {
    let place = vdso.filter(|place| place.old.is_some());
    place
        .into_iter()
        .map(|place| (place.group, place.group + VDSO_SPAN))
}

fn outgrown(pid: Pid, reason: &str) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: "process".into(),
        reason: format!("{reason} since its memory was sent ahead"),
        remedy: "move it again".into(),
        transient: true,
    }
}

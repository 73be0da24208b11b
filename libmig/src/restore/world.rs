//! What the processes of a job share, and what can be made before them.

use std::os::fd::AsFd;

use super::{
    RestoreHost,
    address_space::Segment,
    build::{Base, nowhere},
    clocks::Offsets,
    error::RestoreError,
    files::{self, Opened},
    layout::{self, Attach, Layout, Piece},
    mounts::Roots,
    namespaces::{Means, Namespaces},
    numbers::Numbers,
    own,
    prepare::Prepared,
    shm::Tree,
    sources::SharedObjects,
    system_v,
};
use crate::{
    api::Obstacle,
    image::{JobImage, MemoryImage, Pid, SharedKind, SharedMemory},
    sys::segment::Attachment,
};

const PAGE: u64 = 4096;

/// What processes share, and can be made without them.
pub(super) struct World {
    pub(super) shm: Tree,
    pub(super) shared: SharedObjects,
    pub(super) opened: Opened,
    pub(super) namespaces: Namespaces,
    /// What the processes call each other.
    pub(super) numbers: Numbers,
}

impl World {
    /// The attachments keep segments that have been removed until they are attached.
    pub(super) fn make(
        prepared: &mut Prepared,
        image: &JobImage,
        host: &mut dyn RestoreHost,
        (base, offsets): (Base, Offsets),
    ) -> Result<(Self, Vec<Attachment>), RestoreError> {
        let root = prepared.root.as_fd();
        let (own, names) = own::make(image, root, host)?;
        let (shm, mut files) = Tree::make(image, root, own)?;
        let attachments = system_v::make(prepared.init, image, &mut files)?;
        let mut means = Means {
            zygote: &mut prepared.zygote,
            injector: base.injector,
            daemon: base.daemon,
            remains: &mut prepared.remains,
            offsets,
        };
        let namespaces = Namespaces::make(image, &mut means, &mut files)?;
        let zygote = &mut prepared.zygote;
        let shared = SharedObjects::make(&image.shared, files, zygote, base.injector)?;
        let roots = Roots {
            home: root,
            mounts: namespaces.mounts.roots(),
        };
        let mut opened = files::open_in(image, roots, host, &|id| shared.duplicate(id))?;
        opened.open_queues(image, prepared.init)?;
        opened.names = names;
        let world = Self {
            shm,
            shared,
            opened,
            namespaces,
            numbers: Numbers::of(&image.processes),
        };
        Ok((world, attachments))
    }
}

/// What the attaches of an address space attach, and where they may do so for a moment.
pub(super) fn segments(
    pid: Pid,
    (layout, memory): (&Layout, &MemoryImage),
    taken: impl IntoIterator<Item = (u64, u64)>,
    objects: &[SharedMemory],
) -> Result<Vec<Segment>, Obstacle> {
    let places = memory.mappings.iter().map(|one| (one.start, one.end));
    let occupied: Vec<(u64, u64)> = places.chain(taken).collect();
    let find = |attach: &Attach| {
        let object = usize::try_from(attach.object).ok();
        let object = object.and_then(|at| objects.get(at));
        let object = object.filter(|object| object.size > 0);
        let Some((SharedKind::SystemV(segment), size)) = object.map(|one| (&one.kind, one.size))
        else {
            return Err(nowhere(format!("segment {} of pid {pid}", attach.object)));
        };
        let length = size.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let passage = layout::hole(occupied.clone(), length);
        let inside = |piece: &Piece| piece.offset + piece.length <= length;
        match passage {
            Some(passage) if attach.pieces.iter().all(inside) => Ok(Segment {
                id: segment.object.id,
                length,
                passage,
            }),
            Some(_) => Err(nowhere(format!(
                "a mapping of pid {pid} beyond its segment"
            ))),
            None => Err(Obstacle {
                pid: Some(pid),
                object: format!("System V shared memory segment {}", segment.object.id),
                reason: "has no room in the address space beside what is there already".into(),
                remedy: "none: the program uses all of its addresses".into(),
                transient: false,
            }),
        }
    };
    layout.attaches.iter().map(find).collect()
}

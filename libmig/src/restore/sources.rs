//! What the mappings map: files of the job's root, and shared memory objects.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::FileExt,
    },
};

use rustix::fs::{MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags};

use super::{
    error::{RestoreError, host},
    layout::{MappedFile, huge_page_flags},
    mounts::Roots,
    ring,
    shm::Files,
    task::Task,
};
use crate::{
    api::Obstacle,
    image::{FilePath, NamespaceId, Pid, SharedId, SharedKind, SharedMemory},
    inspect::manifest,
    sys::{
        remote::{Batch, Injector},
        shared_pages,
    },
};

/// Linux 6.3.
const F_SEAL_EXEC: u32 = 0x20;

/// Files opened in the job's root, each once for the whole tree.
#[derive(Debug)]
pub(super) struct MappedFiles {
    root: OwnedFd,
    mounts: BTreeMap<NamespaceId, OwnedFd>,
    open: BTreeMap<Wanted, OwnedFd>,
}

/// Namespace, path, mode, size, and whether it is open for writing: what one mapping wants is not what
/// another one has been given.
type Wanted = (Option<NamespaceId>, Vec<u8>, u32, u64, bool);

impl MappedFiles {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            mounts: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    /// Also in these mount namespaces.
    pub(super) fn with(
        root: OwnedFd,
        mounts: &BTreeMap<NamespaceId, OwnedFd>,
    ) -> Result<Self, RestoreError> {
        let mounts = mounts.iter().map(|(id, root)| Ok((*id, root.try_clone()?)));
        let mounts: std::io::Result<_> = mounts.collect();
        Ok(Self {
            mounts: mounts.map_err(host("keep the roots of the job open"))?,
            ..Self::new(root)
        })
    }

    /// The job's root directory, for as long as files are opened.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// All root directories.
    pub(super) fn roots(&self) -> Roots<'_> {
        Roots {
            home: self.root.as_fd(),
            mounts: &self.mounts,
        }
    }

    /// The job's root directory.
    pub(super) fn into_root(self) -> OwnedFd {
        self.root
    }

    /// A descriptor of the daemon for a mapping of process `pid`.
    pub(super) fn get(&mut self, pid: Pid, wanted: &MappedFile) -> Result<RawFd, RestoreError> {
        let file = wanted.file.clone();
        let key = (file.space, file.path, file.mode, file.size, wanted.writable);
        if let Some(open) = self.open.get(&key) {
            return Ok(open.as_raw_fd());
        }
        let opened = self.open(pid, &wanted.file, wanted.writable)?;
        let raw = opened.as_raw_fd();
        self.open.insert(key, opened);
        Ok(raw)
    }

    fn open(&self, pid: Pid, file: &FilePath, writable: bool) -> Result<OwnedFd, Obstacle> {
        let access = if writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let root = self.roots().of(file.space);
        let root = root.map_err(|error| obstacle(pid, file, error.to_string()))?;
        let opened = rustix::fs::openat2(
            root,
            file.path.as_slice(),
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )
        .map_err(|errno| {
            obstacle(
                pid,
                file,
                format!("it cannot be opened at the destination: {errno}"),
            )
        })?;
        let found =
            rustix::fs::fstat(&opened).map_err(|errno| obstacle(pid, file, errno.to_string()))?;
        if let Some(reason) = manifest::difference(&found, file, true) {
            return Err(obstacle(pid, file, reason));
        }
        Ok(opened)
    }
}

fn obstacle(pid: Pid, file: &FilePath, reason: impl Into<String>) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: format!("mapped file {}", String::from_utf8_lossy(&file.path)),
        reason: reason.into(),
        remedy: "give both nodes the same file, or keep it in a folder that they share".into(),
        transient: false,
    }
}

/// The shared memory objects of a job.
#[derive(Debug)]
pub(super) struct SharedObjects {
    objects: Vec<Object>,
}

#[derive(Debug)]
struct Object {
    /// For contents, and for mappings that may write.
    file: File,
    /// For those that may not.
    readable: File,
    /// A file that may be somebody's program, which nobody may have open for writing.
    is_file: bool,
    is_ring: bool,
    /// Size of its huge pages in KiB; 0 for ordinary pages.
    hugetlb_kib: u32,
}

impl Object {
    fn new(file: File, kind: &SharedKind) -> Result<Self, RestoreError> {
        let readable = match kind {
            // Its descriptor is all that leads to it.
            SharedKind::Ring(_) => file.try_clone().map_err(host("duplicate an io_uring"))?,
            _ => reopen(&file)?,
        };
        Ok(Self {
            file,
            readable,
            is_file: matches!(kind, SharedKind::File(_)),
            is_ring: matches!(kind, SharedKind::Ring(_)),
            hugetlb_kib: kind.hugetlb_kib(),
        })
    }
}

fn reopen(file: &File) -> Result<File, RestoreError> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(host("open a shared object for reading"))
}

impl SharedObjects {
    /// Makes them all, empty. The anonymous ones are mapped by the zygote,
    /// since only such a mapping is called `/dev/zero (deleted)`.
    pub(super) fn make(
        shared: &[SharedMemory],
        mut files: Files,
        zygote: &mut Task,
        injector: Injector,
    ) -> Result<Self, RestoreError> {
        let mut objects = Vec::new();
        for (id, memory) in shared.iter().enumerate() {
            let object = match &memory.kind {
                SharedKind::Anonymous { hugetlb_kib } => {
                    anonymous(id, memory.size, *hugetlb_kib, zygote, injector)?
                }
                SharedKind::Memfd {
                    name,
                    hugetlb_kib,
                    seals,
                    attributes,
                } => {
                    let never_runs = seals & F_SEAL_EXEC != 0 && attributes.mode & 0o111 == 0;
                    memfd(id, memory.size, name, (*hugetlb_kib, never_runs))?
                }
                SharedKind::Ring(state) => ring::make(state)?,
                SharedKind::File(_) | SharedKind::SystemV(_) => {
                    let made = SharedId::try_from(id).ok().and_then(|id| files.remove(&id));
                    made.ok_or_else(|| nowhere(id))?
                }
            };
            objects.push(Object::new(object, &memory.kind)?);
        }
        Ok(Self { objects })
    }

    pub(super) fn get(&self, id: SharedId) -> Option<&File> {
        Some(&self.object(id)?.file)
    }

    /// Whether it is a ring of io_uring(7).
    pub(super) fn is_ring(&self, id: SharedId) -> bool {
        self.object(id).is_some_and(|object| object.is_ring)
    }

    fn object(&self, id: SharedId) -> Option<&Object> {
        self.objects.get(usize::try_from(id).ok()?)
    }

    /// A descriptor of the daemon to map it through.
    pub(super) fn raw(&self, id: SharedId, writable: bool) -> Option<RawFd> {
        let object = self.object(id)?;
        let file = if writable {
            &object.file
        } else {
            &object.readable
        };
        Some(file.as_raw_fd())
    }

    /// All contents of files are there: from now on the daemon has them open for
    /// reading only, since no program can be a file that somebody may write to.
    pub(super) fn stop_writing(&mut self) -> Result<(), RestoreError> {
        for object in self.objects.iter_mut().filter(|object| object.is_file) {
            object.file = reopen(&object.readable)?;
        }
        Ok(())
    }

    pub(super) fn duplicate(&self, id: SharedId) -> Option<OwnedFd> {
        self.get(id)?.as_fd().try_clone_to_owned().ok()
    }

    pub(super) fn write(&self, id: SharedId, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let object = self.object(id).ok_or(std::io::ErrorKind::InvalidInput)?;
        match object.hugetlb_kib {
            0 => object.file.write_all_at(bytes, offset),
            kib => shared_pages::write(&object.file, offset, bytes, u64::from(kib) * 1024),
        }
    }

    /// Seals are set when contents and mappings are there.
    pub(super) fn seal(&self, shared: &[SharedMemory]) -> Result<(), RestoreError> {
        for (object, memory) in self.objects.iter().zip(shared) {
            if let SharedKind::Memfd { seals, name, .. } = &memory.kind {
                rustix::fs::fcntl_add_seals(&object.file, SealFlags::from_bits_retain(*seals))
                    .map_err(host(format!(
                        "seal memfd {}",
                        String::from_utf8_lossy(name)
                    )))?;
            }
        }
        Ok(())
    }
}

fn nowhere(id: usize) -> Obstacle {
    Obstacle {
        pid: None,
        object: format!("shared memory {id}"),
        reason: "is a file of /dev/shm that has no name there, or a segment that was not made"
            .into(),
        remedy: "report it: the source should not have sent this".into(),
        transient: false,
    }
}

fn memfd(
    id: usize,
    size: u64,
    name: &[u8],
    (hugetlb_kib, never_runs): (u32, bool),
) -> Result<File, RestoreError> {
    let failed = || {
        format!(
            "make shared memory {id}, memfd {}",
            String::from_utf8_lossy(name)
        )
    };
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if hugetlb_kib != 0 {
        flags |= MemfdFlags::HUGETLB
            | MemfdFlags::from_bits_retain((hugetlb_kib.trailing_zeros() + 10) << 26);
    }
    if never_runs {
        // The only kind that may be made where vm.memfd_noexec is 2.
        flags |= MemfdFlags::NOEXEC_SEAL;
    }
    let object = rustix::fs::memfd_create(name, flags).map_err(host(failed()))?;
    rustix::fs::ftruncate(&object, size).map_err(host(failed()))?;
    Ok(object.into())
}

fn anonymous(
    id: usize,
    size: u64,
    hugetlb_kib: u32,
    zygote: &mut Task,
    injector: Injector,
) -> Result<File, RestoreError> {
    const STEP: &str = "map shared memory";
    let huge = huge_page_flags(hugetlb_kib).map_err(|reason| Obstacle {
        pid: None,
        object: format!("shared memory {id}"),
        reason: reason.into(),
        remedy: String::new(),
        transient: false,
    })?;
    // The object outlives its mappings through the descriptor; NORESERVE is the
    // zygote's own, the mappings of the tree account for themselves.
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | huge;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let mut batch = Batch::new();
    let address = batch.call(
        libc::SYS_mmap,
        &[
            0u64.into(),
            size.into(),
            protection.into(),
            flags.into(),
            (-1).into(),
            0u64.into(),
        ],
    );
    let results = zygote.run(injector, &batch, STEP)?;
    let start = results
        .value(address)
        .map_err(super::error::remote(zygote.id, STEP))?;
    let end = start.saturating_add(size);
    let link = format!("/proc/{}/map_files/{start:x}-{end:x}", zygote.host());
    let object = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&link)
        .map_err(host(format!("open {link}")))?;
    let mut batch = Batch::new();
    batch.call(libc::SYS_munmap, &[start.into(), size.into()]);
    zygote.run(injector, &batch, STEP)?;
    Ok(object)
}

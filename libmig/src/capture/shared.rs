//! Memory objects that several mappings or descriptors reach: shared anonymous
//! memory, memfds, files of /dev/shm, mapped files without a name and segments of System V. Each
//! is sent once, whoever finds it first, a mapping or a descriptor; device and inode say which is which.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    sync::Arc,
};

use rustix::fs::{SealFlags, fcntl_get_seals, fstatfs};

use super::{
    segments,
    shm::{self, attributes},
};
use crate::{
    image::{RingState, SharedFile, SharedId, SharedKind, SharedMemory},
    inspect::{
        atlas::{Atlas, Place},
        own::OwnFiles,
    },
};

/// f_type of hugetlbfs, whose block size is the huge page size.
pub(super) const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// A shared object could not be described.
#[derive(Debug, thiserror::Error)]
#[error("cannot describe the shared memory object {name}")]
pub struct SharedError {
    /// Its name in `/proc`.
    pub name: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// All shared memory objects of a tree.
#[derive(Debug, Default)]
pub struct SharedRegistry {
    objects: Vec<(SharedMemory, File)>,
    by_inode: HashMap<(u64, u64), SharedId>,
    /// Segments of System V by their IDs: these are their inode numbers too, which are those of
    /// other objects on the same device as well.
    by_id: HashMap<u64, SharedId>,
    own: OwnFiles,
    /// Where names are looked up; `None` where the capsule's root is all.
    atlas: Option<Arc<Atlas>>,
}

impl SharedRegistry {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing yet; files that are the job's own are objects.
    #[must_use]
    pub(super) fn with(own: OwnFiles) -> Self {
        Self {
            own,
            ..Self::default()
        }
    }

    /// Names are looked up there.
    pub(super) fn set_atlas(&mut self, atlas: Arc<Atlas>) {
        self.atlas = Some(atlas);
    }

    /// Where names are looked up, if somebody has said so.
    pub(super) fn atlas(&self) -> Option<Arc<Atlas>> {
        self.atlas.clone()
    }

    /// The number of the file that `link`, a magic link of `/proc`, leads to, if it is one of
    /// /dev/shm or one of the job's own; the latter is added when it is new.
    ///
    /// # Errors
    /// When it cannot be looked at or opened.
    pub(super) fn named(
        &mut self,
        place: Place<'_>,
        link: &Path,
        name: &[u8],
    ) -> io::Result<Option<SharedId>> {
        let metadata = std::fs::metadata(link)?;
        if let Some(known) = self.known(metadata.dev(), metadata.ino()) {
            return Ok(Some(known));
        }
        let own = match place.space {
            None => self.own.judge(place.root, name, &metadata),
            Some(_) => None,
        };
        let Some(own) = own else {
            return Ok(None);
        };
        let file = File::open(link)?;
        let about = SharedFile {
            path: name.to_vec(),
            in_shm: false,
            named: false,
            attributes: attributes(&shm::Place::Open(&file), &metadata)?,
            own: Some(own),
        };
        // By its number: extended attributes and O_NOATIME are those of the file.
        let place = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.intern_file(Path::new(&place), about).map(Some)
    }

    /// Whether a link of `/proc/PID/fd` or a name in `/proc/PID/maps` is an
    /// object of this registry: a memfd or shared anonymous memory.
    #[must_use]
    pub fn concerns(name: &[u8]) -> bool {
        kind_by_name(name).is_some()
    }

    /// The number of the object that `descriptor` is open on; it is added when
    /// it is new. Any access mode will do.
    ///
    /// # Errors
    /// For an object of another kind (see [`Self::concerns`]), or when it cannot be opened for reading.
    pub fn intern(&mut self, descriptor: &OwnedFd, name: &[u8]) -> Result<SharedId, SharedError> {
        self.intern_io(descriptor, name)
            .map_err(|source| SharedError {
                name: String::from_utf8_lossy(name).into_owned(),
                source,
            })
    }

    /// The objects by rising number.
    pub fn objects(&self) -> impl Iterator<Item = &SharedMemory> {
        self.objects.iter().map(|(memory, _)| memory)
    }

    /// A descriptor to read the contents of an object with.
    #[must_use]
    pub fn contents(&self, object: SharedId) -> Option<&File> {
        self.objects
            .get(usize::try_from(object).ok()?)
            .map(|(_, file)| file)
    }

    /// The number of the object with this device and inode, if it is one.
    #[must_use]
    pub fn known(&self, device: u64, inode: u64) -> Option<SharedId> {
        self.by_inode.get(&(device, inode)).copied()
    }

    /// The number of a regular file; it is added when it is new.
    ///
    /// # Errors
    /// When it cannot be opened for reading.
    pub fn intern_file(&mut self, path: &Path, about: SharedFile) -> io::Result<SharedId> {
        // Nobody shall see that it has been read.
        let quiet = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOATIME | libc::O_NONBLOCK)
            .open(path);
        let file = quiet.or_else(|_| File::open(path))?;
        let metadata = file.metadata()?;
        let key = (metadata.dev(), metadata.ino());
        if let Some(known) = self.by_inode.get(&key) {
            return Ok(*known);
        }
        let memory = SharedMemory {
            kind: SharedKind::File(about),
            size: metadata.len(),
        };
        self.add(key, memory, file)
    }

    pub(super) fn add_segment(&mut self, found: segments::Found) -> io::Result<()> {
        let id = u64::try_from(found.segment.object.id).map_err(|_| io::ErrorKind::InvalidData)?;
        let memory = SharedMemory {
            kind: SharedKind::SystemV(found.segment),
            size: found.size,
        };
        let object = self.push(memory, found.file)?;
        self.by_id.insert(id, object);
        Ok(())
    }

    /// The number of a segment of System V by its ID, and its size.
    pub(super) fn segment(&self, id: u64) -> Option<(SharedId, u64)> {
        let object = *self.by_id.get(&id)?;
        let (memory, _) = self.objects.get(usize::try_from(object).ok()?)?;
        Some((object, memory.size))
    }

    /// Adds a ring of io_uring(7) that is new, by device and inode.
    ///
    /// # Errors
    /// With more objects than can be counted.
    pub(super) fn intern_ring(
        &mut self,
        key: (u64, u64),
        ring: OwnedFd,
        state: RingState,
    ) -> io::Result<SharedId> {
        let memory = SharedMemory {
            kind: SharedKind::Ring(Box::new(state)),
            size: 0,
        };
        self.add(key, memory, ring.into())
    }

    fn add(&mut self, key: (u64, u64), memory: SharedMemory, file: File) -> io::Result<SharedId> {
        let id = self.push(memory, file)?;
        self.by_inode.insert(key, id);
        Ok(id)
    }

    fn push(&mut self, memory: SharedMemory, file: File) -> io::Result<SharedId> {
        let id = SharedId::try_from(self.objects.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.objects.push((memory, file));
        Ok(id)
    }

    fn intern_io(&mut self, descriptor: &OwnedFd, name: &[u8]) -> io::Result<SharedId> {
        // Through the magic link: the descriptor itself may be write-only.
        let file = File::open(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))?;
        let metadata = file.metadata()?;
        let key = (metadata.dev(), metadata.ino());
        if let Some(known) = self.by_inode.get(&key) {
            return Ok(*known);
        }
        let kind = kind_by_name(name).ok_or(io::ErrorKind::Unsupported)?;
        let memory = SharedMemory {
            kind: describe(&kind, &file)?,
            size: metadata.len(),
        };
        self.add(key, memory, file)
    }
}

enum NamedKind<'a> {
    Anonymous,
    Memfd(&'a [u8]),
}

fn kind_by_name(name: &[u8]) -> Option<NamedKind<'_>> {
    let name = name.strip_suffix(b" (deleted)")?;
    if matches!(name, b"/dev/zero" | b"/anon_hugepage") {
        return Some(NamedKind::Anonymous);
    }
    name.strip_prefix(b"/memfd:").map(NamedKind::Memfd)
}

fn describe(kind: &NamedKind<'_>, file: &File) -> io::Result<SharedKind> {
    let statfs = fstatfs(file)?;
    let hugetlb_kib = match statfs.f_type {
        HUGETLBFS_MAGIC => u32::try_from(statfs.f_bsize / 1024).unwrap_or(0),
        _ => 0,
    };
    Ok(match kind {
        NamedKind::Anonymous => SharedKind::Anonymous { hugetlb_kib },
        NamedKind::Memfd(name) => SharedKind::Memfd {
            name: name.to_vec(),
            seals: seals(file)?.bits(),
            hugetlb_kib,
            attributes: attributes(&shm::Place::Open(file), &file.metadata()?)?,
        },
    })
}

fn seals(file: &File) -> io::Result<SealFlags> {
    Ok(fcntl_get_seals(file.as_fd())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};

    #[test]
    fn a_memfd_is_known_by_any_of_its_descriptors() {
        let first = memfd_create("a b", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&first, 8192).unwrap();
        fcntl_add_seals(&first, SealFlags::SHRINK).unwrap();
        let second = rustix::io::dup(&first).unwrap();
        let file = File::from(rustix::io::dup(&first).unwrap());
        let other = memfd_create("c", MemfdFlags::empty()).unwrap();
        let mut registry = SharedRegistry::new();
        assert_eq!(registry.intern(&first, b"/memfd:a b (deleted)").unwrap(), 0);
        assert_eq!(
            registry.intern(&second, b"/memfd:a b (deleted)").unwrap(),
            0
        );
        assert_eq!(registry.intern(&other, b"/memfd:c (deleted)").unwrap(), 1);
        let objects: Vec<_> = registry.objects().collect();
        let seals = SealFlags::SHRINK.bits();
        let expected = SharedKind::Memfd {
            name: b"a b".to_vec(),
            seals,
            hugetlb_kib: 0,
            attributes: attributes(&shm::Place::Open(&file), &file.metadata().unwrap()).unwrap(),
        };
        assert_eq!(
            objects[0],
            &SharedMemory {
                kind: expected,
                size: 8192
            }
        );
        assert!(registry.contents(1).is_some() && registry.contents(2).is_none());
    }

    #[test]
    fn other_files_are_no_shared_objects() {
        assert!(!SharedRegistry::concerns(b"/etc/passwd"));
        assert!(!SharedRegistry::concerns(b"/SYSV00000000 (deleted)"));
        assert!(SharedRegistry::concerns(b"/dev/zero (deleted)"));
    }
}

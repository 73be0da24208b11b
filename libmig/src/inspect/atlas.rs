//! Where the names of a job's files are looked up: in the capsule's mount namespace, or in one
//! that the job has made.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use super::{
    mounts::{self, MountLine},
    nest::Nest,
};
use crate::{
    image::{Membership, NamespaceId},
    sys::{HostPid, mount},
};

/// The roots of all of them.
#[derive(Debug)]
pub struct Atlas {
    home: OwnedFd,
    lands: Vec<Land>,
}

/// A mount namespace of the job.
#[derive(Debug)]
pub struct Land {
    /// Which.
    pub id: NamespaceId,
    /// Its root.
    pub root: OwnedFd,
    /// Its mounts.
    pub mounts: Vec<MountLine>,
    /// It, open.
    pub namespace: File,
}

/// Where a file is.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The namespace; `None` for the capsule's.
    pub space: Option<NamespaceId>,
    /// Its root.
    pub root: &'a OwnedFd,
}

impl Atlas {
    /// Of the capsule alone.
    #[must_use]
    pub fn new(home: OwnedFd) -> Self {
        Self {
            home,
            lands: Vec::new(),
        }
    }

    /// With the mount namespaces that these processes are in, in the order in which they are found. What
    /// cannot be looked at is left out: whoever is in it is refused for that elsewhere.
    #[must_use]
    pub fn near(home: OwnedFd, members: impl IntoIterator<Item = HostPid>) -> Self {
        let capsule = mount::id_of(&home);
        let mut atlas = Self::new(home);
        let mut known = BTreeSet::new();
        for member in members {
            let Ok(namespace) = File::open(format!("/proc/{member}/ns/mnt")) else {
                continue;
            };
            let inode = namespace.metadata().map(|found| found.ino());
            if !inode.is_ok_and(|inode| known.insert(inode)) {
                continue;
            }
            let Ok((root, mounts)) = mounts::of(&namespace) else {
                continue;
            };
            if mounts
                .iter()
                .any(|line| capsule.as_ref().is_ok_and(|id| line.id == *id))
            {
                continue;
            }
            atlas.lands.push(Land {
                id: NamespaceId::try_from(atlas.lands.len()).unwrap_or(NamespaceId::MAX),
                root,
                mounts,
                namespace,
            });
        }
        atlas
    }

    /// Adds a namespace, if it is new.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn add(&mut self, nest: &Nest, membership: &Membership) -> io::Result<()> {
        let Some(id) = membership.mount.filter(|id| self.land(*id).is_none()) else {
            return Ok(());
        };
        let space = nest
            .spaces
            .get(id as usize)
            .ok_or(io::ErrorKind::NotFound)?;
        let (root, mounts) = mounts::of(&space.file)?;
        self.lands.push(Land {
            id,
            root,
            mounts,
            namespace: space.file.try_clone()?,
        });
        Ok(())
    }

    /// The capsule's root.
    #[must_use]
    pub fn home(&self) -> &OwnedFd {
        &self.home
    }

    /// The namespaces of the job.
    #[must_use]
    pub fn lands(&self) -> &[Land] {
        &self.lands
    }

    fn land(&self, id: NamespaceId) -> Option<&Land> {
        self.lands.iter().find(|land| land.id == id)
    }

    /// The namespace that has this mount; the capsule's, if none of the job has it.
    fn by_mount(&self, id: impl FnOnce() -> io::Result<u64>) -> Place<'_> {
        let has = |land: &&Land, id| land.mounts.iter().any(|line| line.id == id);
        let id = if self.lands.is_empty() {
            None
        } else {
            id().ok()
        };
        let found = id.and_then(|id| self.lands.iter().find(|land| has(land, id)));
        match found {
            Some(land) => Place {
                space: Some(land.id),
                root: &land.root,
            },
            None => Place {
                space: None,
                root: &self.home,
            },
        }
    }

    /// Where the file is that a magic link of /proc leads to.
    #[must_use]
    pub fn place(&self, link: &Path) -> Place<'_> {
        self.by_mount(|| mount::id_at(link))
    }

    /// Where an open file is.
    #[must_use]
    pub fn place_of(&self, file: impl AsFd) -> Place<'_> {
        self.by_mount(|| mount::id_of(file))
    }
}

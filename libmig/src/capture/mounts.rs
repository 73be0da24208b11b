//! The mount namespaces that the job has made, and the file systems in them.

use std::{
    collections::BTreeMap,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
};

use rustix::mount::OpenTreeFlags;

use super::{CaptureError, SharedRegistry, hindrance::obstacle, shm};
use crate::{
    api::Obstacle,
    image::{
        FileSystem, Mount, MountSource, Namespace, NamespaceKind, PidSpace, ShmEntry, SystemId,
        SystemKind,
    },
    inspect::{
        atlas::{Atlas, Land},
        mount_tree::{self, Capsule, Planned, Source},
        mounts::{MountLine, below, join},
        nest::Misfit,
        shm::Shm,
        visit,
    },
    sys::HostPid,
};

/// Fills the mount namespaces of an image, and returns what is mounted in them. `spaces` are the
/// job's pid namespaces by inode.
pub(super) fn capture(
    keeper: HostPid,
    atlas: &Atlas,
    spaces: &BTreeMap<u64, Option<PidSpace>>,
    namespaces: &mut [Namespace],
    shared: &mut SharedRegistry,
) -> Result<Vec<FileSystem>, CaptureError> {
    if atlas.lands().is_empty() {
        return Ok(Vec::new());
    }
    let capsule = Capsule::of(keeper).map_err(CaptureError::proc(keeper, "mountinfo"))?;
    let mut systems = Systems {
        keeper,
        spaces,
        shared,
        known: BTreeMap::new(),
        found: Vec::new(),
    };
    for land in atlas.lands() {
        let planned = capsule.plan(&land.mounts).map_err(refused)?;
        systems.bases(&planned);
    }
    for land in atlas.lands() {
        let planned = capsule.plan(&land.mounts).map_err(refused)?;
        let mounts = planned.iter().map(|one| systems.mount(land, one));
        let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
        if let Some(namespace) = namespaces.get_mut(land.id as usize) {
            namespace.kind = NamespaceKind::Mount(mounts);
        }
    }
    systems.finish()
}

fn refused(misfit: Misfit) -> CaptureError {
    obstacle(Obstacle {
        pid: None,
        object: "mount namespace".into(),
        reason: misfit.reason,
        remedy: misfit.remedy.to_owned(),
        transient: false,
    })
}

fn misfit(line: &MountLine, reason: &str) -> CaptureError {
    refused(Misfit {
        reason: format!(
            "the {} at {} of its mount namespace {reason}",
            line.kind,
            String::from_utf8_lossy(&line.point)
        ),
        remedy: "run the program without namespaces of its own",
    })
}

struct Systems<'a> {
    keeper: HostPid,
    spaces: &'a BTreeMap<u64, Option<PidSpace>>,
    shared: &'a mut SharedRegistry,
    /// By device: the number, and the directory above all that is mounted.
    known: BTreeMap<(u32, u32), (SystemId, Vec<u8>)>,
    found: Vec<Option<FileSystem>>,
}

impl Systems<'_> {
    /// Numbers the file systems.
    fn bases(&mut self, planned: &[Planned]) {
        for one in planned.iter().filter(|one| one.source == Source::System) {
            let next = SystemId::try_from(self.known.len()).unwrap_or(SystemId::MAX);
            let root = &one.line.root;
            let known = self.known.entry(one.line.device);
            let (_, base) = known.or_insert_with(|| (next, root.clone()));
            if below(base, root).is_some() {
                base.clone_from(root);
            }
        }
        self.found.resize_with(self.known.len(), || None);
    }

    fn mount(&mut self, land: &Land, planned: &Planned) -> Result<Mount, CaptureError> {
        let line = &planned.line;
        let source = match &planned.source {
            Source::Along => MountSource::Along,
            Source::Capsule {
                path,
                recursive,
                without,
            } => MountSource::Capsule {
                path: path.clone(),
                recursive: *recursive,
                without: without.iter().map(|point| point.clone().into()).collect(),
            },
            Source::System => MountSource::System {
                system: self.system(land, line)?,
                root: line.root.clone(),
            },
        };
        Ok(Mount {
            parent: planned.parent.and_then(|at| u32::try_from(at).ok()),
            point: line.point.clone(),
            source,
            attributes: line.attributes,
            propagation: planned.propagation,
        })
    }

    fn system(&mut self, land: &Land, line: &MountLine) -> Result<SystemId, CaptureError> {
        let (id, base) = self.known.get(&line.device).cloned().unwrap_or_default();
        if below(&line.root, &base).is_none() {
            return Err(misfit(
                line,
                "shows another part of it than other mounts do",
            ));
        }
        let missing = self.found.get(id as usize).is_some_and(Option::is_none);
        if missing && line.root == base {
            let place = mount_tree::visible_root(&land.root, line).map_err(refused)?;
            let kind = self.kind(land, line, place)?;
            self.found[id as usize] = Some(FileSystem {
                options: options(line),
                kind,
            });
        }
        Ok(id)
    }

    fn kind(
        &mut self,
        land: &Land,
        line: &MountLine,
        place: OwnedFd,
    ) -> Result<SystemKind, CaptureError> {
        let failed = |what| CaptureError::proc(self.keeper, what);
        match line.kind.as_str() {
            "tmpfs" => Ok(SystemKind::Tmpfs {
                space: land.id,
                base: line.root.clone(),
                entries: self.tmpfs(land, line, place)?,
            }),
            "proc" => {
                let inode = mount_tree::pid_space_of(&place);
                let space = inode.ok().and_then(|inode| self.spaces.get(&inode));
                let space =
                    space.ok_or_else(|| misfit(line, "is of a pid namespace that has ended"))?;
                Ok(SystemKind::Proc(*space))
            }
            _ => {
                let entries = visit_names(&place).map_err(failed("a devpts of the job"))?;
                if entries.iter().any(|name| name != "ptmx") {
                    return Err(misfit(line, "has terminals, which do not move yet"));
                }
                Ok(SystemKind::Devpts)
            }
        }
    }

    /// All of a tmpfs. What other mounts hide is there too, unless the kernel keeps it from being seen.
    fn tmpfs(
        &mut self,
        land: &Land,
        line: &MountLine,
        place: OwnedFd,
    ) -> Result<Vec<ShmEntry>, CaptureError> {
        let failed = || CaptureError::proc(self.keeper, "a tmpfs of the job");
        let bare = visit::within_mounts(&land.namespace, |_| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            Ok(rustix::mount::open_tree(&place, "", flags)?)
        });
        let shm = Shm::at(bare.unwrap_or(place)).map_err(failed())?;
        let mut entries = Vec::new();
        for found in shm.walk().map_err(failed())? {
            if let Some(kind) = found.foreign() {
                let path = [b"/", found.path.as_os_str().as_bytes()].concat();
                let path = join(&line.point, &path);
                return Err(refused(mount_tree::foreign_file(kind, &path)));
            }
            let name = [b"/", found.path.as_os_str().as_bytes()].concat();
            let path = join(&line.point, &name);
            entries.push(shm::entry(&shm, found, path, self.shared).map_err(failed())?);
        }
        Ok(entries)
    }

    fn finish(self) -> Result<Vec<FileSystem>, CaptureError> {
        let found: Option<Vec<FileSystem>> = self.found.into_iter().collect();
        found.ok_or_else(|| {
            refused(Misfit {
                reason: "a file system of its mount namespace is hidden".to_owned(),
                remedy: "run the program without namespaces of its own",
            })
        })
    }
}

fn visit_names(place: &OwnedFd) -> std::io::Result<Vec<String>> {
    use std::os::fd::AsRawFd;
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}/.", place.as_raw_fd()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// Those that fsconfig(2) takes again.
fn options(line: &MountLine) -> Vec<(String, String)> {
    let wanted: &[&str] = match line.kind.as_str() {
        "tmpfs" => &[
            "size",
            "nr_inodes",
            "nr_blocks",
            "huge",
            "inode32",
            "inode64",
            "mode",
            "uid",
            "gid",
        ],
        "proc" => &["hidepid", "gid", "subset"],
        _ => &["gid", "mode", "ptmxmode", "max"],
    };
    let all = line.options.split(',');
    let all = all.map(|option| option.split_once('=').unwrap_or((option, "")));
    let wanted = all.filter(|(name, _)| wanted.contains(name));
    let source = Some(("source", line.name.as_str())).filter(|(_, name)| !name.is_empty());
    wanted
        .chain(source)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The pid namespaces of a job by inode, with the capsule's.
pub(super) fn pid_spaces(
    keeper: HostPid,
    residents: impl Iterator<Item = (HostPid, Option<PidSpace>)>,
) -> BTreeMap<u64, Option<PidSpace>> {
    let inode = |host: HostPid| {
        let found = std::fs::metadata(format!("/proc/{host}/ns/pid")).ok()?;
        Some(found.ino())
    };
    let home = inode(keeper).map(|inode| (inode, None));
    let others = residents.filter_map(|(host, space)| Some((inode(host)?, space)));
    home.into_iter().chain(others).collect()
}

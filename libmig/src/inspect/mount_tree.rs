//! How the mounts of a namespace that the job has made come about again: by what the
//! capsule has, or by file systems that can be made anew.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
};

use super::{
    atlas::Atlas,
    fd,
    mounts::{self, MountLine, below, join},
    nest::Misfit,
    shm::Shm,
};
use crate::{
    image::Propagation,
    sys::{HostPid, mount},
};

/// A mount, after the one that it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// It.
    pub line: MountLine,
    /// Index of the mount that it is on.
    pub parent: Option<usize>,
    /// What is mounted.
    pub source: Source,
    /// Who follows whom.
    pub propagation: Propagation,
    /// Where the capsule has the same.
    outside: Option<Vec<u8>>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// What the capsule has at `path`, with the mounts below but those in `without`.
    Capsule {
        /// Absolute in the capsule.
        path: Vec<u8>,
        /// Mounts below it come along.
        recursive: bool,
        /// Points in the namespace of those that do not.
        without: Vec<Vec<u8>>,
    },
    /// It came along.
    Along,
    /// Of a file system that the capsule does not have.
    System,
}

const UNKNOWN: &str = "let the program mount it after the move, or run it without namespaces";

/// The capsule's mounts.
#[derive(Debug)]
pub struct Capsule {
    lines: Vec<MountLine>,
    root: OwnedFd,
}

impl Capsule {
    /// Those of the init.
    ///
    /// # Errors
    /// They cannot be looked at.
    pub fn of(keeper: HostPid) -> io::Result<Self> {
        let namespace = fs::File::open(format!("/proc/{keeper}/ns/mnt"))?;
        let (root, lines) = mounts::of(namespace)?;
        Ok(Self { lines, root })
    }

    /// The mounts of a namespace in the order in which they can be made.
    ///
    /// # Errors
    /// What cannot be made anew.
    pub fn plan(&self, nested: &[MountLine]) -> Result<Vec<Planned>, Misfit> {
        let visible = |path: &[u8], id| {
            let place = fd::place(&self.root, path);
            place.is_ok_and(|place| mount::id_of(place).is_ok_and(|found| found == id))
        };
        plan(&self.lines, nested, &visible)
    }
}

/// Why the mount namespaces of a job cannot be made anew.
///
/// # Errors
/// They cannot be looked at.
pub fn judge(keeper: HostPid, atlas: &Atlas) -> io::Result<Vec<Misfit>> {
    let capsule = Capsule::of(keeper)?;
    let mut misfits = Vec::new();
    for land in atlas.lands() {
        match capsule.plan(&land.mounts) {
            Err(misfit) => misfits.push(misfit),
            Ok(planned) => {
                let own = planned.iter().filter(|one| one.source == Source::System);
                misfits.extend(own.filter_map(|one| contents(&land.root, &one.line)));
            }
        }
    }
    Ok(misfits)
}

/// What in a file system of the job's own cannot move.
fn contents(root: &OwnedFd, line: &MountLine) -> Option<Misfit> {
    let place = match visible_root(root, line) {
        Ok(place) => place,
        Err(misfit) => return Some(misfit),
    };
    match line.kind.as_str() {
        "tmpfs" => {
            let found = Shm::at(place).ok()?.walk().unwrap_or_default();
            let foreign = found.iter().find_map(|one| Some((one, one.foreign()?)));
            let (found, kind) = foreign?;
            let path = join(&line.point, &[b"/", path_bytes(found)].concat());
            Some(foreign_file(kind, &path))
        }
        _ => None,
    }
}

fn path_bytes(found: &super::shm::ShmFound) -> &[u8] {
    found.path.as_os_str().as_bytes()
}

/// A socket or a device in a tmpfs.
#[must_use]
pub fn foreign_file(kind: &str, path: &[u8]) -> Misfit {
    let path = String::from_utf8_lossy(path);
    Misfit {
        reason: format!(
            "its mount namespace has a {kind} {path} in a tmpfs, which does not move yet"
        ),
        remedy: "let the program remove it before the move",
    }
}

/// The root of a mount, which must not be hidden by another one.
///
/// # Errors
/// It is.
pub fn visible_root(root: &OwnedFd, line: &MountLine) -> Result<OwnedFd, Misfit> {
    let place = fd::place(root, &line.point).ok();
    let place = place.filter(|place| mount::id_of(place).is_ok_and(|id| id == line.id));
    place.ok_or_else(|| refuse(line, "is hidden by another mount", UNKNOWN))
}

fn refuse(line: &MountLine, reason: &str, remedy: &'static str) -> Misfit {
    let (kind, point) = (&line.kind, String::from_utf8_lossy(&line.point));
    Misfit {
        reason: format!("the {kind} at {point} of its mount namespace {reason}"),
        remedy,
    }
}

type Visible<'a> = &'a dyn Fn(&[u8], u64) -> bool;

fn plan(
    capsule: &[MountLine],
    nested: &[MountLine],
    visible: Visible<'_>,
) -> Result<Vec<Planned>, Misfit> {
    let known: BTreeSet<u64> = nested.iter().map(|line| line.id).collect();
    let mut roots = nested.iter().filter(|line| !known.contains(&line.parent));
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Err(Misfit {
            reason: "its mount namespace does not have one root".to_owned(),
            remedy: UNKNOWN,
        });
    };
    let mut planner = Planner {
        capsule,
        nested,
        visible,
        planned: Vec::with_capacity(nested.len()),
    };
    planner.add(root, None, 0)?;
    planner.complete();
    Ok(planner.planned)
}

struct Planner<'a> {
    capsule: &'a [MountLine],
    nested: &'a [MountLine],
    visible: Visible<'a>,
    planned: Vec<Planned>,
}

impl Planner<'_> {
    /// A mount and all that are on it. What a mount hides was there before it: of those on
    /// the same mount, the deeper ones come first.
    fn add(&mut self, line: &MountLine, parent: Option<usize>, depth: usize) -> Result<(), Misfit> {
        if depth > 128 {
            return Err(refuse(line, "lies too deep", UNKNOWN));
        }
        let own = self.planned.len();
        let planned = self.one(line, parent)?;
        self.planned.push(planned);
        let mut children: Vec<&MountLine> = self
            .nested
            .iter()
            .filter(|one| one.parent == line.id && one.id != line.id)
            .collect();
        let depth_of = |line: &MountLine| line.point.iter().filter(|byte| **byte == b'/').count();
        let order = |line: &MountLine| (Reverse(depth_of(line)), line.point.clone());
        children.sort_by_key(|one| order(one));
        children
            .into_iter()
            .try_for_each(|child| self.add(child, Some(own), depth + 1))
    }

    fn one(&self, line: &MountLine, parent: Option<usize>) -> Result<Planned, Misfit> {
        if let Some(odd) = &line.odd {
            return Err(refuse(line, &format!("is {odd}"), UNKNOWN));
        }
        if line.shared.is_some() {
            let remedy = "make it private: mount --make-rprivate /";
            return Err(refuse(line, "is shared with other mounts", remedy));
        }
        if line.root.ends_with(b"//deleted") {
            return Err(refuse(
                line,
                "is of a file or directory that has been deleted",
                UNKNOWN,
            ));
        }
        let (source, outside) = self.source(line, parent)?;
        let alike = |one: &&MountLine| one.device == line.device && one.master == line.master;
        let propagation = match line.master {
            _ if line.unbindable => Propagation::Unbindable,
            None => Propagation::Private,
            Some(_) if self.capsule.iter().any(|one| alike(&one)) => Propagation::Slave,
            Some(_) => {
                let remedy = "make it private: mount --make-rprivate /";
                return Err(refuse(line, "follows mounts of another namespace", remedy));
            }
        };
        Ok(Planned {
            line: line.clone(),
            parent,
            source,
            propagation,
            outside,
        })
    }

    fn source(
        &self,
        line: &MountLine,
        parent: Option<usize>,
    ) -> Result<(Source, Option<Vec<u8>>), Misfit> {
        let same = |one: &&MountLine| one.device == line.device && one.root == line.root;
        let above = parent.map(|at| &self.planned[at]);
        if let Some(above) = above
            && let Some(outside) = &above.outside
            && let Some(rest) = below(&line.point, &above.line.point)
        {
            let there = join(outside, rest);
            let mut alike = self.capsule.iter().filter(same);
            // Of mounts on each other the lower one is the upper one's parent here, too.
            if alike.any(|one| one.point == there) {
                return Ok((Source::Along, Some(there)));
            }
        }
        let of_system = self.capsule.iter().filter(|one| one.device == line.device);
        let mut paths: Vec<(Vec<u8>, u64)> = of_system
            .clone()
            .filter_map(|one| Some((join(&one.point, below(&line.root, &one.root)?), one.id)))
            .collect();
        paths.sort_by_key(|(path, _)| *path != line.point);
        let found = paths.iter().find(|(path, id)| (self.visible)(path, *id));
        if let Some((path, _)) = found {
            let source = Source::Capsule {
                path: path.clone(),
                recursive: false,
                without: Vec::new(),
            };
            return Ok((source, Some(path.clone())));
        }
        if of_system.count() > 0 {
            return Err(refuse(
                line,
                "is a part of a file system that the job's other programs do not see",
                UNKNOWN,
            ));
        }
        match line.kind.as_str() {
            "tmpfs" | "proc" | "devpts" => Ok((Source::System, None)),
            _ => Err(refuse(
                line,
                "is a file system that cannot be made anew",
                UNKNOWN,
            )),
        }
    }

    /// Which mounts came along with those that were bound.
    fn complete(&mut self) {
        for at in 0..self.planned.len() {
            let Source::Capsule { path, .. } = &self.planned[at].source else {
                continue;
            };
            let path = path.clone();
            let lower =
                |one: &&MountLine| below(&one.point, &path).is_some_and(|rest| !rest.is_empty());
            let lower: BTreeSet<Vec<u8>> = self
                .capsule
                .iter()
                .filter(lower)
                .map(|one| one.point.clone())
                .collect();
            let family = self.family(at);
            let came: BTreeSet<&Vec<u8>> = family
                .iter()
                .filter_map(|one| self.planned[*one].outside.as_ref())
                .collect();
            let point = self.planned[at].line.point.clone();
            let left: Vec<Vec<u8>> = lower
                .iter()
                .filter(|one| !came.contains(one))
                // What goes away with another one needs no mention.
                .filter(|one| {
                    !lower.iter().any(|other| {
                        !came.contains(other) && other != *one && below(one, other).is_some()
                    })
                })
                .filter_map(|one| Some(join(&point, below(one, &path)?)))
                .collect();
            let whole = lower.is_empty() || lower.iter().any(|one| came.contains(one));
            if let Source::Capsule {
                recursive, without, ..
            } = &mut self.planned[at].source
            {
                *recursive = whole;
                *without = if whole { left } else { Vec::new() };
            }
        }
    }

    /// All that came along with a mount.
    fn family(&self, top: usize) -> Vec<usize> {
        let mut family = vec![top];
        for (at, one) in self.planned.iter().enumerate().skip(top + 1) {
            if one.source == Source::Along
                && one.parent.is_some_and(|above| family.contains(&above))
            {
                family.push(at);
            }
        }
        family.remove(0);
        family
    }
}

/// st_dev of a file system by the numbers in mountinfo.
#[must_use]
pub fn device(line: &MountLine) -> u64 {
    rustix::fs::makedev(line.device.0, line.device.1)
}

/// The pid namespace (by inode) that a mounted proc shows.
///
/// # Errors
/// Its first process has ended.
pub fn pid_space_of(proc: &OwnedFd) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/self/fd/{}/1/ns/pid", proc.as_raw_fd()))?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<MountLine> {
        mounts::parse(text.as_bytes()).unwrap()
    }

    const CAPSULE: &str = "1 0 8:1 / / rw,relatime - ext4 a rw\n\
        2 1 0:5 / /dev rw,relatime - devtmpfs d rw\n\
        3 2 0:6 / /dev/shm rw,relatime - tmpfs t rw\n\
        4 1 0:7 / /proc rw,relatime - proc p rw\n";

    fn planned(nested: &str) -> Result<Vec<Planned>, Misfit> {
        plan(&lines(CAPSULE), &lines(nested), &|_, _| true)
    }

    #[test]
    fn a_copy_comes_along_with_its_root() {
        let found = planned(
            "11 9 8:1 / / rw,relatime - ext4 a rw\n12 11 0:5 / /dev rw,relatime - devtmpfs d rw\n\
             13 12 0:6 / /dev/shm rw,relatime - tmpfs t rw\n15 11 0:9 / /mnt rw - tmpfs none rw\n",
        );
        let found = found.unwrap();
        let root = Source::Capsule {
            path: b"/".to_vec(),
            recursive: true,
            without: vec![b"/proc".to_vec()],
        };
        assert_eq!(found[0].source, root);
        let by_point = |point: &[u8]| {
            &found
                .iter()
                .find(|one| one.line.point == point)
                .unwrap()
                .source
        };
        assert_eq!(*by_point(b"/dev/shm"), Source::Along);
        assert_eq!(*by_point(b"/mnt"), Source::System);
    }

    #[test]
    fn a_sandbox_has_binds_in_a_file_system_of_its_own() {
        let found = planned(
            "20 9 0:41 /newroot / rw - tmpfs t rw\n21 20 8:1 /usr /usr ro - ext4 a rw\n\
             22 20 0:43 / /proc rw - proc p rw\n23 20 0:5 /null /dev/null rw - devtmpfs d rw\n",
        );
        let found = found.unwrap();
        assert_eq!(found[0].source, Source::System);
        let bind = |path: &[u8]| Source::Capsule {
            path: path.to_vec(),
            recursive: true,
            without: Vec::new(),
        };
        assert!(found.iter().any(|one| one.source == bind(b"/usr")));
        assert!(found.iter().any(|one| one.source == bind(b"/dev/null")));
    }

    #[test]
    fn what_hides_comes_after_what_it_hides() {
        let found = planned(
            "20 9 0:41 / / rw - tmpfs t rw\n21 20 0:42 / /a rw - tmpfs t rw\n\
             22 20 0:43 / /a/b rw - tmpfs t rw\n",
        );
        let found = found.unwrap();
        assert_eq!(found[1].line.point, b"/a/b");
    }

    #[test]
    fn what_cannot_be_made_anew_is_named() {
        for (line, reason) in [
            ("20 9 0:41 / / rw - ext4 t rw\n", "cannot be made anew"),
            ("20 9 0:41 / / rw,idmapped - tmpfs t rw\n", "idmapped"),
            ("20 9 0:41 / / rw shared:7 - tmpfs t rw\n", "shared"),
            ("20 9 0:41 / / rw master:7 - tmpfs t rw\n", "follows"),
            ("20 9 8:1 /x//deleted / rw - ext4 t rw\n", "deleted"),
        ] {
            let misfit = planned(line).unwrap_err();
            assert!(misfit.reason.contains(reason), "{}", misfit.reason);
        }
    }
}

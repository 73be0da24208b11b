//! Which files a running job needs by their names, and whether another node has them.
//!
//! The source makes the list before anything is frozen; the destination goes
//! through it in one go. What changes in between is found when the job is
//! built, by the same comparison ([`difference`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use super::{
    atlas::{Atlas, Place},
    fd::{self, Kind, Seen},
    files::{self, FileSource},
    inotify, mapping_rules, maps,
    own::{self, OwnFiles},
    stdio::CapsuleStdio,
};
use crate::{
    api::Obstacle,
    image::{FilePath, NeededFile, OwnFile, Usage},
};

/// Files that a refusal names one by one.
const NAMED: usize = 64;
/// File systems that every capsule has for itself.
const OWN: [&[u8]; 4] = [b"/proc/", b"/dev/pts/", b"/dev/shm/", b"/dev/mqueue/"];
const REMEDY: &str = "give both nodes the same file, or keep it in a folder that they share";

/// Every file that the processes use by its name, each once; `own` tells which of
/// them the job brings along. What ends or
/// changes while this looks is left to the comparison at the end of the move.
#[must_use]
pub fn of(processes: &[FileSource<'_>], stdio: &CapsuleStdio, own: OwnFiles) -> Vec<NeededFile> {
    let root = files::root(processes, stdio).ok();
    let mut list = List {
        atlas: root.map(|root| Atlas::near(root, processes.iter().map(|one| one.host))),
        own,
        ..List::default()
    };
    for source in processes {
        list.links(source);
        list.mappings(source);
        list.descriptors(source, stdio);
    }
    list.finish()
}

/// Obstacles for all files of a list that are not below `root` as they should be.
#[must_use]
pub fn missing(root: &OwnedFd, files: &[NeededFile]) -> Vec<Obstacle> {
    let differing = files.iter().filter_map(|needed| {
        let reason = compare(root, needed)?;
        Some(obstacle(needed, reason))
    });
    let mut obstacles: Vec<Obstacle> = differing.collect();
    let more = obstacles.len().saturating_sub(NAMED);
    if more > 0 {
        obstacles.truncate(NAMED);
        obstacles.push(Obstacle {
            pid: None,
            object: format!("{more} more files"),
            reason: "they are not at the destination, or differ there".into(),
            remedy: REMEDY.into(),
            transient: false,
        });
    }
    obstacles
}

/// Obstacles for the files of a list that are, below the root of the job itself, not what
/// they were when the list was made: gone, or another file of that name.
#[must_use]
pub fn outdated(root: &OwnedFd, files: &[NeededFile]) -> Vec<Obstacle> {
    let replaced = |needed: &&NeededFile| {
        let found = place(root, &needed.file).and_then(|found| Ok(rustix::fs::fstat(found)?));
        let is_open = matches!(needed.usage, Usage::Descriptor(_));
        found.map_or_else(
            |error| is_absent(&error),
            |stat| is_open && (stat.st_dev, stat.st_ino) != needed.identity,
        )
    };
    let replaced = files.iter().filter(replaced);
    replaced
        .map(|needed| obstacle(needed, ABSENT.into()))
        .collect()
}

/// In which way the file that is there is not the one that the source has.
#[must_use]
pub fn difference(there: &Stat, source: &FilePath, sizes: bool) -> Option<String> {
    let (found, wanted) = (kind_of(there.st_mode), kind_of(source.mode));
    if found != wanted {
        return Some(format!(
            "it is {} at the destination and {} at the source",
            describe(found),
            describe(wanted)
        ));
    }
    let size = u64::try_from(there.st_size).unwrap_or(0);
    let differs = sizes && found == FileType::RegularFile && size != source.size;
    differs.then(|| {
        format!(
            "it has {size} bytes at the destination and {} at the source",
            source.size
        )
    })
}

/// The place that a name leads to below `root`, not opened yet: to open a FIFO
/// would block, and to open a device would do who knows what.
///
/// # Errors
/// NotFound or NotADirectory when nothing is there; else why it cannot be reached.
pub fn place(root: impl std::os::fd::AsFd, file: &FilePath) -> io::Result<OwnedFd> {
    let link = kind_of(file.mode) == FileType::Symlink;
    let last = if link {
        OFlags::NOFOLLOW
    } else {
        OFlags::empty()
    };
    Ok(rustix::fs::openat2(
        root,
        Path::new(OsStr::from_bytes(&file.path)),
        OFlags::PATH | OFlags::CLOEXEC | last,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// What is said of a file that has no name at the destination.
pub const ABSENT: &str = "it is not there at the destination";

/// What is said where the destination has another file of the name of one that the job brings along.
pub const TAKEN: &str = "another file at the destination has that name";

fn compare(root: &OwnedFd, needed: &NeededFile) -> Option<String> {
    let found = match place(root, &needed.file) {
        Ok(found) => rustix::fs::fstat(found).map_err(io::Error::from),
        Err(error) => Err(error),
    };
    match found {
        Ok(stat) => match &needed.own {
            Some(own) if own::is_same(own, stat.st_dev, stat.st_ino) => None,
            // Nobody in the job looks for what it has mapped only.
            Some(_) if !matches!(needed.usage, Usage::Descriptor(_)) => None,
            Some(_) => Some(TAKEN.into()),
            None => difference(&stat, &needed.file, needed.settled),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && needed.own.is_some() => None,
        Err(error) if is_absent(&error) => Some(ABSENT.into()),
        Err(error) => Some(format!("it cannot be reached at the destination: {error}")),
    }
}

/// Whether an error of [`place`] means that nothing is there.
#[must_use]
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn obstacle(needed: &NeededFile, reason: String) -> Obstacle {
    let path = String::from_utf8_lossy(&needed.file.path);
    let object = match needed.usage {
        Usage::Program => format!("program {path}"),
        Usage::Mapping => format!("mapped file {path}"),
        Usage::CurrentDirectory => format!("current directory {path}"),
        Usage::RootDirectory => format!("root directory {path}"),
        Usage::Descriptor(number) => format!("fd {number} ({path})"),
    };
    Obstacle {
        pid: Some(needed.pid),
        object,
        reason,
        remedy: REMEDY.into(),
        transient: false,
    }
}

fn kind_of(mode: u32) -> FileType {
    FileType::from_raw_mode(mode)
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something unknown",
    }
}

/// Device and inode.
type Identity = (u64, u64);

#[derive(Default)]
struct List {
    files: BTreeMap<Vec<u8>, NeededFile>,
    /// Files that somebody in the job may write to.
    written: BTreeSet<Identity>,
    bytes: usize,
    /// Where the job looks names up.
    atlas: Option<Atlas>,
    own: OwnFiles,
}

impl List {
    fn links(&mut self, source: &FileSource<'_>) {
        for (link, usage) in [
            ("exe", Usage::Program),
            ("cwd", Usage::CurrentDirectory),
            ("root", Usage::RootDirectory),
        ] {
            let magic = format!("/proc/{}/{link}", source.host);
            if let (Ok(path), Ok(found)) = (fs::read_link(&magic), fs::metadata(&magic)) {
                self.add(source, usage, path.as_os_str().as_bytes(), (&magic, &found));
            }
        }
    }

    fn mappings(&mut self, source: &FileSource<'_>) {
        let mut looked = BTreeSet::new();
        for area in maps::read(source.host).unwrap_or_default() {
            if mapping_rules::kind(&area) != Some(mapping_rules::Kind::File) {
                continue;
            }
            let writes = area.shared && i32::from(area.protection) & libc::PROT_WRITE != 0;
            if !looked.insert((area.device, area.inode, writes)) {
                continue;
            }
            let link = format!(
                "/proc/{}/map_files/{:x}-{:x}",
                source.host, area.start, area.end
            );
            if let Ok(found) = fs::metadata(&link) {
                if writes {
                    self.written.insert((found.dev(), found.ino()));
                }
                self.add(source, Usage::Mapping, &area.name, (&link, &found));
            }
        }
    }

    fn descriptors(&mut self, source: &FileSource<'_>, stdio: &CapsuleStdio) {
        for number in fd::numbers(source.host).unwrap_or_default() {
            let Ok(mut seen) = Seen::look(source.host, number) else {
                continue;
            };
            let watches = &seen.info.inotify;
            let root = fd::root(source.host).ok().filter(|_| !watches.is_empty());
            let found = root.map(|root| {
                let place = Place {
                    space: None,
                    root: &root,
                };
                inotify::locate(watches, source.host, place)
            });
            for (watch, found) in watches.iter().zip(found.into_iter().flatten()) {
                if let Some(file) = found {
                    // Whatever its size is: only that it is there matters.
                    let identity = (watch.device, watch.inode);
                    self.written.insert(identity);
                    self.insert(source, Usage::Descriptor(number), identity, file, None);
                }
            }
            let named = match seen.kind(stdio, None) {
                Ok(Kind::Named | Kind::Device) => true,
                Ok(Kind::Fifo) => !seen.deleted(),
                _ => false,
            };
            if !named {
                continue;
            }
            let identity = (seen.stat.st_dev, seen.stat.st_ino);
            let link = format!("/proc/{}/fd/{number}", source.host);
            if let Some(atlas) = &self.atlas {
                let place = atlas.place(Path::new(&link));
                // What has none is refused elsewhere.
                let _ = seen.find_name(place.root);
                if place.space.is_some() && !fd::leads_to(atlas.home(), &seen.link, identity) {
                    continue;
                }
            }
            if !seen.opaque() && seen.info.flags & libc::O_ACCMODE != libc::O_RDONLY {
                self.written.insert(identity);
            }
            let own = own::metadata(source.host, number).ok();
            let own = own.filter(|found| (found.dev(), found.ino()) == identity);
            let own = own.and_then(|found| self.judge(&seen.link, &found));
            let file = FilePath {
                space: None,
                mode: seen.stat.st_mode,
                size: u64::try_from(seen.stat.st_size).unwrap_or(0),
                path: seen.link,
            };
            self.insert(source, Usage::Descriptor(number), identity, file, own);
        }
    }

    fn add(
        &mut self,
        source: &FileSource<'_>,
        usage: Usage,
        path: &[u8],
        (link, found): (&str, &fs::Metadata),
    ) {
        // Without a name it is not found at the destination, but travels. What is in a mount namespace
        // of the job is looked at where the capsule has it, too.
        let identity = (found.dev(), found.ino());
        let leads = |atlas: &Atlas| fd::leads_to(atlas.home(), path, identity);
        let nested = |atlas: &Atlas| atlas.place(Path::new(link)).space.is_some();
        let doubtful = path.ends_with(b" (deleted)") || self.atlas.as_ref().is_some_and(nested);
        if doubtful && !self.atlas.as_ref().is_some_and(leads) {
            return;
        }
        let file = FilePath {
            space: None,
            path: path.to_vec(),
            mode: found.mode(),
            size: found.len(),
        };
        let own = self.judge(path, found);
        self.insert(source, usage, identity, file, own);
    }

    fn judge(&self, path: &[u8], found: &fs::Metadata) -> Option<OwnFile> {
        self.own.judge(self.atlas.as_ref()?.home(), path, found)
    }

    fn insert(
        &mut self,
        source: &FileSource<'_>,
        usage: Usage,
        identity: Identity,
        mut file: FilePath,
        own: Option<OwnFile>,
    ) {
        let known = self.files.get_mut(&file.path);
        if let Some(known) = known.filter(|known| known.own.is_none() || own.is_none()) {
            // A watch or O_PATH may have been seen first.
            known.own = known.own.take().or(own);
            return;
        }
        if let Some(known) = self.files.get_mut(&file.path) {
            if matches!(usage, Usage::Descriptor(_)) {
                known.usage = usage;
            }
            return;
        }
        let full = self.files.len() >= NeededFile::MOST
            || self.bytes + file.path.len() > NeededFile::MOST_BYTES;
        let foreign = OWN.iter().any(|folder| file.path.starts_with(folder));
        if full || foreign {
            return;
        }
        if kind_of(file.mode) != FileType::RegularFile {
            file.size = 0;
        }
        self.bytes += file.path.len();
        let needed = NeededFile {
            pid: source.pid,
            usage,
            file,
            settled: true,
            own,
            identity,
        };
        self.files.insert(needed.file.path.clone(), needed);
    }

    fn finish(self) -> Vec<NeededFile> {
        let written = self.written;
        let files = self.files.into_values();
        files
            .map(|needed| NeededFile {
                settled: !written.contains(&needed.identity),
                ..needed
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;

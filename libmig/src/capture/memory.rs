//! The address space of a stopped process -> [`MemoryImage`].

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::MetadataExt},
    },
    path::Path,
};

use super::{
    CaptureError, SharedRegistry,
    hindrance::obstacle,
    process,
    ring::{self, RingError},
    shm::Place,
    space::SpaceAnswers,
};
use crate::{
    api::Obstacle,
    image::{
        Backing, FileMapping, FilePath, Layout, Mapping, MappingFlags, MemoryImage, MemoryPolicy,
        Pid, SharedAccess, SharedFile, SharedId, Vdso,
    },
    inspect::{
        atlas::Atlas,
        mapping_rules::{self, Kind},
        shm::{self, Whereabouts, nameless_program, whereabouts},
        smaps::{self, DetailedArea},
    },
    sys::{HostPid, pagemap},
};

/// The image of an address space. `followed`: its writes are noted by us.
pub(super) fn capture(
    (pid, host): (Pid, HostPid),
    layout: Layout,
    space: &SpaceAnswers,
    (shared, atlas, shm): (&mut SharedRegistry, &Atlas, Option<u64>),
    followed: bool,
) -> Result<MemoryImage, CaptureError> {
    let mut areas = smaps::read(host).map_err(CaptureError::proc(host, "smaps"))?;
    if followed {
        // It is we who note its writes: a program that does so itself is not followed.
        areas
            .iter_mut()
            .for_each(|area| area.flags.retain(|flag| flag != b"uw"));
    }
    let mut reader = Reader {
        pid,
        host,
        shared,
        atlas,
        shm,
        pagemap: pagemap::open(host).map_err(CaptureError::proc(host, "pagemap"))?,
        paths: HashMap::new(),
        policies: &space.policies,
    };
    let mut mappings = Vec::with_capacity(areas.len());
    let mut vdso = None;
    let mut obstacles = Vec::new();
    for area in &areas {
        match mapping_rules::classify(pid, area) {
            Ok(Kind::Vsyscall) => {}
            Ok(kind) => {
                if kind == Kind::Vdso {
                    let code = process::vdso_code(host, area.area.start, area.area.end)?;
                    vdso = Some(Vdso {
                        build_id: build_id(&code).unwrap_or_default(),
                        code,
                    });
                }
                match reader.mapping(area, kind) {
                    Err(CaptureError::Obstacles(found)) => obstacles.extend(found),
                    mapping => mappings.push(mapping?),
                }
            }
            Err(found) => obstacles.push(found),
        }
    }
    if !obstacles.is_empty() {
        return Err(CaptureError::Obstacles(obstacles));
    }
    let (file, exe_object) = reader.program()?;
    let exe = FileMapping { file, offset: 0 };
    Ok(MemoryImage {
        layout,
        exe,
        exe_object,
        mappings,
        vdso,
        membarrier: space.membarrier,
        lock_future: space.lock_future,
        merge_future: space.merge_future,
    })
}

const PAGE: u64 = 4096;

struct Reader<'a> {
    pid: Pid,
    host: HostPid,
    shared: &'a mut SharedRegistry,
    atlas: &'a Atlas,
    /// Device of the capsule's /dev/shm.
    shm: Option<u64>,
    pagemap: fs::File,
    /// Files that were checked already.
    paths: HashMap<Sight, FilePath>,
    /// Memory policies by the first address of a mapping.
    policies: &'a BTreeMap<u64, MemoryPolicy>,
}

/// Device, inode and name of a mapped file.
type Sight = ((u32, u32), u64, Vec<u8>);

/// The file of a mapping.
enum Found {
    Named(FilePath),
    Object(SharedId),
}

impl Reader<'_> {
    fn mapping(&mut self, area: &DetailedArea, kind: Kind) -> Result<Mapping, CaptureError> {
        let backing = match kind {
            Kind::Anonymous => Backing::Anonymous,
            Kind::Vdso => Backing::Vdso,
            Kind::Vvar => Backing::Vvar,
            Kind::VvarClock => Backing::VvarClock,
            Kind::Shared => {
                let file = self.open(area)?;
                let name = mapping_rules::object_name(&area.area.name);
                let object = self.shared.intern(&file, name)?;
                Backing::Shared {
                    object,
                    offset: area.area.offset,
                    private: !area.area.shared,
                    read_only: !area.has(b"mw"),
                }
            }
            Kind::SystemV => self.attached(area)?,
            Kind::File => self.file_backing(area)?,
            Kind::Ring => self.ring(area)?,
            Kind::Vsyscall => unreachable!("left out by the caller"),
        };
        Ok(Mapping {
            start: area.area.start,
            end: area.area.end,
            protection: area.area.protection,
            backing,
            flags: flags(area),
            guards: self.guards(area, kind)?,
            name: mapping_rules::given_name(&area.area.name).map(<[u8]>::to_vec),
            policy: self.policies.get(&area.area.start).cloned(),
        })
    }

    /// A segment of the capsule's own namespace.
    fn attached(&self, area: &DetailedArea) -> Result<Backing, CaptureError> {
        let refuse = |reason: &str, remedy: &str| {
            obstacle(Obstacle {
                pid: Some(self.pid),
                object: mapping_rules::describe(area),
                reason: reason.to_owned(),
                remedy: remedy.to_owned(),
                transient: false,
            })
        };
        let Some((object, size)) = self.shared.segment(area.area.inode) else {
            return Err(refuse(
                mapping_rules::FOREIGN_SEGMENT,
                "start the program with `mig exec`",
            ));
        };
        let (offset, read_only) = (area.area.offset, !area.has(b"mw"));
        if offset + area.area.len() > size.next_multiple_of(PAGE) {
            return Err(refuse(
                "mremap has made it larger than its segment",
                "map no more than there is",
            ));
        }
        Ok(Backing::Attached {
            object,
            offset,
            read_only,
        })
    }

    fn ring(&mut self, area: &DetailedArea) -> Result<Backing, CaptureError> {
        let found = ring::mapped(self.shared, self.host, area.area.inode);
        let object = found.map_err(|error| match error {
            RingError::Refused(refusal) => obstacle(Obstacle {
                pid: Some(self.pid),
                object: mapping_rules::describe(area),
                reason: refusal.reason,
                remedy: refusal.remedy,
                transient: refusal.transient,
            }),
            RingError::Host(source) => CaptureError::proc(self.host, "an io_uring")(source),
        })?;
        Ok(Backing::Shared {
            object,
            offset: area.area.offset,
            private: false,
            read_only: false,
        })
    }

    /// By name, where the name still leads to the file; else its contents travel.
    fn file_backing(&mut self, area: &DetailedArea) -> Result<Backing, CaptureError> {
        // Of names that several files have had, each is looked at.
        let key = (area.area.device, area.area.inode, area.area.name.clone());
        let known = self.paths.get(&key).cloned();
        let file = match known {
            Some(known) => known,
            None => match self.find(area)? {
                Found::Object(object) => {
                    return Ok(Backing::Shared {
                        object,
                        offset: area.area.offset,
                        private: !area.area.shared,
                        read_only: !area.has(b"mw"),
                    });
                }
                Found::Named(found) => {
                    self.paths.insert(key, found.clone());
                    found
                }
            },
        };
        let offset = area.area.offset;
        let file = FileMapping { file, offset };
        Ok(match (area.area.shared, area.has(b"mw")) {
            (false, _) => Backing::FilePrivate(file),
            (true, true) => Backing::FileShared(file, SharedAccess::ReadWrite),
            (true, false) => Backing::FileShared(file, SharedAccess::ReadOnly),
        })
    }

    fn find(&mut self, area: &DetailedArea) -> Result<Found, CaptureError> {
        let path = &area.area.name;
        let link = map_files(self.host, area);
        let mapped = fs::metadata(&link).map_err(CaptureError::proc(self.host, "map_files"))?;
        // Also one of a tmpfs that the job has mounted.
        if let Some(known) = self.shared.known(mapped.dev(), mapped.ino()) {
            return Ok(Found::Object(known));
        }
        let place = self.atlas.place(Path::new(&link));
        match whereabouts(place.root, self.shm, area, &mapped) {
            Whereabouts::Named => {
                let own = self.shared.named(place, Path::new(&link), path);
                let own = own.map_err(CaptureError::proc(self.host, "map_files"))?;
                Ok(match own {
                    Some(object) => Found::Object(object),
                    None => Found::Named(FilePath {
                        space: place.space,
                        path: path.clone(),
                        mode: mapped.mode(),
                        size: if mapped.is_file() { mapped.len() } else { 0 },
                    }),
                })
            }
            Whereabouts::Object => {
                let object = self.object(Path::new(&link), path, &mapped);
                object
                    .map(Found::Object)
                    .map_err(CaptureError::proc(self.host, "map_files"))
            }
            Whereabouts::Lost(reason) => Err(obstacle(Obstacle {
                pid: Some(self.pid),
                object: mapping_rules::describe(area),
                reason: reason.to_owned(),
                remedy: "restart the program, so that it uses the file that is there now"
                    .to_owned(),
                transient: false,
            })),
        }
    }

    fn object(
        &mut self,
        link: &Path,
        name: &[u8],
        metadata: &fs::Metadata,
    ) -> io::Result<SharedId> {
        if let Some(known) = self.shared.known(metadata.dev(), metadata.ino()) {
            return Ok(known);
        }
        // Extended attributes are those of the file, not of the link in /proc.
        let file = fs::File::open(link)?;
        let place = format!("/proc/self/fd/{}", file.as_raw_fd());
        let place = Path::new(&place);
        let about = SharedFile {
            path: shm::before_unlink(name).to_vec(),
            in_shm: self.shm == Some(metadata.dev()),
            named: false,
            attributes: super::shm::attributes(&Place::Open(&file), metadata)?,
            own: None,
        };
        self.shared.intern_file(place, about)
    }

    /// The program, and the object that it is when its name is gone.
    fn program(&mut self) -> Result<(FilePath, Option<SharedId>), CaptureError> {
        let host = self.host;
        let failed = |what| CaptureError::proc(host, what);
        let magic = format!("/proc/{}/exe", self.host);
        let place = self.atlas.place(Path::new(&magic));
        let nameless = nameless_program(place.root, self.host).map_err(failed("exe"))?;
        let Some(path) = nameless else {
            let found = process::link((self.pid, self.host), "exe", self.atlas)?;
            let own = self.shared.named(place, Path::new(&magic), &found.path);
            return Ok((found, own.map_err(failed("exe"))?));
        };
        let metadata = fs::metadata(&magic).map_err(failed("exe"))?;
        let name = path.into_os_string().into_vec();
        let object = self.object(Path::new(&magic), &name, &metadata);
        let object = object.map_err(failed("exe"))?;
        let file = FilePath {
            space: None,
            path: shm::before_unlink(&name).to_vec(),
            mode: metadata.mode(),
            size: metadata.len(),
        };
        Ok((file, Some(object)))
    }

    /// A descriptor of a shared object, whoever made it.
    fn open(&self, area: &DetailedArea) -> Result<OwnedFd, CaptureError> {
        let link = map_files(self.host, area);
        let file = OpenOptions::new()
            .read(true)
            .open(link)
            .map_err(CaptureError::proc(self.host, "map_files"))?;
        Ok(file.into())
    }

    fn guards(&self, area: &DetailedArea, kind: Kind) -> Result<Vec<(u64, u64)>, CaptureError> {
        if !matches!(
            kind,
            Kind::Anonymous | Kind::File | Kind::Shared | Kind::SystemV
        ) || area.has(b"ht")
        {
            return Ok(Vec::new());
        }
        match pagemap::scan(
            &self.pagemap,
            area.area.start,
            area.area.end,
            pagemap::GUARD,
            pagemap::GUARD,
        ) {
            Ok(regions) => Ok(regions
                .iter()
                .map(|region| (region.start, region.end))
                .collect()),
            // Before Linux 6.15 guard regions cannot be told from nothing, nor
            // does the flag exist: there they were reported as unknown.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
            Err(error) => Err(CaptureError::proc(self.host, "pagemap")(error)),
        }
    }
}

fn map_files(host: HostPid, area: &DetailedArea) -> String {
    format!(
        "/proc/{host}/map_files/{:x}-{:x}",
        area.area.start, area.area.end
    )
}

fn flags(area: &DetailedArea) -> MappingFlags {
    MappingFlags {
        grows_down: area.has(b"gd"),
        no_reserve: area.has(b"nr"),
        accounted: area.has(b"ac"),
        locked: area.has(b"lo"),
        locked_on_fault: area.has(b"lf"),
        dont_fork: area.has(b"dc"),
        dont_dump: area.has(b"dd"),
        wipe_on_fork: area.has(b"wf"),
        mergeable: area.has(b"mg"),
        huge_page: area.has(b"hg"),
        no_huge_page: area.has(b"nh"),
        sequential: area.has(b"sr"),
        random: area.has(b"rr"),
        droppable: area.has(b"dp"),
        hugetlb_kib: if area.has(b"ht") { area.page_kib } else { 0 },
        sealed: area.has(b"sl"),
    }
}

/// NT_GNU_BUILD_ID of an ELF image in memory.
fn build_id(elf: &[u8]) -> Option<Vec<u8>> {
    const PT_NOTE: u32 = 4;
    const NT_GNU_BUILD_ID: u32 = 3;
    let half = |at: usize| {
        elf.get(at..at + 2)?
            .first_chunk()
            .map(|bytes| u16::from_le_bytes(*bytes))
    };
    let word = |at: usize| {
        elf.get(at..at + 4)?
            .first_chunk()
            .map(|bytes| u32::from_le_bytes(*bytes))
    };
    let long =
        |at: usize| usize::try_from(u64::from_le_bytes(*elf.get(at..at + 8)?.first_chunk()?)).ok();
    let (table, entry, count) = (long(32)?, usize::from(half(54)?), usize::from(half(56)?));
    for header in (0..count).map(|index| table + index * entry) {
        if word(header)? != PT_NOTE {
            continue;
        }
        let mut at = long(header + 8)?;
        let end = at.checked_add(long(header + 32)?)?.min(elf.len());
        while at + 12 <= end {
            let (name, content, kind) = (word(at)? as usize, word(at + 4)? as usize, word(at + 8)?);
            let content_at = at + 12 + name.next_multiple_of(4);
            if kind == NT_GNU_BUILD_ID && elf.get(at + 12..at + 16)? == b"GNU\0" {
                return elf
                    .get(content_at..content_at + content)
                    .map(<[u8]>::to_vec);
            }
            at = content_at + content.next_multiple_of(4);
        }
    }
    None
}

/// Whether an error of reading memory means that the range has gone.
pub(super) fn unreadable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EFAULT | libc::EIO | libc::ENOMEM | libc::EPERM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::maps;

    #[test]
    fn the_vdso_has_a_build_id() {
        let own = HostPid::own();
        let vdso = maps::read(own)
            .unwrap()
            .into_iter()
            .find(|area| area.name == b"[vdso]")
            .unwrap();
        let code = process::vdso_code(own, vdso.start, vdso.end).unwrap();
        assert_eq!(build_id(&code).unwrap().len(), 20);
        assert_eq!(build_id(&code[..60]), None);
        assert_eq!(build_id(b""), None);
    }
}

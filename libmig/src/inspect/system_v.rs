//! The tables of System V IPC of a namespace.

use std::{
    fs::{self, File},
    io,
};

use rustix::thread::LinkNameSpaceType;

use super::visit;
use crate::{image::IpcObject, sys::HostPid};

/// The IPC namespace of a process; `None` where it is that of this process.
///
/// # Errors
/// The process is gone.
pub fn namespace(process: HostPid) -> io::Result<Option<File>> {
    let link = format!("/proc/{process}/ns/ipc");
    if fs::read_link(&link)? == fs::read_link("/proc/self/ns/ipc")? {
        return Ok(None);
    }
    File::open(link).map(Some)
}

/// Does something in an IPC namespace: in a thread of its own, since setns(2) concerns the
/// calling thread alone.
///
/// # Errors
/// setns(2), or what `work` says.
pub fn enter<T: Send>(
    namespace: &File,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    visit::within(
        namespace,
        LinkNameSpaceType::InterProcessCommunication,
        work,
    )
}

/// [`enter`] for that of a process; `None` where it is that of this process.
///
/// # Errors
/// The process is gone, or what `work` says.
pub fn within<T: Send>(
    process: HostPid,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<Option<T>> {
    let namespace = namespace(process)?;
    namespace
        .map(|namespace| enter(&namespace, work))
        .transpose()
}

/// Gives the calling thread an empty list of SEM_UNDO adjustments, to compare others with.
///
/// # Errors
/// unshare(2).
pub fn without_adjustments() -> io::Result<()> {
    Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_SYSVSEM)?)
}

/// A line of a table, by the columns of its heading.
#[derive(Debug)]
pub struct Line {
    /// Owner and ID.
    pub object: IpcObject,
    columns: Vec<(String, i64)>,
}

impl Line {
    /// The number in a column; 0 when there is none.
    #[must_use]
    pub fn get(&self, column: &str) -> i64 {
        let found = self.columns.iter().find(|(name, _)| name == column);
        found.map_or(0, |(_, value)| *value)
    }
}

/// `/proc/sysvipc/shm`, `sem` or `msg` of the calling thread's namespace.
///
/// # Errors
/// InvalidData for a format that no kernel writes.
pub fn table(name: &str) -> io::Result<Vec<Line>> {
    let text = fs::read_to_string(format!("/proc/sysvipc/{name}"))?;
    parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The key that a mapped segment was made with, by the name of the mapping in
/// `/proc/PID/maps`; nothing for other mappings. The inode of such a mapping is the segment's ID.
#[must_use]
pub fn key_of_mapping(name: &[u8]) -> Option<i32> {
    let digits = name.strip_prefix(b"/SYSV")?.strip_suffix(b" (deleted)")?;
    let digits = std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.len() == 8)?;
    let key = u32::from_str_radix(digits, 16).ok()?;
    Some(key.cast_signed())
}

fn parse(text: &str) -> Option<Vec<Line>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split_ascii_whitespace().collect();
    lines.map(|line| parse_line(&names, line)).collect()
}

fn parse_line(names: &[&str], line: &str) -> Option<Line> {
    let mut columns = Vec::new();
    for (name, word) in names.iter().zip(line.split_ascii_whitespace()) {
        let radix = if *name == "perms" { 8 } else { 10 };
        columns.push(((*name).to_owned(), i64::from_str_radix(word, radix).ok()?));
    }
    let mut line = Line {
        object: IpcObject::default(),
        columns,
    };
    let id = |name: &str| u32::try_from(line.get(name)).ok();
    line.object = IpcObject {
        id: line
            .columns
            .get(1)
            .and_then(|(_, id)| i32::try_from(*id).ok())?,
        key: i32::try_from(line.get("key")).ok()?,
        mode: u16::try_from(line.get("perms") & 0o777).ok()?,
        uid: id("uid")?,
        gid: id("gid")?,
        creator_uid: id("cuid")?,
        creator_gid: id("cgid")?,
    };
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_by_its_heading() {
        let text = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n\
            \x20      -55      32768   640          3     1     2     3     4          9         10\n";
        let lines = parse(text).unwrap();
        let object = IpcObject {
            id: 32768,
            key: -55,
            mode: 0o640,
            uid: 1,
            gid: 2,
            creator_uid: 3,
            creator_gid: 4,
        };
        assert_eq!((&lines[0].object, lines[0].get("nsems")), (&object, 3));
        assert!(parse("").is_none() && parse("key semid perms\n 1 x 0\n").is_none());
    }

    #[test]
    fn a_mapped_segment_is_known_by_its_name() {
        assert_eq!(key_of_mapping(b"/SYSVfffffffe (deleted)"), Some(-2));
        assert_eq!(key_of_mapping(b"/SYSV00000000 (deleted)"), Some(0));
        assert_eq!(key_of_mapping(b"/SYSV00000000"), None);
        assert_eq!(key_of_mapping(b"/SYSV1 (deleted)"), None);
    }

    #[test]
    fn what_the_node_has_is_not_the_jobs() {
        assert!(within(HostPid::own(), || Ok(())).unwrap().is_none());
    }
}

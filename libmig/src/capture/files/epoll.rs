//! Interest lists. An entry is a pair of a number and an open file
//! description; the number may be closed or mean something else by now, so the
//! kernel is asked (kcmp KCMP_EPOLL_TFD) which description it has.

use std::collections::HashMap;

use super::{
    FileSource, FilesError,
    table::{Found, Table, index},
};
use crate::{
    image::{EpollEntry, FileId},
    inspect::{fdinfo::EpollLine, refusal},
    sys::descriptor::{EpollTarget, is_epoll_target},
};

pub(super) fn interest(
    processes: &[FileSource<'_>],
    table: &Table,
    file: FileId,
    found: &Found,
) -> Result<Vec<EpollEntry>, FilesError> {
    let mut seen_numbers: HashMap<i32, u32> = HashMap::new();
    let mut entries = Vec::with_capacity(found.seen.info.epoll.len());
    for line in &found.seen.info.epoll {
        let skip = seen_numbers.entry(line.number).or_default();
        let target = EpollTarget {
            epoll: found.seen.number,
            number: line.number,
            skip: *skip,
        };
        *skip += 1;
        let meant = resolve(processes, table, file, found, line, target)?;
        let meant = meant.ok_or_else(|| {
            let number = line.number;
            found.refused(&refusal::foreign_interest(number))
        })?;
        entries.push(EpollEntry {
            number: line.number,
            file: meant,
            events: line.events,
            data: line.data,
        });
    }
    Ok(entries)
}

/// Tries the descriptors with that number first, then all with that inode.
fn resolve(
    processes: &[FileSource<'_>],
    table: &Table,
    epoll: FileId,
    found: &Found,
    line: &EpollLine,
    target: EpollTarget,
) -> Result<Option<FileId>, FilesError> {
    let holders = table
        .descriptors
        .iter()
        .filter(|own| own.iter().any(|descriptor| descriptor.file == epoll));
    let likely = holders.flat_map(|own| {
        own.iter()
            .filter(|descriptor| descriptor.number == line.number)
            .map(|descriptor| descriptor.file)
    });
    let possible = (0..)
        .zip(&table.files)
        .filter(|(_, other)| other.seen.stat.st_ino == line.inode)
        .map(|(file, _)| file);
    let owner = processes[found.process].host.raw();
    for file in likely.chain(possible) {
        let candidate = &table.files[index(file)];
        let pid = processes[candidate.process].host.raw();
        let same = is_epoll_target(pid, candidate.seen.number, owner, target)
            .map_err(found.host("the interest list"))?;
        if same {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

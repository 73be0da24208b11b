//! Checkpoints that build on others: which files belong together.
//!
//! All of them lie in one folder and are found by what their headers say, whatever their
//! names are. Whether they are the ones that were meant is for whoever reads them to check.

use std::{
    fs::File,
    io::BufReader,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use libmig::checkpoint::{Header, Reader};

/// A checkpoint and the files that it builds on.
#[derive(Debug)]
pub(crate) struct Chain {
    /// What it says of itself.
    pub(crate) header: Header,
    /// The file.
    pub(crate) head: File,
    /// What it builds on, oldest first.
    pub(crate) bases: Vec<File>,
}

impl Chain {
    /// Opens a checkpoint and all that it needs.
    ///
    /// # Errors
    /// The file cannot be read, or one that it builds on is not beside it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let what = || format!("{} cannot be read as a checkpoint", path.display());
        let head = File::open(path).with_context(what)?;
        let header = header(&head).with_context(what)?;
        let bases = bases(&header, folder(path)).with_context(what)?;
        Ok(Self {
            header,
            head,
            bases,
        })
    }

    /// The newest checkpoint of `job` in a folder, by the epochs and times in their headers;
    /// nothing when there is none.
    ///
    /// # Errors
    /// The folder cannot be read, or a file that it builds on is missing.
    pub(crate) fn newest(folder: &Path, job: &str) -> Result<Option<Self>> {
        let all = checkpoints(folder)?;
        let own = all.into_iter().filter(|(_, _, header)| header.job == job);
        let newest = own.max_by_key(|(_, _, header)| {
            let bases = header.bases.len();
            (header.epoch, header.captured_unix, bases)
        });
        let Some((path, head, header)) = newest else {
            return Ok(None);
        };
        let what = || format!("{} is no base", path.display());
        let bases = bases(&header, folder).with_context(what)?;
        Ok(Some(Self {
            header,
            head,
            bases,
        }))
    }

    /// All files, oldest first.
    pub(crate) fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.bases.iter().chain([&self.head]).map(AsFd::as_fd)
    }
}

/// The folder of a file.
pub(crate) fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn header(file: &File) -> Result<Header> {
    Ok(Reader::open(BufReader::new(file))?.header().clone())
}

/// What `of` builds on.
fn bases(of: &Header, folder: &Path) -> Result<Vec<File>> {
    let mut bases = Vec::new();
    let mut all = None;
    for base in &of.bases {
        // As mig checkpoint calls it; what is in it says whether it is.
        let usual = File::open(folder.join(name(&of.job, &base.uuid))).ok();
        let is_it = |file: &File| header(file).is_ok_and(|header| header.uuid == base.uuid);
        if let Some(file) = usual.filter(is_it) {
            bases.push(file);
            continue;
        }
        if all.is_none() {
            all = Some(checkpoints(folder)?);
        }
        let files = all.get_or_insert_default();
        let found = files
            .iter()
            .position(|(_, _, header)| header.uuid == base.uuid);
        let Some(found) = found else {
            bail!(
                "checkpoint {}, on which it builds, is not in {}",
                base.uuid,
                folder.display()
            );
        };
        bases.push(files.swap_remove(found).1);
    }
    Ok(bases)
}

/// The usual name of a checkpoint in a folder.
pub(crate) fn name(job: &str, uuid: &str) -> PathBuf {
    PathBuf::from(format!("{job}.{uuid}.mig"))
}

/// What in a folder can be read as a checkpoint.
fn checkpoints(folder: &Path) -> Result<Vec<(PathBuf, File, Header)>> {
    let what = || format!("{} cannot be read", folder.display());
    let mut found = Vec::new();
    for entry in folder.read_dir().with_context(what)? {
        let entry = entry.with_context(what)?;
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else {
            continue;
        };
        if let Ok(header) = header(&file) {
            found.push((entry.path(), file, header));
        }
    }
    Ok(found)
}

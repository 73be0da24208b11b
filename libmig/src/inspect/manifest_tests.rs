//! Of lists of this very process.

use std::{fs::File, io::Write, os::fd::AsFd, path::PathBuf};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::*;
use crate::sys::HostPid;

/// What this process needs.
fn own() -> Vec<NeededFile> {
    let host = HostPid::own();
    let pidfd = pidfd_open(Pid::from_raw(host.raw()).unwrap(), PidfdFlags::empty()).unwrap();
    let source = FileSource {
        pid: 7,
        host,
        pidfd: pidfd.as_fd(),
    };
    of(&[source], &CapsuleStdio::default(), OwnFiles::default())
}

fn entry(files: &[NeededFile], path: &Path) -> Option<NeededFile> {
    let named = |needed: &&NeededFile| needed.file.path == path.as_os_str().as_bytes();
    files.iter().find(named).cloned()
}

fn root() -> OwnedFd {
    fd::root(HostPid::own()).unwrap()
}

#[test]
fn a_process_needs_its_program_its_libraries_and_what_it_has_open() {
    let dir = tempfile::tempdir().unwrap();
    let (read, written) = (dir.path().join("read"), dir.path().join("written"));
    std::fs::write(&read, b"seven b").unwrap();
    let _written = File::create(&written).unwrap();
    let _read = File::open(&read).unwrap();
    let files = own();
    let program = entry(&files, &std::env::current_exe().unwrap()).unwrap();
    assert_eq!((program.usage, program.settled), (Usage::Program, true));
    let read = entry(&files, &read).unwrap();
    assert!(matches!(read.usage, Usage::Descriptor(_)) && read.settled);
    assert_eq!((read.pid, read.file.size), (7, 7));
    assert!(!entry(&files, &written).unwrap().settled, "it may grow");
    assert!(files.iter().any(|needed| needed.usage == Usage::Mapping));
    let cwd = entry(&files, &std::env::current_dir().unwrap()).unwrap();
    assert_eq!(cwd.usage, Usage::CurrentDirectory);
    assert!(!files.iter().any(|n| n.file.path.starts_with(b"/proc/")));
}

#[test]
fn a_node_misses_nothing_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let growing = dir.path().join("growing");
    let mut open = File::create(&growing).unwrap();
    let files = own();
    open.write_all(b"more").unwrap();
    let ours = entry(&files, &growing).unwrap();
    assert_eq!(missing(&root(), &[ours]), []);
    // Other tests of this process open and remove files of their own.
    let lasting = files.into_iter().filter(|n| n.usage == Usage::Mapping);
    assert_eq!(missing(&root(), &lasting.collect::<Vec<_>>()), []);
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = ["gone", "shorter", "folder"]
        .map(|name| dir.path().join(name))
        .into();
    let open: Vec<File> = paths
        .iter()
        .map(|path| {
            std::fs::write(path, b"seven b").unwrap();
            File::open(path).unwrap()
        })
        .collect();
    let all = own();
    let files: Vec<NeededFile> = paths
        .iter()
        .map(|path| entry(&all, path).unwrap())
        .collect();
    drop(open);
    assert_eq!(missing(&root(), &files), []);
    std::fs::remove_file(&paths[0]).unwrap();
    std::fs::write(&paths[1], b"six by").unwrap();
    std::fs::remove_file(&paths[2]).unwrap();
    std::fs::create_dir(&paths[2]).unwrap();
    let reasons: Vec<String> = missing(&root(), &files)
        .into_iter()
        .map(|obstacle| obstacle.reason)
        .collect();
    assert_eq!(
        reasons,
        [
            ABSENT,
            "it has 6 bytes at the destination and 7 at the source",
            "it is a directory at the destination and a regular file at the source"
        ]
    );
}

#[test]
fn a_file_that_the_job_has_replaced_is_outdated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let open = File::create(&path).unwrap();
    let files = vec![entry(&own(), &path).unwrap()];
    assert_eq!(outdated(&root(), &files), []);
    std::fs::rename(&path, dir.path().join("kept")).unwrap();
    assert_eq!(outdated(&root(), &files).len(), 1);
    let other = File::create(&path).unwrap();
    assert_eq!(missing(&root(), &files), []);
    assert_eq!(outdated(&root(), &files).len(), 1);
    drop((open, other));
}

#[test]
fn a_thousand_missing_files_do_not_make_a_book() {
    let all = own();
    let program = entry(&all, &std::env::current_exe().unwrap()).unwrap();
    let gone = NeededFile {
        file: FilePath {
            space: None,
            path: b"/no/such/file".to_vec(),
            ..program.file
        },
        ..program
    };
    let obstacles = missing(&root(), &vec![gone; 1000]);
    assert_eq!(obstacles.len(), NAMED + 1);
    assert_eq!(obstacles.last().unwrap().object, "936 more files");
}

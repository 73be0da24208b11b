//! Starts `tests/programs/oddity.c` in one of its states, and ends it with all
//! of its children.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use libmig::sys::HostPid;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A program to run.
pub(crate) struct Program {
    path: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Program {
    /// Compiles `oddity.c`.
    pub(crate) fn compile() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oddity");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/oddity.c");
        let status = Command::new("cc")
            .args(["-O1", "-Wall", "-pthread", "-o"])
            .args([&path, &source])
            .status()
            .unwrap();
        assert!(status.success(), "cannot compile {}", source.display());
        Self {
            path,
            _folder: Some(folder),
        }
    }

    /// A program that is there.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _folder: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A process in an odd state. Killed with its process group when dropped.
pub(crate) struct Oddity {
    child: Child,
}

impl Oddity {
    /// `None` when the kernel does not let it.
    pub(crate) fn start(program: &Program, args: &[&str]) -> Option<Self> {
        let mut command = Command::new(program.path());
        command.args(args);
        Self::run(command)
    }

    /// Runs a command that says "ready".
    pub(crate) fn run(mut command: Command) -> Option<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .ok()?;
        let mut odd = Self { child };
        let mut line = String::new();
        let output = odd.child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        match line.as_str() {
            "ready\n" => Some(odd),
            "unable\n" => None,
            other => panic!("it says {other:?}"),
        }
    }

    pub(crate) fn pid(&self) -> HostPid {
        HostPid::new(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Oddity {
    fn drop(&mut self) {
        // Not waited for yet: the ID is still its own.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        drop(self.child.wait());
    }
}

/// Polls a condition, with a deadline.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A static 32-bit program that says "ready" and pauses.
pub(crate) fn elf32() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let mut code: Vec<u8> = Vec::new();
    let text = BASE + HEADERS;
    // mov eax, 4; mov ebx, 1; mov ecx, message; mov edx, 6; int 0x80
    code.extend([0xb8, 4, 0, 0, 0, 0xbb, 1, 0, 0, 0, 0xb9]);
    let message_at = code.len();
    code.extend([0; 4]);
    code.extend([0xba, 6, 0, 0, 0, 0xcd, 0x80]);
    // again: mov eax, 29 (pause); int 0x80; jmp again
    code.extend([0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7]);
    let message = text + u32::try_from(code.len()).unwrap();
    code[message_at..message_at + 4].copy_from_slice(&message.to_le_bytes());
    code.extend(b"ready\n");
    let size = HEADERS + u32::try_from(code.len()).unwrap();

    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves = |elf: &mut Vec<u8>, values: &[u16]| {
        elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let words = |elf: &mut Vec<u8>, values: &[u32]| {
        elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    // ET_EXEC, EM_386
    halves(&mut elf, &[2, 3]);
    words(&mut elf, &[1, text, 52, 0, 0]);
    halves(&mut elf, &[52, 32, 1, 0, 0, 0]);
    // PT_LOAD, readable and executable
    words(&mut elf, &[1, 0, BASE, BASE, size, size, 5, 0x1000]);
    elf.extend(code);
    elf
}

/// A cgroup (v2) of a test with three leaves.
pub(crate) struct Group {
    path: PathBuf,
}

const LEAVES: [&str; 3] = ["init", "job", "elsewhere"];

impl Group {
    /// `None` without a cgroup v2 hierarchy to write to.
    pub(crate) fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1).zip(line.split(' ').nth(2)))
            .find_map(|(place, kind)| (kind == "cgroup2").then_some(place))?;
        let name = format!("mig-preflight-{}", std::process::id());
        let path = Path::new(root).join(name);
        fs::create_dir(&path).ok()?;
        let group = Self { path };
        for leaf in LEAVES {
            fs::create_dir(group.path.join(leaf)).unwrap();
        }
        Some(group)
    }

    /// Moves a process into a leaf.
    pub(crate) fn put(&self, leaf: &str, process: HostPid) {
        fs::write(
            self.path.join(leaf).join("cgroup.procs"),
            process.to_string(),
        )
        .unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The processes have ended, but the kernel takes a moment to see it.
        let deadline = Instant::now() + Duration::from_secs(5);
        for leaf in LEAVES {
            while fs::remove_dir(self.path.join(leaf)).is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        drop(fs::remove_dir(&self.path));
    }
}

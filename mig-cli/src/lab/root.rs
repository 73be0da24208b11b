//! The root file system of a node: an overlay of the machine's `/` with its upper layer on the lab's
//! tmpfs, and fresh `/proc`, `/sys`, `/dev`, `/run`, `/tmp`; `/shared` is one folder for all nodes.
//!
//! Invariant: everything below the new root is looked up only after `pivot_root`, so that an absolute
//! symbolic link of the machine (`/var/run`, `/etc/hosts`) leads into the node and never out of it.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, makedev, mknod, umask},
    unistd::{chdir, pivot_root},
};

use super::{Lab, NodeId, journal::Journal};

/// Where the machine's own root is while the node's is being furnished.
const OLD_ROOT: &str = "/.mig-lab-old-root";

/// File systems whose mounts on the machine a node sees too, each through an overlay of its own.
const DISK_FILE_SYSTEMS: [&str; 10] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "erofs", "squashfs", "overlay",
];

/// Mounts the tmpfs of a lab, which the keeper's mount namespace holds, and its `/shared`.
pub(crate) fn mount_storage(lab: &Lab) -> Result<()> {
    make_private()?;
    let storage = lab.storage();
    fs::create_dir_all(&storage).with_context(|| format!("make {}", storage.display()))?;
    mount_new("tmpfs", &storage, MsFlags::empty(), "mode=755")?;
    let shared = storage.join("shared");
    fs::create_dir(&shared).context("make the shared folder")?;
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).context("open /shared to all")
}

/// Tries an overlay of `/`, with its layers below `storage`.
pub(crate) fn try_overlay(storage: &Path) -> Result<()> {
    let layers = Layers(storage.to_path_buf());
    layers.mount(Path::new("/"), "root").map(drop)
}

/// Keeps the mounts of the calling process's mount namespace to itself.
pub(crate) fn make_private() -> Result<()> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("make the mounts private")
}

/// Makes the calling process's mount namespace the node's: afterwards it sees nothing of the machine
/// but what the overlay shows.
pub(crate) fn enter(lab: &Lab, journal: &Journal, node: NodeId) -> Result<()> {
    make_private()?;
    umask(Mode::empty());
    let layers = Layers::make(&lab.storage(), node)?;
    let root = layers.mount(Path::new("/"), "root")?;
    let old = root.join(&OLD_ROOT[1..]);
    fs::create_dir_all(&old).with_context(|| format!("make {}", old.display()))?;
    let mounts = machine_mounts(lab)?;
    pivot_root(&root, &old).context("pivot into the node's root")?;
    chdir("/").context("enter the node's root")?;

    let layers = layers.seen_from_inside();
    for (number, mount_point) in mounts.iter().enumerate() {
        layers.mount_on(mount_point, &format!("disk{number}"))?;
    }
    mount_kernel_views()?;
    mount_scratch()?;
    make_devices()?;
    bind_lab(lab, journal, node, &layers)?;
    name_nodes(journal, node)?;

    umount2(OLD_ROOT, MntFlags::MNT_DETACH).context("let go of the machine's root")?;
    fs::remove_dir(OLD_ROOT).context("remove the place of the machine's root")?;
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

/// The folder on the lab's tmpfs that holds a node's upper layers.
struct Layers(PathBuf);

impl Layers {
    fn make(storage: &Path, node: NodeId) -> Result<Self> {
        let path = storage.join(node.to_string());
        fs::create_dir_all(path.join("state"))
            .with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    fn seen_from_inside(self) -> Self {
        Self(old(&self.0))
    }

    /// Mounts an overlay of `lower` in a folder of the lab and says where.
    fn mount(&self, lower: &Path, name: &str) -> Result<PathBuf> {
        let target = self.0.join(name).join("merged");
        fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
        self.mount_at(lower, &target, name)?;
        Ok(target)
    }

    /// Puts an overlay of the machine's mount at the same path of the node.
    fn mount_on(&self, mount_point: &Path, name: &str) -> Result<()> {
        fs::create_dir_all(mount_point)
            .with_context(|| format!("make {} in the node", mount_point.display()))?;
        self.mount_at(&old(mount_point), mount_point, name)
    }

    fn mount_at(&self, lower: &Path, target: &Path, name: &str) -> Result<()> {
        let (upper, work) = (
            self.0.join(name).join("upper"),
            self.0.join(name).join("work"),
        );
        for folder in [&upper, &work] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        // The merged root is the upper one's: a /tmp-like mode there must not surprise.
        fs::set_permissions(&upper, fs::metadata(lower)?.permissions())?;
        // xino: one device number for all files of the node, as on a disk.
        let options = format!(
            "lowerdir={},upperdir={},workdir={},xino=on",
            escape(lower),
            escape(&upper),
            escape(&work)
        );
        mount(
            Some("overlay"),
            target,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("mount an overlay of {}", lower.display()))
    }
}

/// Overlayfs separates options by commas and layers by colons.
fn escape(path: &Path) -> String {
    path.to_string_lossy()
        .replace('\\', "\\\\")
        .replace(',', "\\,")
        .replace(':', "\\:")
}

fn old(path: &Path) -> PathBuf {
    Path::new(OLD_ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

/// The machine's mounts of real file systems besides `/`, outermost first.
fn machine_mounts(lab: &Lab) -> Result<Vec<PathBuf>> {
    let mounts = procfs::process::Process::myself()
        .and_then(|me| me.mountinfo())
        .context("read /proc/self/mountinfo")?;
    let wanted = mounts.into_iter().filter(|mount| {
        DISK_FILE_SYSTEMS.contains(&mount.fs_type.as_str())
            && mount.mount_point != Path::new("/")
            && !mount.mount_point.starts_with(lab.dir())
            && ["/proc", "/sys", "/dev", "/run", "/tmp"]
                .iter()
                .all(|ours| !mount.mount_point.starts_with(ours))
            && mount.mount_point.is_dir()
    });
    let mut paths: Vec<_> = wanted.map(|mount| mount.mount_point).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// `/proc` of the node's pids, `/sys` of its network, its own cgroups.
fn mount_kernel_views() -> Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    make_and_mount("proc", "/proc", quiet, "")?;
    make_and_mount("sysfs", "/sys", quiet | MsFlags::MS_RDONLY, "")?;
    mount_new("cgroup2", Path::new("/sys/fs/cgroup"), quiet, "")
}

fn mount_scratch() -> Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    make_and_mount("tmpfs", "/run", quiet, "mode=755")?;
    make_and_mount("tmpfs", "/tmp", quiet, "mode=1777")
}

/// A `/dev` with what every program may expect, and terminals of the node's own.
fn make_devices() -> Result<()> {
    make_and_mount("tmpfs", "/dev", MsFlags::MS_NOSUID, "mode=755")?;
    let devices = [
        ("null", 3),
        ("zero", 5),
        ("full", 7),
        ("random", 8),
        ("urandom", 9),
    ];
    let terminal = ("tty", 5, 0);
    for (name, major, minor) in devices
        .map(|(name, minor)| (name, 1, minor))
        .into_iter()
        .chain([terminal])
    {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(
            &Path::new("/dev").join(name),
            SFlag::S_IFCHR,
            mode,
            makedev(major, minor),
        )
        .with_context(|| format!("make /dev/{name}"))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, Path::new("/dev").join(name))
            .with_context(|| format!("make /dev/{name}"))?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    make_and_mount(
        "devpts",
        "/dev/pts",
        quiet,
        "newinstance,ptmxmode=0666,mode=620,gid=5",
    )?;
    make_and_mount(
        "tmpfs",
        "/dev/shm",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=1777",
    )?;
    match make_and_mount("mqueue", "/dev/mqueue", quiet | MsFlags::MS_NODEV, "") {
        // POSIX message queues are optional in a kernel.
        Err(error) if errno(&error) == Some(nix::libc::ENODEV) => {
            Ok(fs::remove_dir("/dev/mqueue")?)
        }
        result => result,
    }
}

/// What comes from the lab: `/shared`, migd's configuration and state, the binaries under test.
fn bind_lab(lab: &Lab, journal: &Journal, node: NodeId, layers: &Layers) -> Result<()> {
    bind_folder(&old(&lab.storage()).join("shared"), "/shared")?;
    bind_folder(&old(&lab.node_etc(node)), "/etc/mig")?;
    bind_folder(&layers.0.join("state"), "/var/lib/mig")?;
    fs::create_dir_all("/usr/local/bin").context("make /usr/local/bin in the node")?;
    for (binary, name) in [(&journal.mig, "mig"), (&journal.migd, "migd")] {
        // The source tree may lie on a mount that the node does not see.
        let target = Path::new("/usr/local/bin").join(name);
        match fs::File::create_new(&target) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("make {}", target.display()));
            }
            _ => bind(&old(binary), &target)?,
        }
    }
    Ok(())
}

/// The node's own name, and the addresses of all.
fn name_nodes(journal: &Journal, node: NodeId) -> Result<()> {
    let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for other in journal.nodes() {
        hosts.push_str(&format!("{} {other}\n", other.address()));
    }
    fs::write("/etc/hosts", hosts).context("write /etc/hosts")?;
    fs::write("/etc/hostname", format!("{node}\n")).context("write /etc/hostname")
}

fn bind_folder(source: &Path, target: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("make {target} in the node"))?;
    bind(source, Path::new(target))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("bind {} to {}", source.display(), target.display()))
}

fn make_and_mount(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("make {target} in the node"))?;
    mount_new(kind, Path::new(target), flags, options)
}

fn mount_new(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .with_context(|| format!("mount {kind} on {}", target.display()))
}

fn errno(error: &anyhow::Error) -> Option<i32> {
    error
        .downcast_ref::<nix::Error>()
        .map(|&errno| errno as i32)
}

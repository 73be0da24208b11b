//! The mounts of a mount namespace, as `/proc/PID/mountinfo` tells of them.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags};

use super::visit;
use crate::sys::mount::{NOATIME, STRICTATIME};

/// More is taken for an attack.
const MOST_BYTES: u64 = 16 << 20;

/// A line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountLine {
    /// Mount ID.
    pub id: u64,
    /// That of the mount that it is on.
    pub parent: u64,
    /// Major and minor number of the file system.
    pub device: (u32, u32),
    /// What of the file system is mounted.
    pub root: Vec<u8>,
    /// Where, in the namespace.
    pub point: Vec<u8>,
    /// MOUNT_ATTR_* bits.
    pub attributes: u64,
    /// An option of the mount that is not known here, or a mapping of IDs.
    pub odd: Option<String>,
    /// Peer group.
    pub shared: Option<u64>,
    /// Peer group that it is a slave of.
    pub master: Option<u64>,
    /// Nobody can bind it elsewhere.
    pub unbindable: bool,
    /// Type of the file system.
    pub kind: String,
    /// What it was mounted as: of a device the device, else whatever was said.
    pub name: String,
    /// Options of the file system.
    pub options: String,
}

/// The mounts of a namespace, and its root directory.
///
/// # Errors
/// It cannot be entered, or a line is not understood.
pub fn of(namespace: impl AsFd + Send) -> io::Result<(OwnedFd, Vec<MountLine>)> {
    let (root, text) = visit::within_mounts(namespace, |proc| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        // A process with another root directory sees only what is below that.
        let file = rustix::fs::openat(proc, "thread-self/mountinfo", flags, Mode::empty())?;
        let mut text = Vec::new();
        File::from(file).take(MOST_BYTES).read_to_end(&mut text)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok((rustix::fs::open("/", flags, Mode::empty())?, text))
    })?;
    Ok((root, parse(&text)?))
}

/// Reads all lines.
///
/// # Errors
/// One that is not understood.
pub fn parse(text: &[u8]) -> io::Result<Vec<MountLine>> {
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "unknown line in mountinfo");
    lines.map(|one| line(one).ok_or_else(odd)).collect()
}

fn line(line: &[u8]) -> Option<MountLine> {
    let mut words = line.split(|byte| *byte == b' ');
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<u64>().ok();
    let id = number(words.next()?)?;
    let parent = number(words.next()?)?;
    let device = std::str::from_utf8(words.next()?).ok()?.split_once(':')?;
    let mut found = MountLine {
        id,
        parent,
        device: (device.0.parse().ok()?, device.1.parse().ok()?),
        root: unescape(words.next()?),
        point: unescape(words.next()?),
        ..MountLine::default()
    };
    let options = String::from_utf8_lossy(words.next()?).into_owned();
    (found.attributes, found.odd) = attributes(&options);
    for tag in words.by_ref().take_while(|word| *word != b"-") {
        let tag = String::from_utf8_lossy(tag).into_owned();
        match tag.split_once(':') {
            Some(("shared", group)) => found.shared = Some(group.parse().ok()?),
            Some(("master", group)) => found.master = Some(group.parse().ok()?),
            Some(("propagate_from", _)) => {}
            None if tag == "unbindable" => found.unbindable = true,
            _ => found.odd = Some(tag),
        }
    }
    found.kind = String::from_utf8_lossy(words.next()?).into_owned();
    found.name = String::from_utf8_lossy(&unescape(words.next()?)).into_owned();
    let options = words.next().unwrap_or_default();
    found.options = String::from_utf8_lossy(&unescape(options)).into_owned();
    Some(found)
}

fn attributes(options: &str) -> (u64, Option<String>) {
    let (mut attributes, mut odd, mut relative) = (0, None, false);
    for option in options.split(',') {
        attributes |= match option {
            "rw" => 0,
            "ro" => 0x1,
            "nosuid" => 0x2,
            "nodev" => 0x4,
            "noexec" => 0x8,
            "noatime" => NOATIME,
            "nodiratime" => 0x80,
            "nosymfollow" => 0x0020_0000,
            "relatime" => {
                relative = true;
                0
            }
            other => {
                odd = Some(other.to_owned());
                0
            }
        };
    }
    if !relative && attributes & NOATIME == 0 {
        attributes |= STRICTATIME;
    }
    (attributes, odd)
}

/// `\040` and the like.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(value) => {
                plain.push(value);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// What of `path` is below `above`, beginning with a slash or empty; `None` when it is not below it.
#[must_use]
pub fn below<'p>(path: &'p [u8], above: &[u8]) -> Option<&'p [u8]> {
    let above = above.strip_suffix(b"/").unwrap_or(above);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let rest = path.strip_prefix(above)?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

/// Two paths as one.
#[must_use]
pub fn join(above: &[u8], rest: &[u8]) -> Vec<u8> {
    let above = above.strip_suffix(b"/").unwrap_or(above);
    let joined = [above, rest].concat();
    if joined.is_empty() {
        b"/".to_vec()
    } else {
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let text = b"90 88 0:42 /a\\040b /tmp rw,nosuid,relatime shared:3 master:4 - tmpfs none rw,size=4k\n\
                     91 88 254:0 /x//deleted /proc ro,noatime,idmapped unbindable - ext4 /dev/vda rw\n";
        let lines = parse(text).unwrap();
        assert_eq!(
            (lines[0].id, lines[0].parent, lines[0].device),
            (90, 88, (0, 42))
        );
        assert_eq!(
            (lines[0].root.as_slice(), lines[0].point.as_slice()),
            (&b"/a b"[..], &b"/tmp"[..])
        );
        assert_eq!(
            (lines[0].attributes, lines[0].shared, lines[0].master),
            (2, Some(3), Some(4))
        );
        assert_eq!(
            (lines[0].kind.as_str(), lines[0].options.as_str()),
            ("tmpfs", "rw,size=4k")
        );
        assert_eq!(lines[1].odd.as_deref(), Some("idmapped"));
        assert!(lines[1].unbindable && lines[1].attributes == 0x11);
        assert!(parse(b"90 88 /\n").is_err());
    }

    #[test]
    fn a_namespace_has_a_root_and_mounts() {
        let own = File::open("/proc/self/ns/mnt").unwrap();
        let (_, lines) = of(own).unwrap();
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        assert_eq!(lines, parse(&text).unwrap());
        assert!(lines.iter().any(|line| line.point == b"/"));
    }

    #[test]
    fn paths_are_taken_apart_and_joined() {
        assert_eq!(below(b"/usr/lib", b"/usr"), Some(&b"/lib"[..]));
        assert_eq!(below(b"/usr", b"/"), Some(&b"/usr"[..]));
        assert_eq!(below(b"/", b"/"), Some(&b""[..]));
        assert_eq!(below(b"/usrx", b"/usr"), None);
        assert_eq!(join(b"/", b"/usr"), b"/usr");
        assert_eq!(join(b"/", b""), b"/");
    }
}

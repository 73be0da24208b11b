//! The vDSO of this kernel, as the daemon itself has it.

use std::io;

use super::{
    address_space::VdsoPlace,
    error::{RestoreError, host},
    layout::{self, Layout},
    vdso,
};
use crate::{
    api::Obstacle,
    image::{MemoryImage, Pid},
    inspect::maps,
    sys::{HostPid, process_vm, remote::rewait},
};

/// This kernel's vDSO: its code, and how it lies in memory.
#[derive(Debug)]
pub(super) struct OwnVdso {
    code: Vec<u8>,
    build_id: Vec<u8>,
    /// Bytes from the start of the data pages to the code.
    code_offset: u64,
    /// Bytes of data and code.
    length: u64,
    /// Offset of a `syscall` instruction in the code.
    syscall: u64,
}

impl OwnVdso {
    /// Reads it from the daemon's own memory.
    pub(super) fn read() -> Result<Self, RestoreError> {
        Self::find().map_err(host("read the vDSO of this kernel"))
    }

    fn find() -> io::Result<Self> {
        let areas = maps::read(HostPid::own())?;
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no vDSO");
        let code_area = areas
            .iter()
            .find(|area| area.name == b"[vdso]")
            .ok_or_else(missing)?;
        let first = areas
            .iter()
            .find(|area| area.name.starts_with(b"[vvar"))
            .map_or(code_area.start, |area| area.start);
        let mut code = vec![0; usize::try_from(code_area.len()).map_err(io::Error::other)?];
        process_vm::force_read(HostPid::own(), code_area.start, &mut code)?;
        let syscall = code
            .windows(2)
            .position(|pair| pair == [0x0f, 0x05])
            .ok_or_else(missing)?;
        Ok(Self {
            build_id: vdso::build_id(&code).map_err(io::Error::other)?,
            code_offset: code_area.start - first,
            length: code_area.end - first,
            syscall: syscall as u64,
            code,
        })
    }

    /// Where it goes in an address space: at the old place when it is the same,
    /// else out of the way, `taken` being the injected pages.
    pub(super) fn place(
        &self,
        pid: Pid,
        memory: &MemoryImage,
        layout: &Layout,
        taken: (u64, u64),
    ) -> Result<Option<VdsoPlace>, RestoreError> {
        let (Some((start, length)), Some(source)) = (layout.vdso, &memory.vdso) else {
            return Ok(None);
        };
        if source.build_id == self.build_id {
            return Ok(Some(VdsoPlace {
                group: start.wrapping_sub(self.code_offset),
                old: None,
            }));
        }
        if source.code.len() as u64 != length {
            return Err(obstacle(pid, "does not fill its mapping").into());
        }
        let mut occupied: Vec<(u64, u64)> =
            memory.mappings.iter().map(|m| (m.start, m.end)).collect();
        occupied.push(taken);
        let group = layout::hole(occupied, self.length)
            .ok_or_else(|| obstacle(pid, "finds no room beside the old one"))?;
        Ok(Some(VdsoPlace {
            group,
            old: Some((start, length)),
        }))
    }

    /// Writes the redirected old vDSO, and checks that the kernel put the new
    /// one where it was told to: it takes the address for a hint.
    pub(super) fn settle(
        &self,
        pid: Pid,
        process: HostPid,
        memory: &MemoryImage,
        place: VdsoPlace,
    ) -> Result<(), RestoreError> {
        let code = place.group + self.code_offset;
        let areas = maps::read(process).map_err(host(format!("read the mappings of pid {pid}")))?;
        if !areas
            .iter()
            .any(|area| area.name == b"[vdso]" && area.start == code)
        {
            return Err(obstacle(pid, "could not be placed at its address").into());
        }
        let Some(source) = &memory.vdso else {
            return Ok(());
        };
        let Some((address, _)) = place.old else {
            // A signal frame may lead back to it.
            return if rewait::is_in(&source.code) {
                rewait::install(process, rewait::place(code + self.code.len() as u64))
                    .map_err(host(format!("write into the vDSO of pid {pid}")))
            } else {
                Ok(())
            };
        };
        let patched = vdso::redirected(&source.code, &self.code, code)
            .map_err(|error| obstacle(pid, &error.to_string()))?;
        process_vm::write_all(process, address, &patched)
            .map_err(host(format!("write the old vDSO of pid {pid}")))
    }

    /// A `syscall` instruction that an address space with this vDSO has.
    pub(super) fn syscall_in(&self, place: VdsoPlace) -> u64 {
        place.group + self.code_offset + self.syscall
    }
}

fn obstacle(pid: Pid, reason: &str) -> Obstacle {
    Obstacle {
        pid: Some(pid),
        object: "vDSO".into(),
        reason: reason.into(),
        remedy: "move it to a node with the same kernel".into(),
        transient: false,
    }
}

//! What a ptrace stop itself does to a thread, and how it is made good: system
//! calls that leak EINTR, restartable sequences, restart blocks.

use crate::{
    image::Registers,
    sys::{
        HostPid, process_vm,
        ptrace::{RseqConfiguration, reg},
        remote::foothold::{ERESTART_RESTARTBLOCK, ERESTARTNOHAND},
    },
};

/// System calls that fail with EINTR when any stop interrupts their wait, and
/// that can be made again with the same arguments: nothing has happened yet.
/// (Not close: after EINTR the descriptor is gone all the same.)
const LEAKS_EINTR: [i64; 25] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    333, // io_pgetevents
    libc::SYS_io_uring_enter,
    // Where the kernel cannot write what is left to where the timeout is:
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_select,
    // Sockets with SO_RCVTIMEO or SO_SNDTIMEO:
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_msgrcv,
];

/// Length of the instruction.
const SYSCALL_LEN: u64 = 2;

/// The registers that the thread would have without our stop. With -514 the
/// kernel's own rule decides: the call fails with EINTR if a handler runs, and
/// is made again if not.
pub(super) fn amended(
    registers: &Registers,
    rseq_abort: impl FnOnce() -> Option<u64>,
) -> Registers {
    let mut amended = *registers;
    if let Some(abort) = rseq_abort() {
        // What the kernel does to every sequence that was interrupted.
        amended[reg::RIP] = abort;
    }
    let leaked = registers[reg::RAX].cast_signed() == -i64::from(libc::EINTR)
        && LEAKS_EINTR.contains(&registers[reg::ORIG_RAX].cast_signed());
    if leaked {
        amended[reg::RAX] = (-ERESTARTNOHAND).cast_unsigned();
    }
    if is_about_to_restart(registers) {
        amended[reg::RIP] += SYSCALL_LEN;
        amended[reg::RAX] = (-ERESTART_RESTARTBLOCK).cast_unsigned();
    }
    amended
}

/// Whether the kernel has changed the call to restart_syscall(2), which means nothing to
/// another kernel, and the thread was stopped again before it made it. The call left the
/// address behind it in rcx.
fn is_about_to_restart(registers: &Registers) -> bool {
    registers[reg::ORIG_RAX].cast_signed() >= 0
        && registers[reg::RAX].cast_signed() == libc::SYS_restart_syscall
        && registers[reg::RCX] == registers[reg::RIP].wrapping_add(SYSCALL_LEN)
}

/// The registers for another kernel: a restart block stays behind, and the
/// call that it belongs to, `number` if that is known, is made again.
pub(super) fn portable(registers: &Registers, number: Option<i64>) -> Registers {
    let mut portable = *registers;
    if has_restart_block(registers) {
        portable[reg::RAX] = (-ERESTARTNOHAND).cast_unsigned();
        if let Some(number) = number {
            portable[reg::ORIG_RAX] = number.cast_unsigned();
        }
    }
    portable
}

/// Whether the kernel holds the deadline of an interrupted system call.
pub(super) fn has_restart_block(registers: &Registers) -> bool {
    registers[reg::ORIG_RAX].cast_signed() >= 0
        && registers[reg::RAX].cast_signed() == -ERESTART_RESTARTBLOCK
}

/// The abort address of the restartable sequence that the thread is in, if it
/// is in one. To be asked before the thread runs anything: the kernel forgets
/// the sequence on the way to user mode.
pub(super) fn rseq_abort(
    thread: HostPid,
    rseq: &RseqConfiguration,
    registers: &Registers,
) -> Option<u64> {
    const POINTER: u64 = 8;
    if rseq.address == 0 {
        return None;
    }
    let mut pointer = [0; 8];
    process_vm::read_exact(thread, rseq.address + POINTER, &mut pointer).ok()?;
    let descriptor = u64::from_le_bytes(pointer);
    if descriptor == 0 {
        return None;
    }
    // struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip.
    let mut words = [[0u8; 8]; 4];
    process_vm::read_exact(thread, descriptor, words.as_flattened_mut()).ok()?;
    let [version_and_flags, start, length, abort] = words.map(u64::from_le_bytes);
    let inside = registers[reg::RIP].wrapping_sub(start) < length;
    (version_and_flags == 0 && inside).then_some(abort)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped_in(number: i64, rax: i64) -> Registers {
        let mut registers = [0; 27];
        registers[reg::ORIG_RAX] = number.cast_unsigned();
        registers[reg::RAX] = rax.cast_unsigned();
        registers[reg::RIP] = 0x1000;
        registers
    }

    #[test]
    fn a_leaked_eintr_is_left_to_the_kernel() {
        let registers = amended(&stopped_in(libc::SYS_epoll_wait, -4), || None);
        assert_eq!(registers[reg::RAX].cast_signed(), -514);
        let close = stopped_in(libc::SYS_close, -4);
        assert_eq!(amended(&close, || None), close);
        let outside = stopped_in(-1, -4);
        assert_eq!(amended(&outside, || None), outside);
    }

    #[test]
    fn a_restart_that_has_not_begun_is_taken_back() {
        let sleeping = stopped_in(libc::SYS_nanosleep, -516);
        let mut restarting = stopped_in(libc::SYS_nanosleep, libc::SYS_restart_syscall);
        assert_eq!(
            amended(&restarting, || None),
            restarting,
            "a call of its own"
        );
        restarting[reg::RCX] = 0x1000;
        restarting[reg::RIP] = 0x1000 - SYSCALL_LEN;
        let again = amended(&restarting, || None);
        assert_eq!(
            (again[reg::RIP], again[reg::RAX]),
            (0x1000, sleeping[reg::RAX])
        );
    }

    #[test]
    fn an_interrupted_sequence_is_aborted() {
        assert_eq!(
            amended(&stopped_in(-1, 0), || Some(0x2000))[reg::RIP],
            0x2000
        );
    }

    #[test]
    fn restart_blocks_do_not_travel() {
        let sleeping = stopped_in(libc::SYS_nanosleep, -516);
        assert!(has_restart_block(&sleeping));
        assert_eq!(portable(&sleeping, None)[reg::RAX].cast_signed(), -514);
        let again = stopped_in(libc::SYS_restart_syscall, -516);
        assert_eq!(portable(&again, Some(35))[reg::ORIG_RAX], 35);
        assert_eq!(amended(&sleeping, || None), sleeping);
    }
}

//! Protocol versions, newest first, each with its reason.
//!
//! 33. Time namespaces that the job has made.
//! 32. Mount namespaces that the job has made.
//! 31. Connections of Unix sockets that nobody has accepted; datagrams that wait in UDP sockets.
//! 30. Message queues of POSIX.
//! 29. Bytes that lie in another file.
//! 28. Places in texts of /proc.
//! 27. What SEM_UNDO gives back.
//! 26. Descriptors of processes (pidfd_open).
//! 25. Network addresses in the offer; listeners of Multipath TCP.
//! 24. Limits of a job in its offer.
//! 23. Rings of io_uring.
//! 22. Memory that is sent while the job runs.
//! 21. The end of a job says which epoch it had.
//! 20. Namespaces that the job has made.
//! 19. CPU levels of jobs.
//! 18. Files that a job has made in temporary directories.
//! 17. TCP connections with all that is under way in them, closed, over, or not accepted yet.
//! 16. Segments of System V shared memory.
//! 15. Memory policies, mlockall(MCL_FUTURE), names of mappings, owners and modes of memfds.
//! 14. Semaphores and message queues of System V.
//! 13. TCP and UDP sockets.
//! 12. PR_SET_MDWE.
//! 11. Watches of inotify.
//! 10. /dev/shm, and mapped files without a name.
//! 9. Filters of seccomp(2).
//! 8. Unix sockets with paths, and datagrams with their senders' addresses.
//! 7. Unix sockets with abstract addresses.
//! 6. Unix sockets with their queues.
//! 5. Waits of epoll_wait's kind carry the time that is left.
//! 4. The end of a job says whose it was.
//! 3. Locks: in the image, in `Built` and `Released`; `Owned`, `Lent`, `Taken`, `Gone`.
//! 2. The offer is followed by the files that the job needs.
//! 1. The first: offer, image, bulk, built, commit, released.

/// The newest version this build speaks.
pub const NEWEST: u16 = 33;
/// The oldest version this build still speaks.
pub const OLDEST: u16 = 33;

/// The version two nodes use: the newest that both speak.
#[must_use]
pub fn common(their_oldest: u16, their_newest: u16) -> Option<u16> {
    let newest = NEWEST.min(their_newest);
    (newest >= OLDEST && newest >= their_oldest).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_newest_that_both_speak() {
        assert_eq!(common(OLDEST, OLDEST), Some(OLDEST));
        assert_eq!(common(1, 99), Some(NEWEST));
    }

    #[test]
    fn refuses_when_the_ranges_do_not_meet() {
        assert_eq!(common(NEWEST + 1, NEWEST + 3), None);
        assert_eq!(common(0, 0), None);
    }
}

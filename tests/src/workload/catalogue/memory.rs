//! Workloads that hold memory of every kind.

use super::{Workload, of};

pub(super) const MEMORY: &[Workload] = &[
    of(
        "spin",
        "spin",
        &[],
        "the smallest program, for the pause",
        &[],
    )
    .single(),
    of(
        "spin",
        "spin-pages",
        &["--size-mb", "64"],
        "a heap that is written all the time",
        &["page"],
    )
    .single(),
    of(
        "heap",
        "heap-big",
        &["--mode", "big"],
        "256 MiB with checksums",
        &["page"],
    )
    .single(),
    of(
        "heap",
        "heap-brk",
        &["--mode", "brk"],
        "the end of the heap and its growth",
        &["brk"],
    )
    .single(),
    of(
        "heap",
        "heap-malloc",
        &["--mode", "malloc"],
        "the allocator's blocks",
        &["block"],
    )
    .single(),
    of(
        "heap",
        "heap-stack",
        &["--mode", "stack"],
        "a deep stack and its growth",
        &["stack"],
    )
    .single(),
    of(
        "areas",
        "areas-cow",
        &["--mode", "cow"],
        "private file mappings with written pages",
        &["written"],
    )
    .single(),
    of(
        "areas",
        "areas-none",
        &["--mode", "none"],
        "contents under PROT_NONE",
        &["contents", "protection"],
    )
    .single(),
    of(
        "areas",
        "areas-protections",
        &["--mode", "protections"],
        "protections of single pages",
        &["protection"],
    )
    .single(),
    of(
        "areas",
        "areas-guard",
        &["--mode", "guard"],
        "guard regions (MADV_GUARD_INSTALL)",
        &["guard"],
    )
    .single(),
    of(
        "areas",
        "areas-huge",
        &["--mode", "huge"],
        "transparent huge pages",
        &["advice"],
    )
    .single(),
    of(
        "areas",
        "areas-sparse",
        &["--mode", "sparse"],
        "64 GiB reserved, few pages used",
        &["page"],
    )
    .single(),
    of(
        "areas",
        "areas-many",
        &["--mode", "many"],
        "4,000 mappings",
        &["mapping", "protection"],
    )
    .single(),
    of(
        "areas",
        "areas-growsdown",
        &["--mode", "growsdown"],
        "MAP_GROWSDOWN",
        &["page"],
    )
    .single(),
    of(
        "areas",
        "areas-advice",
        &["--mode", "advice"],
        "madvise flags",
        &["advice"],
    )
    .single(),
    of(
        "areas",
        "areas-lock",
        &["--mode", "lock"],
        "mlock and MLOCK_ONFAULT",
        &["lock"],
    )
    .single(),
    of(
        "areas",
        "areas-seal",
        &["--mode", "seal"],
        "mseal",
        &["seal"],
    )
    .single(),
    of(
        "areas",
        "areas-droppable",
        &["--mode", "droppable"],
        "MAP_DROPPABLE",
        &["page"],
    )
    .single(),
    of(
        "areas",
        "areas-memfd",
        &["--mode", "memfd"],
        "a memfd with all seals and an odd size",
        &["size"],
    )
    .single(),
    of(
        "hugepages",
        "hugepages-private",
        &["--mode", "private"],
        "private MAP_HUGETLB",
        &["page", "protection"],
    )
    .single(),
    of(
        "hugepages",
        "hugepages-shared",
        &["--mode", "shared"],
        "MAP_HUGETLB shared by parent and child",
        &["split"],
    ),
    of(
        "hugepages",
        "hugepages-memfd",
        &["--mode", "memfd"],
        "MFD_HUGETLB, sealed and with a hole",
        &["private", "shared"],
    )
    .single(),
    of(
        "areas",
        "areas-edges",
        &["--mode", "edges"],
        "page 0, the last page, below 4 GiB, 16 TiB without access",
        &["page"],
    )
    .single(),
    of(
        "place",
        "place-future",
        &["--mode", "future"],
        "mlockall(MCL_FUTURE)",
        &["lock"],
    )
    .single(),
    of(
        "place",
        "place-onfault",
        &["--mode", "onfault"],
        "mlockall(MCL_FUTURE | MCL_ONFAULT)",
        &["lock"],
    )
    .single(),
    of(
        "place",
        "place-merge",
        &["--mode", "merge"],
        "PR_SET_MEMORY_MERGE",
        &["merge"],
    )
    .single(),
    of(
        "place",
        "place-policy",
        &["--mode", "policy"],
        "memory policies of threads and mappings",
        &["thread", "mapping"],
    ),
    of(
        "memfds",
        "memfds-exec",
        &["--mode", "exec"],
        "MFD_NOEXEC_SEAL and F_SEAL_EXEC",
        &["seal"],
    )
    .single(),
    of(
        "memfds",
        "memfds-owner",
        &["--mode", "owner"],
        "owner, mode and times of a memfd",
        &["owner", "mode"],
    )
    .single(),
    of(
        "memfds",
        "memfds-beyond",
        &["--mode", "beyond"],
        "a memfd mapped beyond its end, with a hole",
        &["size", "hole"],
    )
    .single(),
    of(
        "memfds",
        "memfds-run",
        &["--mode", "run"],
        "a program that is a sealed memfd",
        &["magic"],
    )
    .single(),
    of(
        "sysv",
        "sysv-semaphores",
        &["--mode", "semaphores"],
        "a set of System V semaphores",
        &["value"],
    ),
    of(
        "sysv",
        "sysv-semaphores-threads",
        &["--mode", "threads"],
        "System V semaphores in a program with threads",
        &["value"],
    ),
    of(
        "sysv",
        "sysv-semaphores-undo",
        &["--mode", "undo"],
        "what SEM_UNDO gives back when a process ends",
        &["forgotten"],
    ),
    of(
        "sysv",
        "sysv-queue",
        &["--mode", "queue"],
        "a System V message queue",
        &["order"],
    ),
    of(
        "segments",
        "sysv-shm",
        &["--mode", "shared"],
        "a System V segment shared by parent and child",
        &["split", "content"],
    ),
    of(
        "segments",
        "sysv-shm-parts",
        &["--mode", "parts"],
        "System V segments unmapped, protected and moved in parts",
        &["protection", "detach"],
    )
    .single(),
    of(
        "segments",
        "sysv-shm-removed",
        &["--mode", "removed"],
        "a System V segment that has been removed while attached",
        &["tail"],
    )
    .single(),
    of(
        "segments",
        "sysv-shm-detached",
        &["--mode", "detached"],
        "System V segments that nobody has attached",
        &["content", "tail"],
    )
    .single(),
    of(
        "shared",
        "shared-anonymous",
        &["--mode", "anonymous"],
        "anonymous memory shared by parent and children",
        &["split", "total"],
    ),
    of(
        "shared",
        "shared-file",
        &["--mode", "file"],
        "a shared file mapping",
        &["split", "total"],
    ),
    of(
        "shared",
        "shared-posix",
        &["--mode", "posix"],
        "shm_open",
        &["split", "total"],
    ),
    of(
        "shared",
        "shared-posix-unlinked",
        &["--mode", "posix_unlinked"],
        "shm_open, unlinked",
        &["split", "total"],
    ),
    of(
        "shared",
        "shared-posix-closed",
        &["--mode", "posix_closed"],
        "shm_open, unlinked and closed",
        &["split", "total"],
    ),
    of(
        "shared",
        "shared-ghost",
        &["--mode", "ghost"],
        "a mapped file that has been unlinked",
        &["split", "total"],
    ),
    of(
        "shared",
        "shared-ghost-closed",
        &["--mode", "ghost_closed"],
        "a mapped file without name and descriptor",
        &["split", "total"],
    ),
    of(
        "shm",
        "shm-semaphores",
        &["--mode", "semaphores"],
        "semaphores of sem_open, named and unlinked",
        &["post"],
    ),
    of(
        "shm",
        "shm-tree",
        &["--mode", "tree"],
        "everything that can be in /dev/shm",
        &["time", "link"],
    )
    .single(),
    of(
        "shm",
        "shm-private",
        &["--mode", "private"],
        "a private mapping of a file that was replaced",
        &["code"],
    )
    .single(),
    of(
        "shm",
        "shm-exe",
        &["--mode", "exe"],
        "a program that has been deleted",
        &["magic"],
    )
    .single(),
    of(
        "shared",
        "shared-memfd",
        &["--mode", "memfd"],
        "a memfd mapped twice, sealed and named",
        &["split", "total"],
    ),
    of(
        "shared",
        "shared-memfd-write",
        &["--mode", "memfd_write"],
        "a memfd changed by write alone",
        &["stale"],
    )
    .single(),
];

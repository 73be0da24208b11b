// Gets itself into the state that its argument names, says "ready" and stays
// there. "unable" instead of "ready": this kernel does not let it.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <net/ethernet.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static void say(const char *what) {
    if (write(1, what, strlen(what)) < 0) _exit(3);
}

static void unable(void) {
    say("unable\n");
    _exit(0);
}

static void need(long result) {
    if (result < 0) unable();
}

static void stay(void) {
    say("ready\n");
    for (;;) pause();
}

static void *sleeper(void *unused) {
    for (;;) pause();
    return unused;
}

static void thread(void *(*run)(void *), void *argument) {
    pthread_t id;
    if (pthread_create(&id, NULL, run, argument)) unable();
}

// A child that goes when its parent goes.
static pid_t child(void) {
    pid_t pid = fork();
    need(pid);
    if (pid == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

static void *map(int flags, int fd, int protection) {
    void *at = mmap(NULL, PAGE, protection, flags, fd, 0);
    if (at == MAP_FAILED) unable();
    return at;
}

static void *unsharing(void *flags) {
    need(unshare((int)(intptr_t)flags));
    stay();
    return NULL;
}

static int spawned(void *unused) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) syscall(SYS_pause);
    return unused != NULL;
}

static void *vforking(void *unused) {
    (void)unused;
    if (vfork() == 0) {
        say("ready\n");
        for (;;) syscall(SYS_pause);
    }
    return NULL;
}

static void *outliving(void *unused) {
    (void)unused;
    stay();
    return NULL;
}

static void timer(int clock, int notify, pid_t tid) {
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = SIGRTMIN + 3};
    event._sigev_un._tid = tid;
    int id;
    need(syscall(SYS_timer_create, clock, &event, &id));
}

static void *timer_of_mine(void *unused) {
    (void)unused;
    timer(CLOCK_MONOTONIC, SIGEV_THREAD_ID, gettid());
    return NULL;
}

static void filter(void) {
    struct sock_filter all = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
    struct sock_fprog program = {1, &all};
    need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    need(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    stay();
}

static void strict(void) {
    int ends[2];
    char byte;
    need(pipe(ends));
    need(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    say("ready\n");
    if (read(ends[0], &byte, 1) < 0) syscall(SYS_exit, 1);
}

static void faults(void) {
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
    need(fd);
    struct uffdio_api api = {.api = UFFD_API};
    need(ioctl(fd, UFFDIO_API, &api));
    void *at = map(MAP_PRIVATE | MAP_ANONYMOUS, -1, PROT_READ | PROT_WRITE);
    struct uffdio_register range = {
        .range = {(uintptr_t)at, PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    need(ioctl(fd, UFFDIO_REGISTER, &range));
    stay();
}

static void ring(void) {
    struct {
        uint32_t words[30];
    } parameters = {{0}};
    int fd = syscall(SYS_io_uring_setup, 4, &parameters);
    need(fd);
    map(MAP_SHARED, fd, PROT_READ | PROT_WRITE);
    close(fd);
    stay();
}

static void packets(void) {
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    need(fd);
    struct tpacket_req ring = {PAGE, 1, 2048, 2};
    need(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring));
    map(MAP_SHARED, fd, PROT_READ | PROT_WRITE);
    stay();
}

static void segment(void) {
    int id = shmget(IPC_PRIVATE, PAGE, 0600);
    need(id);
    void *at = shmat(id, NULL, 0);
    shmctl(id, IPC_RMID, NULL);
    if (at == (void *)-1) unable();
    stay();
}

static void file(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    need(fd);
    need(ftruncate(fd, PAGE));
    map(MAP_SHARED, fd, PROT_READ | PROT_WRITE);
    close(fd);
    stay();
}

static void deadline(void) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attributes = {48, 6, 0, 0, 0, 1000000, 100000000, 100000000};
    need(syscall(SYS_sched_setattr, 0, &attributes, 0));
    stay();
}

// Whatever an ordinary, if somewhat baroque, program may do.
static void plenty(void) {
    const int private = MAP_PRIVATE | MAP_ANONYMOUS, all = PROT_READ | PROT_WRITE;
    for (int i = 0; i < 3; i++) thread(sleeper, NULL);
    map(MAP_SHARED | MAP_ANONYMOUS, -1, all);
    mlock(map(private, -1, all), PAGE);
    madvise(map(private | MAP_NORESERVE, -1, all), PAGE, MADV_DONTFORK);
    madvise(map(private, -1, all), PAGE, MADV_WIPEONFORK);
    madvise(map(private, -1, all), PAGE, MADV_DONTDUMP);
    madvise(map(private, -1, all), PAGE, 102 /* MADV_GUARD_INSTALL */);
    map(private | MAP_GROWSDOWN, -1, all);
    mmap(NULL, PAGE, all, MAP_ANONYMOUS | 0x08 /* MAP_DROPPABLE */, -1, 0);
    syscall(462 /* mseal */, map(private, -1, PROT_READ), PAGE, 0);
    int memory = memfd_create("m", 0), zero = open("/dev/zero", O_RDWR);
    need(ftruncate(memory, PAGE));
    map(MAP_SHARED, memory, all);
    map(MAP_PRIVATE, memory, all);
    map(MAP_PRIVATE, zero, all);
    timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, 0);
    timer(CLOCK_REALTIME, SIGEV_NONE, 0);
    timer(CLOCK_BOOTTIME, SIGEV_THREAD_ID, gettid());
    timer(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, 0);
    clockid_t clock;
    need(pthread_getcpuclockid(pthread_self(), &clock));
    timer(clock, SIGEV_SIGNAL, 0);
    struct itimerval interval = {{1000, 0}, {1000, 0}};
    setitimer(ITIMER_PROF, &interval, NULL);
    personality(ADDR_NO_RANDOMIZE);
    prctl(PR_SET_SECUREBITS, 1 << 2);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    struct sched_param priority = {1};
    sched_setscheduler(0, SCHED_RR, &priority);
    if (child() == 0) _exit(3); // stays a zombie
    pid_t stopped = child();
    if (stopped == 0) for (;;) raise(SIGSTOP);
    need(waitpid(stopped, NULL, WUNTRACED));
    if (child() == 0) {
        setsid();
        sleeper(NULL);
    }
    stay();
}

int main(int argc, char **argv) {
    const char *what = argv[1], *path = argc > 2 ? argv[2] : "";
    static char stack[65536] __attribute__((aligned(16)));
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!strcmp(what, "plenty")) plenty();
    if (!strcmp(what, "nothing")) stay();
    if (!strcmp(what, "traced")) {
        pid_t pid = child();
        if (pid == 0) {
            need(ptrace(PTRACE_TRACEME, 0, 0, 0));
            stay();
        }
        sleeper(NULL);
    }
    if (!strcmp(what, "strict")) strict();
    if (!strcmp(what, "filter")) filter();
    if (!strcmp(what, "unshare")) unsharing((void *)(intptr_t)strtol(path, NULL, 16));
    if (!strcmp(what, "unshare-thread")) {
        thread(unsharing, (void *)(intptr_t)strtol(path, NULL, 16));
        sleeper(NULL);
    }
    if (!strcmp(what, "unshare-child")) {
        need(unshare((int)strtol(path, NULL, 16)));
        if (child() == 0) stay();
        sleeper(NULL);
    }
    if (!strcmp(what, "clone")) {
        need(clone(spawned, stack + sizeof stack, (int)strtol(path, NULL, 16) | SIGCHLD, NULL));
        stay();
    }
    if (!strcmp(what, "vfork")) {
        thread(vforking, NULL);
        sleeper(NULL);
    }
    if (!strcmp(what, "leaderless")) {
        thread(outliving, NULL);
        pthread_exit(NULL);
    }
    if (!strcmp(what, "faults")) faults();
    if (!strcmp(what, "ring")) ring();
    if (!strcmp(what, "packets")) packets();
    if (!strcmp(what, "segment")) segment();
    if (!strcmp(what, "aio")) {
        aio_context_t context = 0;
        need(syscall(SYS_io_setup, 4, &context));
        stay();
    }
    if (!strcmp(what, "secret")) {
        int fd = syscall(447 /* memfd_secret */, 0);
        need(fd);
        need(ftruncate(fd, PAGE));
        map(MAP_SHARED, fd, PROT_READ | PROT_WRITE);
        stay();
    }
    if (!strcmp(what, "pkey")) {
        int key = pkey_alloc(0, 0);
        need(key);
        need(pkey_mprotect(map(MAP_PRIVATE | MAP_ANONYMOUS, -1, PROT_READ), PAGE, PROT_READ, key));
        stay();
    }
    if (!strcmp(what, "file")) file(path);
    if (!strcmp(what, "deadline")) deadline();
    if (!strcmp(what, "thread-clock")) {
        thread(sleeper, NULL);
        timer(CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, 0);
        stay();
    }
    if (!strcmp(what, "dead-target")) {
        pthread_t id;
        if (pthread_create(&id, NULL, timer_of_mine, NULL)) unable();
        pthread_join(id, NULL);
        stay();
    }
    if (!strcmp(what, "cwd")) {
        need(chdir(path));
        need(rmdir(path));
        stay();
    }
    if (!strcmp(what, "chroot")) {
        need(chroot(path));
        need(chdir("/"));
        stay();
    }
    return 2;
}

// Threads that may make the calls that they make and no other: any other one ends the
// program at once, restart_syscall among them. They notice calls that fail or end too
// early. Ends with SIGUSR1.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NAP_MS 4

static volatile sig_atomic_t end;
static int channel[2];
static volatile int running; // threads that have done with what the C library does at their start

static void on_end(int signal) { (void)signal; end = 1; }

static void fail(const char *what) {
    char line[128];
    int length = snprintf(line, sizeof line, "FAIL: %s (errno %d)\n", what, errno);
    if (write(1, line, length) < 0) _exit(2);
    _exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t); // by the vDSO
    return t.tv_sec + t.tv_nsec / 1e9;
}

// Not by the C library, which has more to do then.
static void *finished(void) {
    __sync_fetch_and_sub(&running, 1);
    syscall(SYS_exit, 0);
    return NULL;
}

static void *nap(void *unused) {
    (void)unused;
    __sync_fetch_and_add(&running, 1);
    while (!end) {
        double begin = now();
        struct timespec time = {0, NAP_MS * 1000000L};
        if (clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL) && !end) fail("nanosleep");
        if (now() - begin < NAP_MS / 1e3 && !end) fail("a nap was short");
    }
    return finished();
}

static void *wait_for_nothing(void *unused) {
    (void)unused;
    __sync_fetch_and_add(&running, 1);
    static uint32_t word;
    while (!end) {
        if (poll(NULL, 0, NAP_MS) && !end) fail("poll");
        struct timespec time = {0, NAP_MS * 1000000L};
        if (syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0) != -1 || errno != ETIMEDOUT) fail("futex");
    }
    return finished();
}

static void *spin(void *unused) {
    (void)unused;
    __sync_fetch_and_add(&running, 1);
    for (uint64_t seed = 1; !end; seed++) {
        uint64_t bad;
        __asm__ volatile(
            "mov %1, %%rbx\n lea 1(%%rbx), %%r12\n lea 2(%%rbx), %%r13\n lea 3(%%rbx), %%r14\n movq %%rbx, %%xmm7\n"
            "mov %%rbx, -64(%%rsp)\n mov $20000, %%ecx\n"
            "1: lea -1(%%r12), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n lea -2(%%r13), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n"
            "lea -3(%%r14), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n movq %%xmm7, %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n"
            "mov -64(%%rsp), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n"
            "dec %%ecx\n jnz 1b\n xor %0, %0\n jmp 3f\n 2: mov $1, %0\n 3:\n"
            : "=a"(bad) : "a"(seed) : "rbx", "rcx", "rdx", "r12", "r13", "r14", "xmm7", "cc", "memory");
        if (bad) fail("a register changed");
    }
    return finished();
}

static void *tell(void *unused) {
    (void)unused;
    __sync_fetch_and_add(&running, 1);
    for (uint64_t word = 1; !end; word++) {
        if (write(channel[1], &word, sizeof word) != sizeof word) fail("write");
        struct timespec time = {0, 1000000L};
        if (clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL) && !end) fail("nanosleep");
    }
    close(channel[1]);
    return finished();
}

static void *listen_to(void *unused) {
    (void)unused;
    __sync_fetch_and_add(&running, 1);
    uint64_t word;
    ssize_t length;
    for (uint64_t expected = 1; (length = read(channel[0], &word, sizeof word)) != 0; expected++)
        if (length != sizeof word || word != expected) fail("read");
    return finished();
}

static void confine(void) {
    static const int allowed[] = {
        SYS_read, SYS_write, SYS_close, SYS_poll, SYS_futex, SYS_clock_nanosleep,
        SYS_rt_sigreturn, SYS_exit, SYS_exit_group,
    };
    enum { COUNT = sizeof allowed / sizeof *allowed };
    struct sock_filter filter[1 + COUNT + 2] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    };
    for (int i = 0; i < COUNT; i++)
        filter[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], COUNT - i, 0);
    filter[1 + COUNT] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    filter[2 + COUNT] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program)) fail("seccomp");
}

int main(void) {
    void *(*work[])(void *) = {nap, wait_for_nothing, spin, tell, listen_to};
    enum { COUNT = sizeof work / sizeof *work };
    pthread_t threads[COUNT];
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    if (pipe(channel)) fail("pipe");
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    for (int i = 0; i < COUNT; i++)
        if (pthread_create(&threads[i], NULL, work[i], NULL)) fail("pthread_create");
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_end}, NULL);
    pthread_sigmask(SIG_UNBLOCK, &blocked, NULL);
    while (running < COUNT) usleep(1000);
    printf("ready\n");
    fflush(stdout);
    confine();
    struct timespec time = {0, NAP_MS * 1000000L};
    while (running) clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
    if (write(1, "ok\n", 3) != 3) return 1;
    _exit(0);
}

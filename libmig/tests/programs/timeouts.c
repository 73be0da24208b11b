// Makes one system call with a relative timeout of SLEEP_MS, whose arguments
// must not be changed by it, neither in registers nor in memory that cannot be
// written to. Argument 1: the call; argument 2, "handled": it must fail with
// EINTR after a handler that takes a while.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SLEEP_MS 700
#define HANDLER_MS 150

static const struct timespec fixed = {0, SLEEP_MS * 1000000L};
static const struct timeval fixed_old = {0, SLEEP_MS * 1000L};
static struct timespec changing = {0, SLEEP_MS * 1000000L};
static volatile sig_atomic_t handled;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void handler(int signal) {
    (void)signal;
    double end = now() + HANDLER_MS / 1e3;
    while (now() < end) {}
    handled++;
}

static void fail(const char *what, long value) {
    printf("FAIL: %s (%ld)\n", what, value);
    fflush(stdout);
    _exit(1);
}

// The call with its number and arguments, and what became of them.
static long raw(long number, long a, long b, long c, long d, long e, long f) {
    long result, rdi = a, rsi = b, rdx = c;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    uint64_t before, after, red = 0;
    __asm__ volatile(
        "mov %%rsp, %8\n movq $0x5ca1ab1e, -120(%%rsp)\n"
        "syscall\n"
        "mov %%rsp, %9\n mov -120(%%rsp), %10\n"
        : "=a"(result), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+r"(r10), "+r"(r8), "+r"(r9), "=m"(changing),
          "=&r"(before), "=&r"(after), "=&r"(red)
        : "0"(number)
        : "rcx", "r11", "memory");
    if (rdi != a || rsi != b || rdx != c) fail("rdi, rsi or rdx has changed", number);
    if (r10 != d || r8 != e || r9 != f) fail("r10, r8 or r9 has changed", number);
    if (before != after || red != 0x5ca1ab1e) fail("the stack has changed", number);
    return result;
}

static long call(const char *how) {
    struct epoll_event event;
    struct pollfd none = {-1, 0, 0};
    struct { sigset_t *set; long len; } no_mask = {NULL, 8};
    sigset_t usr2;
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);
    long epoll = epoll_create1(0);
    if (!strcmp(how, "epoll_wait")) return raw(SYS_epoll_wait, epoll, (long)&event, 1, SLEEP_MS, 5, 6);
    if (!strcmp(how, "epoll_pwait")) return raw(SYS_epoll_pwait, epoll, (long)&event, 1, SLEEP_MS, (long)&usr2, 8);
    if (!strcmp(how, "epoll_pwait2")) return raw(SYS_epoll_pwait2, epoll, (long)&event, 1, (long)&fixed, 0, 8);
    if (!strcmp(how, "sigtimedwait")) return raw(SYS_rt_sigtimedwait, (long)&usr2, 0, (long)&fixed, 8, 5, 6);
    if (!strcmp(how, "ppoll")) return raw(SYS_ppoll, (long)&none, 1, (long)&changing, 0, 8, 6);
    if (!strcmp(how, "ppoll_fixed")) return raw(SYS_ppoll, (long)&none, 1, (long)&fixed, 0, 8, 6);
    if (!strcmp(how, "pselect_fixed")) return raw(SYS_pselect6, 0, 0, 0, 0, (long)&fixed, (long)&no_mask);
    if (!strcmp(how, "select_fixed")) return raw(SYS_select, 0, 0, 0, 0, (long)&fixed_old, 6);
    if (!strcmp(how, "semtimedop")) {
        long set = semget(IPC_PRIVATE, 1, 0600);
        struct sembuf down = {0, -1, 0};
        long result = raw(SYS_semtimedop, set, (long)&down, 1, (long)&fixed, 5, 6);
        semctl((int)set, 0, IPC_RMID);
        return result;
    }
    aio_context_t ring = 0;
    struct io_event done;
    if (syscall(SYS_io_setup, 1, &ring)) fail("io_setup", errno);
    if (!strcmp(how, "io_getevents")) return raw(SYS_io_getevents, (long)ring, 1, 1, (long)&done, (long)&fixed, 6);
    if (!strcmp(how, "io_pgetevents")) return raw(333, (long)ring, 1, 1, (long)&done, (long)&fixed, 0);
    fail("unknown argument", 0);
    return 0;
}

int main(int argc, char **argv) {
    int interrupted = argc > 2;
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    sigset_t usr2;
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);
    sigprocmask(SIG_BLOCK, &usr2, NULL);
    puts("ready");
    fflush(stdout);
    double start = now();
    long result = call(argv[1]);
    double took = (now() - start) * 1e3;
    if (interrupted) {
        if (result != -EINTR || handled != 1) fail("it was to be interrupted", result);
    } else if (result && result != -EAGAIN) {
        fail("it was to run out", result);
    } else if (took < SLEEP_MS - 2 || took > SLEEP_MS + 400) {
        fail("milliseconds that it took", (long)took);
    }
    puts("ok");
    return 0;
}

// A program that notices any disturbance of its registers, flags, vector
// registers, signal mask and SIGTRAP state. Argument 1: "spin" or the name of
// a blocking system call that must take SLEEP_MS and not fail; "pause-handled"
// and "epoll-handled" must fail with EINTR after a handler ran.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define SLEEP_MS 700

static volatile sig_atomic_t handled;
static void handler(int signal) { (void)signal; handled++; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    printf("FAIL: %s (errno %d)\n", what, errno);
    fflush(stdout);
    _exit(1);
}

// One round through all registers: the values must come out as they went in.
static int round_trip(uint64_t seed) {
    uint64_t bad = 0;
    __asm__ volatile(
        "mov %1, %%rbx\n lea 1(%%rbx), %%r8\n lea 2(%%rbx), %%r9\n lea 3(%%rbx), %%r10\n"
        "lea 4(%%rbx), %%r11\n lea 5(%%rbx), %%r12\n lea 6(%%rbx), %%r13\n lea 7(%%rbx), %%r14\n"
        "lea 8(%%rbx), %%r15\n lea 9(%%rbx), %%rsi\n lea 10(%%rbx), %%rdi\n movq %%rbx, %%xmm7\n"
        "mov %%rbx, -64(%%rsp)\n"        // the red zone
        "mov $20000, %%ecx\n"
        "1: lea -1(%%r8), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n"
        "lea -2(%%r9), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n lea -3(%%r10), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n"
        "lea -4(%%r11), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n lea -5(%%r12), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n"
        "lea -6(%%r13), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n lea -7(%%r14), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n"
        "lea -8(%%r15), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n lea -9(%%rsi), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n"
        "lea -10(%%rdi), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n movq %%xmm7, %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n"
        "mov -64(%%rsp), %%rdx\n cmp %%rbx, %%rdx\n jne 2f\n"
        "dec %%ecx\n jnz 1b\n xor %0, %0\n jmp 3f\n 2: mov $1, %0\n 3:\n"
        : "=a"(bad)
        : "a"(seed)
        : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm7", "cc", "memory");
    return (int)bad;
}

static void spin(void) {
    double end = now() + SLEEP_MS / 1e3;
    for (uint64_t seed = 12345; now() < end; seed += 77)
        if (round_trip(seed)) fail("a register changed");
}

static void block(const char *how) {
    struct timespec sleep = {0, SLEEP_MS * 1000000L};
    double start = now();
    errno = 0;
    if (!strcmp(how, "nanosleep")) {
        if (nanosleep(&sleep, NULL)) fail("nanosleep");
    } else if (!strcmp(how, "poll")) {
        if (poll(NULL, 0, SLEEP_MS)) fail("poll");
    } else if (!strcmp(how, "ppoll")) {
        if (ppoll(NULL, 0, &sleep, NULL)) fail("ppoll");
    } else if (!strcmp(how, "clock_nanosleep-absolute")) {
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_nsec += SLEEP_MS * 1000000L;
        at.tv_sec += at.tv_nsec / 1000000000L;
        at.tv_nsec %= 1000000000L;
        if (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL)) fail("clock_nanosleep");
    } else if (!strcmp(how, "epoll_wait") || !strcmp(how, "epoll-handled")) {
        struct epoll_event event;
        int result = epoll_wait(epoll_create1(0), &event, 1, SLEEP_MS);
        if (!strcmp(how, "epoll_wait") && result) fail("epoll_wait");
        if (!strcmp(how, "epoll-handled") && (result != -1 || errno != EINTR || !handled)) fail("epoll_wait and a handler");
    } else if (!strcmp(how, "sigtimedwait")) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR2);
        if (sigtimedwait(&set, NULL, &sleep) != -1 || errno != EAGAIN) fail("sigtimedwait");
    } else if (!strcmp(how, "pause-handled")) {
        if (pause() != -1 || errno != EINTR || handled != 1) fail("pause and a handler");
    } else {
        fail("unknown argument");
    }
    double took = (now() - start) * 1e3;
    int interrupted = strstr(how, "handled") != NULL;
    // What leaks EINTR is restarted with its whole time, ppoll with the time that
    // was left when it was stopped: longer, never shorter.
    int restarted = !strcmp(how, "epoll_wait") || !strcmp(how, "sigtimedwait") || !strcmp(how, "ppoll");
    if (!interrupted && (took < SLEEP_MS - 5 || took > SLEEP_MS * (restarted ? 2 : 1) + 200)) {
        printf("took %.1f ms\n", took);
        fail("duration");
    }
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "spin";
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    sigset_t blocked, after;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTRAP);
    sigaddset(&blocked, SIGUSR2);
    sigaddset(&blocked, SIGURG);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    signal(SIGTRAP, SIG_IGN);
    puts("ready");
    fflush(stdout);
    if (strcmp(how, "spin")) block(how); else spin();
    sigprocmask(SIG_SETMASK, NULL, &after);
    for (int signal = 1; signal < 64; signal++)
        if (sigismember(&blocked, signal) != sigismember(&after, signal)) fail("the signal mask changed");
    if (signal(SIGTRAP, SIG_DFL) != SIG_IGN) fail("SIGTRAP is no longer ignored");
    puts("ok");
    return 0;
}

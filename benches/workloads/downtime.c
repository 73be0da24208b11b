/* A program that knows how long it was not running: the largest gap of
 * CLOCK_REALTIME between two of its iterations.
 *
 *   downtime tiny
 *   downtime memory MIB        that much private memory, all of it written
 *   downtime threads N         N threads asleep on a condition
 *   downtime tree N            N processes, each in a pipe to its parent
 *   downtime mappings N        N mappings that the kernel cannot merge
 *
 * Prints "ready", then answers every byte on stdin, and every SIGUSR1, with
 * "gap MICROSECONDS" and starts afresh; ends with stdin or by SIGTERM. Memory
 * is checked at the end. With /dev/null for stdin it is asked by signal only. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

static void *sleeper(void *unused) {
    (void)unused;
    pthread_mutex_lock(&mutex);
    for (;;) pthread_cond_wait(&condition, &mutex);
    return NULL;
}

static void threads(long n) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 * 1024);
    for (long i = 0; i < n; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, sleeper, NULL)) die("pthread_create");
    }
}

static void tree(long n) {
    for (long i = 1; i < n; i++) {
        int ends[2];
        if (pipe(ends)) die("pipe");
        pid_t child = fork();
        if (child < 0) die("fork");
        if (child == 0) {
            /* Not the ends of its elder siblings. */
            if (dup2(ends[0], 3) < 0 || close_range(4, ~0u, 0)) die("dup2");
            ends[0] = 3;
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            char byte;
            while (read(ends[0], &byte, 1) < 0 && errno == EINTR) {}
            _exit(0);
        }
        close(ends[0]);
    }
}

static void mappings(long n) {
    for (long i = 0; i < n; i++) {
        int protection = i % 2 ? PROT_READ : PROT_READ | PROT_WRITE;
        char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED) die("mmap");
        page[0] = (char)i;
        if (mprotect(page, 4096, protection)) die("mprotect");
    }
}

static volatile sig_atomic_t asked, ending;

static void on_signal(int signal) {
    if (signal == SIGUSR1) asked = 1;
    if (signal == SIGTERM) ending = 1;
}

/* Whether someone wants to know. */
static int question(int listens) {
    if (asked) {
        asked = 0;
        return 1;
    }
    struct pollfd input = {.fd = 0, .events = POLLIN};
    if (!listens || poll(&input, 1, 0) <= 0) return 0;
    char byte;
    if (read(0, &byte, 1) > 0) return 1;
    ending = 1;
    return 0;
}

static uint64_t *fill(size_t bytes) {
    uint64_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) die("mmap");
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < bytes / 8; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        memory[i] = state;
    }
    return memory;
}

static void verify(const uint64_t *memory, size_t bytes) {
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < bytes / 8; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        if (memory[i] != state) {
            printf("FAIL: word %zu differs\n", i);
            exit(1);
        }
    }
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "tiny";
    long n = argc > 2 ? atol(argv[2]) : 0;
    size_t bytes = !strcmp(mode, "memory") ? (size_t)n << 20 : 0;
    uint64_t *memory = bytes ? fill(bytes) : NULL;
    if (!strcmp(mode, "threads")) threads(n);
    if (!strcmp(mode, "tree")) tree(n);
    if (!strcmp(mode, "mappings")) mappings(n);

    struct stat input;
    int listens = fstat(0, &input) == 0 && !S_ISCHR(input.st_mode);
    signal(SIGUSR1, on_signal);
    signal(SIGTERM, on_signal);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    int64_t last = now_us(), largest = 0;
    while (!ending) {
        struct timespec nap = {0, 100000};
        nanosleep(&nap, NULL);
        int64_t now = now_us();
        if (now - last > largest) largest = now - last;
        if (question(listens)) {
            printf("gap %lld\n", (long long)largest);
            largest = 0;
            now = now_us();
        }
        last = now;
    }
    if (memory) verify(memory, bytes);
    printf("PASS\n");
    return 0;
}

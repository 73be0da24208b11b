// Threads that wait for ever, and mappings that do not merge: `crowd THREADS MAPPINGS`.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static atomic_int waiting;

static void *wait_for_ever(void *unused) {
    (void)unused;
    waiting++;
    for (;;) pause();
    return NULL;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 0, mappings = argc > 2 ? atoi(argv[2]) : 0;
    for (int i = 0; i < mappings; i++) {
        char *at = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED || mprotect(at + 4096, 4096, PROT_READ)) return 1;
        memset(at, i, 4096);
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    for (int i = 0; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, wait_for_ever, NULL)) return 1;
    }
    while (waiting < threads) usleep(1000);
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}

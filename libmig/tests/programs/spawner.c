// Two threads that vfork and exec without pause for two seconds. The child takes its
// time before execve(2), so that its parent waits in vfork(2) for most of the time.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int stop;

static void fail(const char *what, int value) {
    printf("FAIL: %s %d (errno %d)\n", what, value, errno);
    fflush(stdout);
    _exit(1);
}

static void *spawn(void *first) {
    for (int code = (int)(long)first; !stop; code = (code + 1) % 200) {
        char text[16];
        snprintf(text, sizeof text, "%d", code);
        char *const arguments[] = {"spawner", text, NULL};
        pid_t pid = vfork();
        if (pid == 0) {
            const struct timespec nap = {0, 1500000};
            nanosleep(&nap, NULL);
            execv("/proc/self/exe", arguments);
            _exit(255);
        }
        int status = 0;
        while (waitpid(pid, &status, 0) != pid)
            if (errno != EINTR) fail("waitpid", pid);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != code) fail("status", status);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc > 1) return atoi(argv[1]);
    puts("ready");
    fflush(stdout);
    pthread_t threads[2];
    for (long i = 0; i < 2; i++) pthread_create(&threads[i], NULL, spawn, (void *)(i * 100));
    const struct timespec span = {2, 0};
    nanosleep(&span, NULL);
    stop = 1;
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    puts("ok");
    return 0;
}

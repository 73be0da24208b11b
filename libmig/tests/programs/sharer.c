// Three processes, of which the second and the third, brothers, share what the
// flags of clone(2) in the first argument say (hexadecimal).
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static char stack[65536] __attribute__((aligned(16)));

static int idle(void *unused) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
    return unused != NULL;
}

int main(int argc, char **argv) {
    int flags = argc > 1 ? (int)strtol(argv[1], NULL, 16) : 0;
    if (!fork()) {
        if (clone(idle, stack + sizeof stack, flags | CLONE_PARENT | SIGCHLD, NULL) < 0) return 1;
        puts("ready");
        fflush(stdout);
        return idle(NULL);
    }
    return idle(NULL);
}

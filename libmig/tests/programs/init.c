// Stands for a capsule: a pid namespace, whose init runs the program in the
// arguments, reaps whatever ends, and exits as the program does. When this
// process is killed, all of it goes.
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int reap_until(pid_t child) {
    for (;;) {
        int status;
        pid_t ended = wait(&status);
        if (ended == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
        if (ended < 0) return 126;
    }
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc < 2 || unshare(CLONE_NEWPID)) return 125;
    pid_t init = fork();
    if (init) return reap_until(init);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    pid_t child = fork();
    if (child) return reap_until(child);
    setpgid(0, 0);
    execv(argv[1], argv + 1);
    _exit(127);
}

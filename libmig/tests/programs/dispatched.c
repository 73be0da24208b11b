// Hands its system calls to a handler of its own, when it pleases, and checks that this stays so.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

static volatile char selector;
static volatile sig_atomic_t handled;

static void on_sys(int signal) {
    (void)signal;
    selector = 0;
    handled++;
}

int main(void) {
    signal(SIGSYS, on_sys);
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, &selector)) return 1;
    puts("ready");
    fflush(stdout);
    for (int round = 0; round < 100; round++) {
        selector = 1;
        syscall(SYS_getppid);
        if (handled != round + 1) {
            printf("call %d was not handed over\n", round);
            return 1;
        }
        usleep(10000);
    }
    puts("ok");
    return 0;
}

// A terminal whose slave TIOCGPTPEER opened with O_CLOEXEC, and a duplicate that
// exec keeps. Prints the numbers of both. On SIGUSR1 checks what F_GETFD says.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void) {
    close_range(STDERR_FILENO, ~0U, 0); // Pipes of whoever runs the tests.
    sigset_t set;
    int signal;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) || unlockpt(master)) return 1;
    int closed = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    int kept = dup(closed);
    if (kept < 0) return 1;
    printf("ready\n%d\n%d\n", closed, kept);
    fflush(stdout);
    sigwait(&set, &signal);
    int good = fcntl(closed, F_GETFD) == FD_CLOEXEC && fcntl(kept, F_GETFD) == 0;
    puts(good ? "ok" : "FAIL");
    return !good;
}

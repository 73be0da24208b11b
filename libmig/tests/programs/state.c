// A tree with a piece of every kind of state. Prints what it set up as
// "key value" lines, then waits for SIGUSR1, checks that all of it is as it was,
// and says "ok".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#define PAGE 4096

static volatile sig_atomic_t asked;
static void on_usr1(int signal, siginfo_t *info, void *context) { (void)signal; (void)info; (void)context; asked = 1; }
static void fail(const char *what) { printf("FAIL: %s (errno %d)\n", what, errno); fflush(stdout); _exit(1); }
static void say(const char *key, uintptr_t value) { printf("%s %lu\n", key, (unsigned long)value); }

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static void *waits(void *unused) {
    prctl(PR_SET_NAME, "state-waits");
    pthread_mutex_lock(&mutex);
    for (;;) pthread_cond_wait(&condition, &mutex);
    return unused;
}
static volatile uint64_t rounds;
static void *spins(void *unused) {
    for (;;) rounds++;
    return unused;
}

static char *map(size_t pages, int protection, int flags, int fd) {
    char *at = mmap(NULL, pages * PAGE, protection, flags, fd, 0);
    if (at == MAP_FAILED) fail("mmap");
    return at;
}

int main(void) {
    puts("ready");
    // Children first, while there is one thread.
    pid_t zombie = fork();
    if (!zombie) _exit(207);
    pid_t killed = fork();
    if (!killed) for (;;) pause();
    kill(killed, SIGKILL);
    pid_t stopped = fork();
    if (!stopped) { raise(SIGSTOP); for (;;) pause(); }
    int up[2];
    if (pipe(up)) fail("pipe");
    pid_t leader = fork();
    if (!leader) {
        setsid();
        pid_t grandchild = fork();
        if (!grandchild) {
            setpgid(0, 0);
            grandchild = getpid();
            if (write(up[1], &grandchild, sizeof grandchild) < 0) _exit(1);
        }
        for (;;) pause();
    }
    pid_t grandchild;
    if (read(up[0], &grandchild, sizeof grandchild) != sizeof grandchild) fail("grandchild");
    siginfo_t info;
    if (waitid(P_PID, zombie, &info, WEXITED | WNOWAIT) || waitid(P_PID, killed, &info, WEXITED | WNOWAIT) ||
        waitid(P_PID, stopped, &info, WSTOPPED | WNOWAIT)) fail("waitid");
    say("zombie", zombie); say("killed", killed); say("stopped", stopped); say("leader", leader); say("grandchild", grandchild);

    umask(027);
    if (chdir("/tmp")) fail("chdir");
    prctl(PR_SET_NAME, "a) (state");
    prctl(PR_SET_PDEATHSIG, SIGUSR2);
    if (nice(3) != 3) fail("nice");
    prctl(PR_SET_TIMERSLACK, 70000);

    struct sigaction action = {.sa_sigaction = on_usr1, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaddset(&action.sa_mask, SIGHUP);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1); // but for sigsuspend: pause could miss it
    sigaddset(&blocked, SIGUSR2);
    sigaddset(&blocked, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR2);
    for (int i = 0; i < 2; i++) sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 77 + i});

    static char alternative[65536];
    stack_t stack = {.ss_sp = alternative, .ss_size = sizeof alternative};
    sigaltstack(&stack, NULL);
    say("altstack", (uintptr_t)alternative);

    struct itimerval real = {{5, 0}, {1000, 0}};
    setitimer(ITIMER_REAL, &real, NULL);
    struct sigevent to_thread = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_ptr = (void *)0x1234};
    to_thread._sigev_un._tid = syscall(SYS_gettid);
    struct sigevent to_nobody = {.sigev_notify = SIGEV_NONE};
    timer_t one, two;
    if (timer_create(CLOCK_MONOTONIC, &to_thread, &one) || timer_create(CLOCK_REALTIME, &to_nobody, &two)) fail("timer_create");
    struct itimerspec spec = {{7, 5}, {2000, 0}};
    timer_settime(one, 0, &spec, NULL);

    // Memory of every kind, each with a mark in page 1.
    int shared_anonymous = MAP_SHARED | MAP_ANONYMOUS, private_anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    char *plain = map(4, PROT_READ | PROT_WRITE, private_anonymous, -1);
    strcpy(plain + PAGE, "plain"); say("plain", (uintptr_t)plain);
    char *sealed = map(4, PROT_READ | PROT_WRITE, private_anonymous, -1);
    strcpy(sealed + PAGE, "none"); mprotect(sealed, 4 * PAGE, PROT_NONE); say("none", (uintptr_t)sealed);
    char name[] = "/var/cache/mig-state-XXXXXX";
    int file = mkstemp(name);
    for (int i = 0; i < 4; i++) { char page[PAGE] = "file"; if (write(file, page, PAGE) != PAGE) fail("write"); }
    char *copied = map(4, PROT_READ | PROT_WRITE, MAP_PRIVATE, file);
    if (copied[0] != 'f') fail("read"); // present, but the file's
    strcpy(copied + PAGE, "copied"); mprotect(copied, 4 * PAGE, PROT_READ); say("copied", (uintptr_t)copied);
    char *through = map(4, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    strcpy(through + 2 * PAGE, "through"); say("through", (uintptr_t)through);
    char *common = map(4, PROT_READ | PROT_WRITE, shared_anonymous, -1);
    strcpy(common + PAGE, "common"); say("common", (uintptr_t)common);
    int memfd = memfd_create("a memfd", MFD_ALLOW_SEALING);
    if (ftruncate(memfd, 3 * PAGE) || fcntl(memfd, F_ADD_SEALS, F_SEAL_GROW)) fail("memfd");
    char *first = map(3, PROT_READ | PROT_WRITE, MAP_SHARED, memfd), *second = map(3, PROT_READ, MAP_SHARED, memfd);
    strcpy(first + PAGE, "memfd"); say("memfd", (uintptr_t)first); say("memfd-again", (uintptr_t)second);
    char *guarded = map(4, PROT_READ | PROT_WRITE, private_anonymous, -1);
    strcpy(guarded + PAGE, "guarded");
    int guards = madvise(guarded + 2 * PAGE, PAGE, MADV_GUARD_INSTALL) == 0;
    say("guarded", (uintptr_t)guarded); say("guards", guards);
    char *advised = map(4, PROT_READ | PROT_WRITE, private_anonymous | MAP_NORESERVE, -1);
    madvise(advised, 4 * PAGE, MADV_DONTFORK); madvise(advised, 4 * PAGE, MADV_DONTDUMP); madvise(advised, 4 * PAGE, MADV_WIPEONFORK);
    say("advised", (uintptr_t)advised);
    say("brk", (uintptr_t)sbrk(0));

    pthread_t thread;
    if (pthread_create(&thread, NULL, waits, NULL) || pthread_create(&thread, NULL, spins, NULL)) fail("pthread_create");
    puts("end");
    fflush(stdout);
    sigset_t waiting = blocked;
    sigdelset(&waiting, SIGUSR1);
    while (!asked) sigsuspend(&waiting);

    // All as it was?
    uint64_t before = rounds;
    while (rounds == before) usleep(1000);
    if (strcmp(plain + PAGE, "plain") || strcmp(copied + PAGE, "copied") || strcmp(first + PAGE, "memfd")) fail("memory");
    struct itimerspec left;
    timer_gettime(one, &left);
    if (left.it_value.tv_sec < 1900 || left.it_interval.tv_nsec != 5) fail("timer");
    sigset_t pending, mask;
    sigpending(&pending);
    sigprocmask(SIG_BLOCK, NULL, &mask);
    if (!sigismember(&pending, SIGUSR2) || !sigismember(&pending, SIGRTMIN + 1) || sigismember(&mask, SIGHUP)) fail("signals");
    sigdelset(&blocked, SIGUSR1);
    for (int i = 0; i < 2; i++)
        if (sigwaitinfo(&blocked, &info) < 0) fail("sigwaitinfo");
    if (waitid(P_PID, zombie, &info, WEXITED | WNOHANG) || info.si_status != 207) fail("zombie");
    if (waitid(P_PID, killed, &info, WEXITED | WNOHANG) || info.si_status != SIGKILL) fail("killed");
    if (waitid(P_PID, stopped, &info, WSTOPPED | WNOHANG) || info.si_pid != stopped || info.si_status != SIGSTOP) fail("stopped");
    memset(&info, 0, sizeof info);
    if (waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG) || info.si_pid) fail("more news of children");
    kill(stopped, SIGKILL); kill(leader, SIGKILL); kill(grandchild, SIGKILL);
    unlink(name);
    puts("ok");
    return 0;
}

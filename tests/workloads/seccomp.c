/* What seccomp(2) confines a program to, tried again and again.
 *
 * --mode filter: an allow list whose default ends the program, a filter that gives
 *   errors and one that raises SIGSYS; a child that has inherited them.
 * --mode norestart: restart_syscall is forbidden, as few lists know of it; naps go on.
 * --mode threads: filters in common, and others of each thread; one thread brings
 *   all to its own (TSYNC).
 * --mode strict: a child in strict mode answers on a pipe.
 */
#include "workload.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define GIVE(action) BPF_STMT(BPF_RET | BPF_K, action)
#define ON(number, action) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), GIVE(action)

static long install(unsigned flags, const struct sock_filter *filter, size_t count)
{
	struct sock_fprog program = { (unsigned short)count, (struct sock_filter *)filter };
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
#define INSTALL(flags, ...)                                                   \
	({                                                                    \
		const struct sock_filter wl_filter[] = { __VA_ARGS__ };       \
		install(flags, wl_filter, sizeof wl_filter / sizeof *wl_filter); \
	})

/* `number` gives the error, all else is allowed. */
static long forbid(unsigned flags, int number, int error)
{
	return INSTALL(flags, LOAD(nr), ON((unsigned)number, SECCOMP_RET_ERRNO | (unsigned)error),
		       GIVE(SECCOMP_RET_ALLOW));
}

static int error_of(int number)
{
	errno = 0;
	long result = syscall(number, -1, -1, -1);
	return result < 0 ? errno : 0;
}

static volatile sig_atomic_t trapped;

/* si_code is SYS_SECCOMP, which the headers of libc lack. */
static void on_trap(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	trapped = info->si_code == 1 ? info->si_syscall : -1;
}

static long filters_of_self(void)
{
	return strtol(wl_proc("status", "Seccomp_filters:"), NULL, 10);
}

/* A child under `filters` that must die by SIGSYS when it makes a call that nobody allowed. */
static void check_kill(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		syscall(SYS_acct, NULL);
		_exit(0);
	}
	int status;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "acct ended with %#x", status);
}

static void filter(void)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	MUST(sigaction(SIGSYS, &action, NULL));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(INSTALL(SECCOMP_FILTER_FLAG_LOG, LOAD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		     GIVE(SECCOMP_RET_KILL_PROCESS), LOAD(nr), ON(SYS_acct, SECCOMP_RET_KILL_PROCESS),
		     GIVE(SECCOMP_RET_ALLOW)));
	MUST(forbid(0, SYS_getpgid, ECHRNG));
	MUST(INSTALL(0, LOAD(nr), ON(SYS_swapoff, SECCOMP_RET_TRAP), GIVE(SECCOMP_RET_ALLOW)));
	pid_t child = wl_fork();
	long expected = 3;
	if (child == 0)
		for (;;) {
			CHECK(error_of(SYS_getpgid) == ECHRNG, "the child may call getpgid");
			CHECK(filters_of_self() == 3, "the child has %ld filters", filters_of_self());
			wl_nap(WL_TICK_NS);
		}
	wl_ready();
	do {
		if (wl_sabotage("error"))
			MUST(forbid(0, SYS_getpgid, ENOANO));
		if (wl_sabotage("count"))
			expected++;
		CHECK(error_of(SYS_getpgid) == ECHRNG, "getpgid gives %d", error_of(SYS_getpgid));
		trapped = 0;
		syscall(SYS_swapoff, NULL);
		CHECK(trapped == SYS_swapoff, "the trap says %d", (int)trapped);
		CHECK(filters_of_self() == expected, "%ld filters", filters_of_self());
		CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, "new privileges");
		if (wl_ticks % 8 == 0)
			check_kill();
		CHECK(waitpid(child, NULL, WNOHANG) == 0, "the child has ended");
		wl_nap(WL_TICK_NS / 2);
	} while (wl_tick());
	kill(child, SIGKILL);
}

static void norestart(void)
{
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(INSTALL(0, LOAD(nr), ON(SYS_restart_syscall, SECCOMP_RET_KILL_PROCESS), GIVE(SECCOMP_RET_ALLOW)));
	wl_ready();
	do {
		if (wl_sabotage("nap"))
			MUST(forbid(0, SYS_clock_nanosleep, ENOANO));
		int64_t begin = wl_now();
		struct timespec nap = { 0, 40 * WL_MS };
		CHECK(!nanosleep(&nap, NULL), "a nap was cut short");
		CHECK(wl_now() - begin >= 40 * WL_MS, "a nap was short");
		struct pollfd none = { .fd = -1 };
		CHECK(poll(&none, 1, 30) == 0, "a poll was cut short");
	} while (wl_tick());
}

#define THREADS 6
static volatile bool end;
static volatile long rounds[THREADS];
static volatile int together;

/* Forbids what its number says, and later what all are told. */
static void *confined(void *argument)
{
	long index = (long)argument;
	int own = index % 2 ? SYS_getpgid : SYS_getpriority;
	MUST(forbid(0, own, 40 + (int)index));
	for (rounds[index] = 1; !end; rounds[index]++) {
		if (index == 0 && wl_sabotage("all"))
			MUST(forbid(0, SYS_getsid, ENOANO));
		CHECK(error_of(own) == 40 + index, "thread %ld: error %d", index, error_of(own));
		CHECK(error_of(SYS_getsid) == ECHRNG, "thread %ld: what all are forbidden", index);
		wl_nap(WL_TICK_NS / 2);
	}
	return NULL;
}

/* Has no filter but those in common. */
static void *plain(void *argument)
{
	long index = (long)argument;
	for (rounds[index] = 1; !end; rounds[index]++) {
		CHECK(error_of(SYS_getsid) == ECHRNG, "thread %ld: what all are forbidden", index);
		int all = together;
		CHECK(!all || error_of(SYS_getpriority) == 100, "thread %ld was not brought along", index);
		wl_nap(WL_TICK_NS / 2);
	}
	return NULL;
}

static void threads(void)
{
	bool in_common = wl_num("tsync", 0) != 0;
	pthread_t handles[THREADS];
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(forbid(0, SYS_getsid, ECHRNG));
	for (long i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&handles[i], NULL, in_common ? plain : confined, (void *)i), "thread %ld", i);
	for (long i = 0; i < THREADS; i++)
		while (!rounds[i])
			wl_nap(WL_MS);
	wl_ready();
	do {
		if (wl_sabotage("all"))
			MUST(forbid(SECCOMP_FILTER_FLAG_TSYNC, SYS_getsid, ENOANO));
		/* Only threads whose filters descend from ours can be brought along. */
		if (in_common && wl_ticks % 4 == 3 && filters_of_self() < 40) {
			long other = forbid(SECCOMP_FILTER_FLAG_TSYNC, SYS_getpriority, 100);
			CHECK(other == 0, "thread %ld cannot be brought along", other);
			together = 1;
		}
		wl_nap(WL_TICK_NS / 2);
	} while (wl_tick());
	end = true;
	for (long i = 0; i < THREADS; i++)
		CHECK(!pthread_join(handles[i], NULL), "join of thread %ld", i);
}

static void strict(void)
{
	int there[2], back[2];
	MUST(pipe(there));
	MUST(pipe(back));
	pid_t child = wl_fork();
	if (child == 0) {
		MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
		uint64_t word;
		while (read(there[0], &word, sizeof word) == sizeof word) {
			word = wl_mix(word);
			if (write(back[1], &word, sizeof word) != sizeof word)
				break;
		}
		syscall(SYS_exit, 0);
	}
	wl_ready();
	uint64_t seed = 0;
	char path[64], line[256] = "";
	snprintf(path, sizeof path, "/proc/%d/status", child);
	do {
		uint64_t word = ++seed + (wl_sabotage("answer") ? 1 : 0);
		MUST(write(there[1], &word, sizeof word));
		CHECK(read(back[0], &word, sizeof word) == sizeof word, "no answer");
		CHECK(word == wl_mix(seed), "the answer is wrong");
		FILE *status = fopen(path, "re");
		CHECK(status, "the child is gone");
		while (fgets(line, sizeof line, status) && strncmp(line, "Seccomp:", 8))
			;
		fclose(status);
		CHECK(strtol(line + 8, NULL, 10) == 1, "the child has %s", line);
		wl_nap(WL_TICK_NS / 2);
	} while (wl_tick());
	kill(child, SIGKILL);
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("filter"))
		filter();
	else if (wl_mode("norestart"))
		norestart();
	else if (wl_mode("threads"))
		threads();
	else if (wl_mode("strict"))
		strict();
	else
		wl_fail("--mode");
	return wl_done();
}

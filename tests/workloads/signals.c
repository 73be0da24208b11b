/* Signals: what is to be done with them, what is blocked, what waits.
 *
 * --mode actions: handler, mask and flags of all 64, as the kernel has them.
 * --mode pending: blocked signals with their siginfo, for the process and for the
 *   thread, real-time ones in order.
 * --mode altstack: long stays in a handler on an alternate stack, nested.
 * --mode count: queued real-time signals of a child are counted exactly.
 */
#include "workload.h"

#define SIGNALS 64
#define FIRST_REAL 34

/* The kernel's own structure: libc's hides the restorer. */
struct kernel_action {
	uintptr_t handler;
	unsigned long flags;
	uintptr_t restorer;
	uint64_t mask;
};

static void get_action(int signal, struct kernel_action *action)
{
	memset(action, 0, sizeof *action);
	MUST(syscall(SYS_rt_sigaction, signal, NULL, action, 8));
}

static void nothing(int signal)
{
	(void)signal;
}

static void something(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info, (void)context;
}

static void actions(void)
{
	static struct kernel_action first[SIGNALS + 1], now;
	for (int signal = 1; signal <= SIGNALS; signal++) {
		uint64_t random = wl_mix((uint64_t)signal);
		struct sigaction action = { .sa_handler = nothing };
		const int flags[] = { SA_RESTART, SA_NODEFER, SA_ONSTACK, SA_NOCLDSTOP, SA_NOCLDWAIT };
		if (random % 4 == 0)
			action.sa_handler = signal == SIGTERM ? nothing : SIG_IGN;
		for (size_t i = 0; i < 5; i++)
			action.sa_flags |= random >> (8 + i) & 1 ? flags[i] : 0;
		if (random % 4 == 1) {
			action.sa_sigaction = something;
			action.sa_flags |= SA_SIGINFO;
		}
		for (int other = 1; other <= SIGNALS; other++)
			if (wl_mix(random) >> (other - 1) & 1)
				sigaddset(&action.sa_mask, other);
		if (signal != SIGTERM && signal != SIGKILL && signal != SIGSTOP && signal != 32 && signal != 33)
			MUST(sigaction(signal, &action, NULL));
		get_action(signal, &first[signal]);
	}
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("action"))
			signal(SIGTRAP, SIG_DFL);
		for (int signal = 1; signal <= SIGNALS; signal++) {
			get_action(signal, &now);
			CHECK(!memcmp(&now, &first[signal], sizeof now),
			      "action of signal %d: handler %#lx flags %#lx mask %#lx, not %#lx %#lx %#lx", signal,
			      now.handler, now.flags, now.mask, first[signal].handler, first[signal].flags,
			      first[signal].mask);
		}
		wl_nap(WL_MS);
	}
}

static void want(const siginfo_t *info, int signal, int code, int value)
{
	CHECK(info->si_signo == signal, "signal %d instead of %d", info->si_signo, signal);
	CHECK(info->si_code == code, "signal %d has code %d, not %d", signal, info->si_code, code);
	CHECK(info->si_pid == getpid(), "signal %d is of pid %d", signal, info->si_pid);
	CHECK(info->si_uid == getuid(), "signal %d is of uid %d", signal, info->si_uid);
	if (code == SI_QUEUE)
		CHECK(info->si_value.sival_int == value, "signal %d has value %d, not %d", signal,
		      info->si_value.sival_int, value);
}

static void take(int signal, int code, int value)
{
	const struct timespec now = { 0, 0 };
	siginfo_t info;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, signal);
	/* libc's wrapper turns SI_TKILL into SI_USER. */
	CHECK(syscall(SYS_rt_sigtimedwait, &set, &info, &now, 8) == signal, "signal %d with value %d is not pending", signal, value);
	want(&info, signal, code, value);
}

static void pending(void)
{
	sigset_t all, seen;
	sigfillset(&all);
	sigdelset(&all, SIGTERM);
	sigdelset(&all, SIGSEGV);
	sigprocmask(SIG_SETMASK, &all, NULL);
	wl_ready();
	for (int round = 1;; round++) {
		for (int i = 0; i < 20; i++) {
			MUST(sigqueue(getpid(), FIRST_REAL + 3, (union sigval){ .sival_int = round + i }));
			MUST(sigqueue(getpid(), FIRST_REAL + i, (union sigval){ .sival_int = -i }));
		}
		/* Sent to the thread alone, one of them to the process as well. */
		siginfo_t info = { .si_signo = SIGUSR2, .si_code = SI_QUEUE };
		info.si_pid = getpid();
		info.si_uid = getuid();
		info.si_value.sival_int = 77 + round;
		MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGUSR2, &info));
		MUST(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1));
		MUST(kill(getpid(), SIGHUP));
		MUST(kill(getpid(), SIGUSR1));
		MUST(kill(getpid(), SIGTRAP));
		if (wl_sabotage("lost"))
			sigtimedwait(&(sigset_t){ { 1ull << (FIRST_REAL + 2) } }, NULL, &(struct timespec){ 0, 0 });
		if (wl_sabotage("mask"))
			sigdelset(&all, SIGRTMAX), sigprocmask(SIG_UNBLOCK, &(sigset_t){ { 1ull << 62 } }, NULL);
		bool more = true;
		for (int64_t start = wl_now(); more && wl_now() - start < 40 * WL_MS;) {
			more = wl_tick();
			sigpending(&seen);
			CHECK(sigismember(&seen, SIGHUP) && sigismember(&seen, SIGUSR1) && sigismember(&seen, SIGTRAP),
			      "a signal is not pending any more");
			sigset_t mask;
			sigprocmask(SIG_SETMASK, NULL, &mask);
			for (int signal = 1; signal <= SIGNALS; signal++)
				CHECK(signal == 32 || signal == 33 || signal == SIGKILL || signal == SIGSTOP ||
					      sigismember(&mask, signal) == (signal != SIGTERM && signal != SIGSEGV),
				      "mask of signal %d", signal);
			wl_nap(WL_MS);
		}
		/* What the thread got comes before what the process got. */
		take(SIGUSR1, SI_TKILL, 0);
		take(SIGUSR1, SI_USER, 0);
		take(SIGUSR2, SI_QUEUE, 77 + round);
		take(SIGHUP, SI_USER, 0);
		take(SIGTRAP, SI_USER, 0);
		for (int i = 0; i < 20; i++) {
			take(FIRST_REAL + 3, SI_QUEUE, round + i);
			if (i == 3)
				take(FIRST_REAL + 3, SI_QUEUE, -3);
		}
		for (int i = 0; i < 20; i++)
			if (i != 3)
				take(FIRST_REAL + i, SI_QUEUE, -i);
		sigpending(&seen);
		/* SIGCONT may come from whoever stopped this process. */
		for (int signal = 1; signal <= SIGNALS; signal++)
			CHECK(signal == SIGCONT || !sigismember(&seen, signal), "signal %d is pending twice", signal);
		if (!more)
			return;
	}
}

static uint8_t *alternate;
#define ALTERNATE (256u << 10)
static volatile int depth;

static void on_stack(int signal, siginfo_t *info, void *context)
{
	stack_t stack;
	uint64_t local[64];
	(void)signal, (void)context;
	wl_fill(local, sizeof local, (uint64_t)info->si_value.sival_int);
	CHECK((uint8_t *)local >= alternate && (uint8_t *)local < alternate + ALTERNATE, "handler on another stack");
	if (depth++ == 0)
		raise(SIGUSR2);
	for (int i = 0; i < 15; i++) {
		MUST(sigaltstack(NULL, &stack));
		CHECK(stack.ss_flags == SS_ONSTACK && stack.ss_sp == alternate && stack.ss_size == ALTERNATE,
		      "alternate stack in use: %p %zu %d", stack.ss_sp, stack.ss_size, stack.ss_flags);
		if (wl_sabotage("frame"))
			local[3] ^= 1;
		wl_tick();
		wl_nap(WL_MS);
		CHECK(wl_compare(local, sizeof local, (uint64_t)info->si_value.sival_int) < 0, "locals of a handler");
	}
	depth--;
}

static void altstack(void)
{
	alternate = MUST(mmap(NULL, ALTERNATE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	stack_t stack = { .ss_sp = alternate, .ss_size = ALTERNATE };
	struct sigaction action = { .sa_sigaction = on_stack, .sa_flags = SA_ONSTACK | SA_SIGINFO };
	MUST(sigaltstack(&stack, NULL));
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	wl_ready();
	for (int round = 1; wl_tick(); round++) {
		sigset_t before, after;
		uint64_t local[64];
		wl_fill(local, sizeof local, (uint64_t)round);
		sigprocmask(SIG_SETMASK, NULL, &before);
		MUST(sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = round }));
		CHECK(depth == 0, "not all handlers have returned");
		sigprocmask(SIG_SETMASK, NULL, &after);
		CHECK(!memcmp(&before, &after, 8), "the mask after the handler");
		CHECK(wl_compare(local, sizeof local, (uint64_t)round) < 0, "locals below a handler");
		MUST(sigaltstack(NULL, &stack));
		CHECK(stack.ss_flags == 0, "flags of the idle alternate stack are %d", stack.ss_flags);
	}
}

static volatile uint64_t counted;
static volatile int expected;

static void count_one(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	CHECK(info->si_value.sival_int == expected, "signal %d came instead of %d", info->si_value.sival_int, expected);
	expected++;
	counted++;
}

/* The child sends as fast as the queue takes it. */
static void count(void)
{
	uint64_t *sent = wl_shared(4096), *end = sent + 1;
	struct sigaction action = { .sa_sigaction = count_one, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(SIGRTMIN, &action, NULL);
	pid_t parent = getpid(), child = wl_fork();
	while (!child) {
		if (__atomic_load_n(end, __ATOMIC_SEQ_CST))
			_exit(0);
		if (sigqueue(parent, SIGRTMIN, (union sigval){ .sival_int = (int)*sent }) == 0)
			__atomic_fetch_add(sent, 1, __ATOMIC_SEQ_CST);
		else
			CHECK(errno == EAGAIN, "sigqueue: %s", strerror(errno));
		if (*sent % 16 == 0)
			wl_nap(200000);
	}
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("lost"))
			signal(SIGRTMIN, SIG_IGN), wl_nap(5 * WL_MS), sigaction(SIGRTMIN, &action, NULL);
		wl_nap(WL_MS);
	}
	__atomic_store_n(end, 1, __ATOMIC_SEQ_CST);
	int status;
	while (waitpid(child, &status, 0) < 0)
		CHECK(errno == EINTR, "wait: %s", strerror(errno));
	CHECK(status == 0, "the sender ended with %#x", status);
	CHECK(counted == *sent, "%llu signals of %llu", (unsigned long long)counted, (unsigned long long)*sent);
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("actions"))
		actions();
	else if (wl_mode("pending"))
		pending();
	else if (wl_mode("altstack"))
		altstack();
	else if (wl_mode("count"))
		count();
	else
		wl_fail("unknown mode");
	return wl_done();
}

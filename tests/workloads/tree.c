/* A tree of processes: who is whose parent, in which group and session, and how the dead ended.
 *
 * --mode family: --count children (default 3) with two children each; their IDs.
 * --mode zombies: dead children that nobody has waited for, with all kinds of status.
 * --mode orphans: processes whose parent is dead.
 * --mode sessions: sessions and groups, also those whose leader is dead.
 * --mode stopped: a child that is stopped and continued; what wait says, how many SIGCHLD.
 */
#include "workload.h"

enum { MOST = 64 };
struct member {
	pid_t pid, parent, group, session;
	uint64_t rounds;
};
static struct area {
	uint64_t beat;
	int end, members, damage;
	struct member member[MOST];
} *area;

/* Takes a place in the area; the others then know that it is set up. */
static struct member *join(void)
{
	struct member *me = &area->member[__atomic_fetch_add(&area->members, 1, __ATOMIC_SEQ_CST)];
	*me = (struct member){ getpid(), getppid(), getpgrp(), getsid(0), 0 };
	return me;
}

static void wait_members(int wanted)
{
	for (int64_t start = wl_now(); __atomic_load_n(&area->members, __ATOMIC_SEQ_CST) < wanted; wl_nap(WL_MS))
		CHECK(wl_now() - start < 10 * WL_SEC, "%d members of %d", area->members, wanted);
}

/* Checks what it is until the end; also ends when the first process has been silent for long. */
static _Noreturn void live(struct member *me, int spare)
{
	uint64_t beat = 0;
	int64_t heard = wl_now();
	while (!__atomic_load_n(&area->end, __ATOMIC_SEQ_CST)) {
		CHECK(getpid() == me->pid, "pid is %d, not %d", getpid(), me->pid);
		CHECK(getppid() == me->parent, "parent of %d is %d, not %d", me->pid, getppid(), me->parent);
		CHECK(getpgrp() == me->group, "group of %d is %d, not %d", me->pid, getpgrp(), me->group);
		CHECK(getsid(0) == me->session, "session of %d is %d, not %d", me->pid, getsid(0), me->session);
		if (__atomic_load_n(&area->beat, __ATOMIC_SEQ_CST) != beat) {
			beat = area->beat;
			heard = wl_now();
		}
		if (wl_now() - heard > 6 * WL_SEC)
			_exit(3);
		if (area->damage && spare == 0)
			setpgid(0, 0);
		me->rounds++;
		wl_nap(3 * WL_MS);
	}
	_exit(0);
}

/* Everybody's view of itself is right; this is the first process's view of the others. */
static void check_members(void)
{
	static uint64_t last[MOST];
	static int64_t moved;
	bool all = true;
	area->beat++;
	if (!moved)
		moved = wl_now();
	for (int i = 0; i < area->members; i++) {
		struct member *member = &area->member[i];
		CHECK(kill(member->pid, 0) == 0, "process %d is gone", member->pid);
		CHECK(getpgid(member->pid) == member->group, "group of %d is %d", member->pid, getpgid(member->pid));
		CHECK(getsid(member->pid) == member->session, "session of %d is %d", member->pid, getsid(member->pid));
		all &= member->rounds > last[i];
	}
	for (int i = 0; all && i < area->members; i++)
		last[i] = area->member[i].rounds;
	if (all)
		moved = wl_now();
	CHECK(wl_now() - moved < 5 * WL_SEC, "a process stands still");
	if (wl_sabotage("group"))
		area->damage = 1;
	if (wl_sabotage("death"))
		kill(area->member[area->members - 1].pid, SIGKILL);
}

static void watch(void)
{
	wl_ready();
	while (wl_tick()) {
		check_members();
		wl_nap(2 * WL_MS);
	}
	area->end = 1;
}

static void reap(int wanted)
{
	int status;
	for (int i = 0; i < wanted; i++) {
		pid_t pid;
		while ((pid = wait(&status)) < 0 && errno == EINTR)
			;
		CHECK(pid > 0, "wait: %s", strerror(errno));
		CHECK(status == 0, "process %d ended with %#x", pid, status);
	}
	CHECK(wait(&status) == -1 && errno == ECHILD, "a child too many");
}

static void family(void)
{
	long count = wl_num("count", 3);
	CHECK(count * 3 <= MOST, "too many children");
	for (long i = 0; i < count; i++) {
		if (wl_fork())
			continue;
		struct member *me = join();
		pid_t children[2];
		for (int j = 0; j < 2; j++)
			if (!(children[j] = wl_fork()))
				live(join(), j);
		while (!area->end) {
			CHECK(getpid() == me->pid && getppid() == me->parent, "IDs of %d", me->pid);
			me->rounds++;
			wl_nap(3 * WL_MS);
		}
		reap(2);
		_exit(0);
	}
	wait_members((int)count * 3);
	watch();
	reap((int)count);
}

static const struct {
	int code, signal;
} ends[] = { { 0, 0 }, { 1, 0 }, { 77, 0 }, { 128, 0 }, { 200, 0 }, { 255, 0 }, { 0, SIGKILL }, { 0, SIGTERM },
	     { 0, SIGUSR1 }, { 0, SIGSEGV }, { 0, 64 } };
#define ENDS (sizeof ends / sizeof *ends)

static void zombies(void)
{
	pid_t pid[ENDS];
	prctl(PR_SET_DUMPABLE, 0);
	for (size_t i = 0; i < ENDS; i++) {
		if ((pid[i] = wl_fork()))
			continue;
		if (ends[i].signal) {
			signal(ends[i].signal, SIG_DFL);
			raise(ends[i].signal);
		}
		_exit(ends[i].code);
	}
	prctl(PR_SET_DUMPABLE, 1);
	siginfo_t info;
	for (size_t i = 0; i < ENDS; i++)
		MUST(waitid(P_PID, (id_t)pid[i], &info, WEXITED | WNOWAIT));
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("reaped"))
			waitpid(pid[3], NULL, 0);
		for (size_t i = 0; i < ENDS; i++) {
			info.si_pid = 0;
			CHECK(waitid(P_PID, (id_t)pid[i], &info, WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid == pid[i],
			      "zombie %zu is gone", i);
			CHECK(info.si_code == (ends[i].signal ? CLD_KILLED : CLD_EXITED), "zombie %zu: code %d", i,
			      info.si_code);
			CHECK(info.si_status == (ends[i].signal ? ends[i].signal : ends[i].code), "zombie %zu: status %d",
			      i, info.si_status);
		}
		wl_nap(WL_MS);
	}
	for (size_t i = 0; i < ENDS; i++) {
		int status;
		MUST(waitpid(pid[i], &status, 0));
		CHECK(status == (ends[i].signal ? ends[i].signal : ends[i].code << 8), "zombie %zu: wait gave %#x", i,
		      status);
	}
}

static void orphans(void)
{
	for (int i = 0; i < 2; i++) {
		pid_t pid = wl_fork();
		if (pid) {
			MUST(waitpid(pid, NULL, 0));
			continue;
		}
		pid = getpid();
		if (fork())
			_exit(0);
		while (getppid() == pid)
			wl_nap(WL_MS);
		/* Whoever adopts orphans here: pid 1, or a subreaper above. */
		live(join(), i);
	}
	wait_members(2);
	watch();
}

/* A process in a group (and a session) whose leader ends at once when `dead`. */
static void branch(bool session, bool dead)
{
	pid_t leader = wl_fork();
	if (leader) {
		if (dead)
			MUST(waitpid(leader, NULL, 0));
		return;
	}
	if (session)
		MUST(setsid());
	else
		MUST(setpgid(0, 0));
	for (int i = 0; i < 2; i++) {
		pid_t parent = getpid();
		/* A dead leader must not take them along. */
		pid_t pid = dead ? fork() : wl_fork();
		if (pid)
			continue;
		while (dead && getppid() == parent)
			wl_nap(WL_MS);
		if (session && i)
			MUST(setpgid(0, 0));
		live(join(), i || session);
	}
	if (dead)
		_exit(0);
	struct member *me = join();
	while (!area->end) {
		CHECK(getsid(0) == me->session && getpgrp() == me->group, "leader %d", me->pid);
		me->rounds++;
		wl_nap(3 * WL_MS);
	}
	reap(2);
	_exit(0);
}

static void sessions(void)
{
	branch(false, false);
	branch(true, false);
	branch(false, true);
	branch(true, true);
	wait_members(10);
	watch();
	reap(2);
}

static volatile int stops, continues, others;

static void on_child(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	*(info->si_code == CLD_STOPPED ? &stops : info->si_code == CLD_CONTINUED ? &continues : &others) += 1;
}

static void await_change(pid_t child, int options, const char *what)
{
	int status;
	pid_t got;
	while ((got = waitpid(child, &status, options)) < 0 && errno == EINTR)
		;
	CHECK(got == child, "%s: wait: %s", what, strerror(errno));
	CHECK(options & WUNTRACED ? WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP : WIFCONTINUED(status),
	      "%s: status %#x", what, status);
	CHECK(waitpid(child, &status, WNOHANG | WUNTRACED | WCONTINUED) == 0, "%s is told twice", what);
}

static char state_of(pid_t pid)
{
	char path[64], state = 0;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	FILE *file = fopen(path, "re");
	CHECK(file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1, "state of %d", pid);
	fclose(file);
	return state;
}

static void stopped(void)
{
	uint64_t *rounds = &area->member[0].rounds;
	struct sigaction action = { .sa_sigaction = on_child, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(SIGCHLD, &action, NULL);
	pid_t child = wl_fork();
	while (!child) {
		++*(volatile uint64_t *)rounds;
		wl_nap(WL_MS);
	}
	wl_ready();
	for (int round = 1; wl_tick(); round++) {
		/* SIGTSTP is dropped in an orphaned group: one of its own makes it count. */
		setpgid(child, child);
		MUST(kill(child, SIGTSTP));
		await_change(child, WUNTRACED, "the stop");
		uint64_t before = *(volatile uint64_t *)rounds;
		for (int i = 0; i < 30; i++) {
			if (wl_sabotage("continued"))
				kill(child, SIGCONT);
			if (wl_sabotage("counted"))
				sigqueue(getpid(), SIGCHLD, (union sigval){ 0 });
			CHECK(state_of(child) == 'T', "a stopped child is in state %c", state_of(child));
			CHECK(*(volatile uint64_t *)rounds == before, "a stopped child runs");
			wl_tick();
			wl_nap(WL_MS);
		}
		MUST(kill(child, SIGCONT));
		await_change(child, WCONTINUED, "the continuation");
		while (*(volatile uint64_t *)rounds == before)
			wl_nap(WL_MS);
		CHECK(stops == round && continues == round && !others, "%d stops, %d continuations, %d others in round %d",
		      stops, continues, others, round);
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	area = wl_shared(sizeof *area);
	if (wl_mode("family"))
		family();
	else if (wl_mode("zombies"))
		zombies();
	else if (wl_mode("orphans"))
		orphans();
	else if (wl_mode("sessions"))
		sessions();
	else if (wl_mode("stopped"))
		stopped();
	else
		wl_fail("unknown mode");
	return wl_done();
}

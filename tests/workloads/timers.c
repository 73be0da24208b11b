/* Timers that the kernel holds for a process.
 *
 * Periodic ones keep firing, never more often than time allows; one-shot ones for
 * an hour ahead come nearer as CLOCK_MONOTONIC goes on.
 * --mode real | virtual | prof: setitimer
 * --mode posix: timer_create with signals and values, for a thread, and for none;
 *   their numbers, intervals and overruns
 * --mode long: one-shot timers of all kinds
 */
#include "workload.h"
#include <pthread.h>
#include <sys/time.h>

#define INTERVAL (10 * WL_MS)
/* What ITIMER_VIRTUAL and ITIMER_PROF go by: the CPU time of this process as the
 * kernel's ticks count it. CLOCK_PROCESS_CPUTIME_ID is exact, and strays from it by
 * any number of ticks: a process is charged a whole one if it runs when it comes.
 * As in <linux/posix-timers.h>: ~pid << 3, and which of its clocks. */
#define CLOCK_OF_TICKS ((clockid_t)(~0u << 3))
#define CLOCK_OF_USER_TICKS ((clockid_t)(~0u << 3 | 1))

static volatile uint64_t fired, overruns;
static volatile int wrong_value, wrong_thread;
static pid_t wanted_thread;

static void on_tick(int signal)
{
	(void)signal;
	fired++;
}

/* Counts `fired` against a clock: too many is wrong at once, none for long too. CPU
 * time does not pass while nobody runs, so little of it is long.
 * The CPU time of a process that has moved begins anew, so only its steps count. */
static void check_rate(clockid_t clock)
{
	static int64_t before, elapsed, moved;
	static uint64_t last;
	uint64_t seen = fired;
	int64_t now = wl_clock(clock);
	if (!before)
		before = now;
	elapsed += now >= before ? now - before : now;
	before = now;
	if (seen != last) {
		last = seen;
		moved = elapsed;
	}
	uint64_t most = (uint64_t)(elapsed / INTERVAL) + 3;
	CHECK(seen <= most, "fired %llu times, at most %llu are due", (unsigned long long)seen,
	      (unsigned long long)most);
	CHECK(elapsed - moved < (clock == CLOCK_MONOTONIC ? 2 * WL_SEC : 20 * INTERVAL), "the timer is silent");
}

static void interval_timer(int which, int signal, clockid_t clock)
{
	struct itimerval timer = { { 0, INTERVAL / 1000 }, { 0, INTERVAL / 1000 } }, now;
	struct sigaction action = { .sa_handler = on_tick, .sa_flags = SA_RESTART };
	sigaction(signal, &action, NULL);
	check_rate(clock);
	MUST(setitimer(which, &timer, NULL));
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("often") && timer.it_interval.tv_usec != 1000)
			timer.it_interval.tv_usec = 1000, setitimer(which, &(struct itimerval){ { 0, 1000 }, { 0, 1000 } }, NULL);
		if (wl_sabotage("silent"))
			sigaction(signal, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL);
		check_rate(clock);
		MUST(getitimer(which, &now));
		CHECK(!strcmp(wl_opt("sabotage", ""), "often") || now.it_interval.tv_usec == INTERVAL / 1000,
		      "the interval is %ld us", (long)now.it_interval.tv_usec);
		/* The clocks of CPU time round up by a scheduler tick. */
		CHECK(now.it_value.tv_sec == 0 && now.it_value.tv_usec <= INTERVAL / 1000 + 10000, "%ld us remain",
		      (long)now.it_value.tv_usec);
	}
}

static timer_t timers[4];
static bool extra_id;

static void on_posix(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	if (info->si_code != SI_TIMER || info->si_value.sival_int != 0x1234)
		wrong_value = info->si_value.sival_int + 1;
	fired += 1 + (uint64_t)timer_getoverrun(timers[1]);
}

static void on_thread(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	if (gettid() != wanted_thread)
		wrong_thread = gettid();
	if (info->si_value.sival_int != 0x5678)
		wrong_value = info->si_value.sival_int + 1;
	overruns++;
}

static void *idle(void *tid)
{
	*(pid_t *)tid = gettid();
	for (;;)
		pause();
	return NULL;
}

static timer_t make(int notify, int signal, int value, pid_t thread, int64_t first, int64_t interval)
{
	struct sigevent event = { .sigev_notify = notify, .sigev_signo = signal };
	timer_t timer = NULL;
	event.sigev_value.sival_int = value;
	event._sigev_un._tid = thread;
	MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
	struct itimerspec time = { { interval / WL_SEC, interval % WL_SEC }, { first / WL_SEC, first % WL_SEC } };
	MUST(timer_settime(timer, 0, &time, NULL));
	return timer;
}

/* Lines `ID: n` of /proc/self/timers; libc's timer_t is the kernel's number. */
static void check_ids(void)
{
	char line[256];
	size_t seen = 0, lines = 0;
	FILE *list = fopen("/proc/self/timers", "re");
	CHECK(list, "no /proc/self/timers");
	while (fgets(line, sizeof line, list)) {
		long id;
		if (sscanf(line, "ID: %ld", &id) != 1)
			continue;
		lines++;
		for (size_t i = 1; i < 4; i++)
			seen += (long)(intptr_t)timers[i] == id;
	}
	fclose(list);
	CHECK(seen == 3 && lines == 3u + extra_id, "%zu timers, %zu of them ours", lines, seen);
}

static void posix(void)
{
	pthread_t thread;
	struct itimerspec now;
	struct sigaction action = { .sa_sigaction = on_posix, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(SIGRTMIN, &action, NULL);
	action.sa_sigaction = on_thread;
	sigaction(SIGRTMIN + 1, &action, NULL);
	CHECK(!pthread_create(&thread, NULL, idle, &wanted_thread), "no thread");
	while (!*(volatile pid_t *)&wanted_thread)
		wl_nap(WL_MS);
	/* Deleted, so that the numbers do not begin at zero. */
	timers[0] = make(SIGEV_SIGNAL, SIGRTMIN, 0, 0, 3600 * WL_SEC, 0);
	int64_t started = wl_now();
	timers[1] = make(SIGEV_SIGNAL, SIGRTMIN, 0x1234, 0, INTERVAL, INTERVAL);
	timers[2] = make(SIGEV_THREAD_ID, SIGRTMIN + 1, 0x5678, wanted_thread, INTERVAL, INTERVAL);
	timers[3] = make(SIGEV_NONE, 0, 0, 0, 3600 * WL_SEC, 7 * WL_SEC);
	timer_delete(timers[0]);
	wl_ready();
	uint64_t last = 0;
	int64_t moved = started;
	while (wl_tick()) {
		if (wl_sabotage("number"))
			timer_delete(timers[2]), timers[0] = make(SIGEV_SIGNAL, SIGRTMIN, 1, 0, 3600 * WL_SEC, 0);
		if (wl_sabotage("value") && !extra_id) {
			extra_id = true;
			timers[0] = make(SIGEV_SIGNAL, SIGRTMIN, 0x9999, 0, INTERVAL, 0);
		}
		check_rate(CLOCK_MONOTONIC);
		if (overruns != last)
			last = overruns, moved = wl_now();
		CHECK(wl_now() - moved < 2 * WL_SEC, "the timer of the thread is silent");
		CHECK(!wrong_value, "the value is %#x", wrong_value - 1);
		CHECK(!wrong_thread, "thread %d got the signal of %d", wrong_thread, wanted_thread);
		check_ids();
		MUST(timer_gettime(timers[3], &now));
		int64_t left = now.it_value.tv_sec * WL_SEC + now.it_value.tv_nsec;
		CHECK(llabs(left - (3600 * WL_SEC - (wl_now() - started))) < WL_SEC, "%lld ms remain",
		      (long long)left / 1000000);
		CHECK(now.it_interval.tv_sec == 7, "the interval is %ld s", (long)now.it_interval.tv_sec);
		wl_nap(WL_MS);
	}
}

static void one_shot(void)
{
	const int64_t hour = 3600 * WL_SEC;
	struct itimerval timer = { .it_value = { 3600, 0 } };
	struct itimerspec now;
	MUST(setitimer(ITIMER_REAL, &timer, NULL));
	MUST(setitimer(ITIMER_VIRTUAL, &timer, NULL));
	int64_t started = wl_now();
	timers[1] = make(SIGEV_SIGNAL, SIGALRM, 0, 0, hour, 0);
	timers[2] = make(SIGEV_SIGNAL, SIGALRM, 0, 0, WL_MS, 0);
	sigset_t alarm;
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	signal(SIGALRM, on_tick);
	while (!fired)
		wl_nap(WL_MS);
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("late"))
			started -= 10 * WL_SEC;
		if (wl_sabotage("again"))
			raise(SIGALRM);
		int64_t due = hour - (wl_now() - started);
		MUST(getitimer(ITIMER_REAL, &timer));
		int64_t left = timer.it_value.tv_sec * WL_SEC + timer.it_value.tv_usec * 1000;
		CHECK(llabs(left - due) < WL_SEC, "ITIMER_REAL: %lld ms remain, %lld are due", (long long)left / 1000000,
		      (long long)due / 1000000);
		MUST(timer_gettime(timers[1], &now));
		left = now.it_value.tv_sec * WL_SEC + now.it_value.tv_nsec;
		CHECK(llabs(left - due) < WL_SEC, "timer: %lld ms remain, %lld are due", (long long)left / 1000000,
		      (long long)due / 1000000);
		MUST(timer_gettime(timers[2], &now));
		CHECK(!now.it_value.tv_sec && !now.it_value.tv_nsec, "a timer that is over is armed");
		MUST(getitimer(ITIMER_VIRTUAL, &timer));
		CHECK(timer.it_value.tv_sec > 3500 && timer.it_value.tv_sec <= 3600, "ITIMER_VIRTUAL: %ld s remain",
		      (long)timer.it_value.tv_sec);
		CHECK(fired == 1, "a one-shot timer fired %llu times", (unsigned long long)fired);
		wl_nap(WL_MS);
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("real"))
		interval_timer(ITIMER_REAL, SIGALRM, CLOCK_MONOTONIC);
	else if (wl_mode("virtual"))
		interval_timer(ITIMER_VIRTUAL, SIGVTALRM, CLOCK_OF_USER_TICKS);
	else if (wl_mode("prof"))
		interval_timer(ITIMER_PROF, SIGPROF, CLOCK_OF_TICKS);
	else if (wl_mode("posix"))
		posix();
	else if (wl_mode("long"))
		one_shot();
	else
		wl_fail("unknown mode");
	return wl_done();
}

/* System calls with a deadline, interrupted at any moment.
 *
 * A single thread calls the one named by --mode over and over, each time for
 * --ms milliseconds (default 90). No call may fail with EINTR, return early, or
 * return later than --late-ms (default 1000) after its time by CLOCK_MONOTONIC
 * plus what CLOCK_REALTIME went ahead of it meanwhile (a pause that the
 * monotonic clock does not show).
 *
 * Modes: nanosleep clock_nanosleep clock_nanosleep_abs poll ppoll select
 * pselect epoll_wait epoll_pwait2 futex_rel futex_abs futex_abs_real sem_wait
 * sigtimedwait cond_timedwait; ppoll_fixed, whose timeout cannot be written to;
 * epoll_alarm, which a handler interrupts again and again.
 */
#include "workload.h"
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/time.h>

static struct timespec span(int64_t ns)
{
	return (struct timespec){ ns / WL_SEC, ns % WL_SEC };
}

static int futex_wait(int operation, const struct timespec *time)
{
	static uint32_t word;
	return (int)syscall(SYS_futex, &word, operation | FUTEX_PRIVATE_FLAG, 0, time, NULL, ~0u);
}

static int timed_condition(struct timespec end)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static pthread_cond_t never;
	static bool made;
	if (!made) {
		pthread_condattr_t attributes;
		pthread_condattr_init(&attributes);
		pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
		pthread_cond_init(&never, &attributes);
		made = true;
	}
	pthread_mutex_lock(&lock);
	errno = pthread_cond_timedwait(&never, &lock, &end);
	pthread_mutex_unlock(&lock);
	return -1;
}

/* The time as a page that can only be read. */
static const struct timespec *fixed_span(int64_t ns)
{
	static struct timespec *page;
	if (!page) {
		page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(page != MAP_FAILED, "mmap: %s", strerror(errno));
		*page = span(ns);
		MUST(mprotect(page, 4096, PROT_READ));
	}
	return page;
}

static int objects[2] = { -1, -1 };
static sem_t semaphore;

/* Whatever the mode waits on, which never happens. */
static void prepare(void)
{
	if (wl_mode("epoll_alarm")) {
		struct itimerval often = { { 0, 40000 }, { 0, 40000 } };
		setitimer(ITIMER_REAL, &often, NULL);
	}
	if (wl_mode("epoll_wait") || wl_mode("epoll_pwait2") || wl_mode("epoll_alarm")) {
		int ends[2];
		struct epoll_event interest = { .events = EPOLLIN };
		MUST(pipe(ends));
		objects[0] = MUST(epoll_create1(0));
		MUST(epoll_ctl(objects[0], EPOLL_CTL_ADD, ends[0], &interest));
	} else if (wl_mode("poll") || wl_mode("ppoll") || wl_mode("ppoll_fixed") || wl_mode("select") || wl_mode("pselect")) {
		MUST(pipe(objects));
	} else if (wl_mode("sem_wait")) {
		sem_init(&semaphore, 0, 0);
	} else if (wl_mode("sigtimedwait")) {
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		sigprocmask(SIG_BLOCK, &set, NULL);
	}
}

/* Waits on in spite of a handler. */
static int epoll_until(int64_t end)
{
	struct epoll_event event;
	for (int64_t left; (left = end - wl_now()) > 0 && !wl_stop;) {
		int result = epoll_wait(objects[0], &event, 1, (int)((left + WL_MS - 1) / WL_MS));
		if (result > 0 || (result == -1 && errno != EINTR))
			return -2;
	}
	errno = wl_stop ? EINTR : 0;
	return 0;
}

/* One wait; 0 when the time ran out as it should, else the errno. */
static int wait_once(int64_t ns, int64_t start)
{
	struct timespec time = span(ns), end = span(start + ns);
	struct timespec real_end = span(wl_clock(CLOCK_REALTIME) + ns);
	struct timeval old_time = { ns / WL_SEC, ns % WL_SEC / 1000 };
	struct pollfd item = { .fd = objects[0], .events = POLLIN };
	struct epoll_event event;
	fd_set set;
	int result = -2, ms = (int)(ns / WL_MS);
	FD_ZERO(&set);
	if (objects[0] >= 0 && objects[0] < FD_SETSIZE)
		FD_SET(objects[0], &set);
	errno = 0;
	if (wl_mode("nanosleep"))
		result = nanosleep(&time, NULL);
	else if (wl_mode("clock_nanosleep"))
		return clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
	else if (wl_mode("clock_nanosleep_abs"))
		return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL);
	else if (wl_mode("poll"))
		result = poll(&item, 1, ms);
	else if (wl_mode("ppoll"))
		result = ppoll(&item, 1, &time, NULL);
	else if (wl_mode("ppoll_fixed"))
		result = (int)syscall(SYS_ppoll, &item, 1, fixed_span(ns), NULL, 8);
	else if (wl_mode("epoll_alarm"))
		result = epoll_until(start + ns);
	else if (wl_mode("select"))
		result = select(objects[0] + 1, &set, NULL, NULL, &old_time);
	else if (wl_mode("pselect"))
		result = pselect(objects[0] + 1, &set, NULL, NULL, &time, NULL);
	else if (wl_mode("epoll_wait"))
		result = epoll_wait(objects[0], &event, 1, ms);
	else if (wl_mode("epoll_pwait2"))
		result = (int)syscall(SYS_epoll_pwait2, objects[0], &event, 1, &time, NULL, 0);
	else if (wl_mode("futex_rel"))
		result = futex_wait(FUTEX_WAIT, &time);
	else if (wl_mode("futex_abs"))
		result = futex_wait(FUTEX_WAIT_BITSET, &end);
	else if (wl_mode("futex_abs_real"))
		result = futex_wait(FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, &real_end);
	else if (wl_mode("sem_wait"))
		result = sem_clockwait(&semaphore, CLOCK_MONOTONIC, &end);
	else if (wl_mode("cond_timedwait"))
		result = timed_condition(end);
	else if (wl_mode("sigtimedwait")) {
		sigset_t signals;
		sigemptyset(&signals);
		sigaddset(&signals, SIGUSR1);
		result = sigtimedwait(&signals, NULL, &time);
	}
	CHECK(result == 0 || result == -1, "wait gave %d", result);
	return errno == ETIMEDOUT || errno == EAGAIN ? 0 : errno;
}

/* Takes a while, so that a move finds it at work. */
static void on_alarm(int signal)
{
	(void)signal;
	if (wl_mode("epoll_alarm"))
		for (int64_t end = wl_now() + 10 * WL_MS; wl_now() < end;)
			;
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	int64_t ns = wl_num("ms", 90) * WL_MS, late_allowed = wl_num("late-ms", 1000) * WL_MS;
	struct sigaction action = { .sa_handler = on_alarm };
	sigaction(SIGALRM, &action, NULL);
	prepare();
	wl_ready();
	do {
		if (wl_sabotage("eintr"))
			ualarm(20000, 0);
		int64_t start = wl_now(), real = wl_clock(CLOCK_REALTIME);
		int error = wait_once(wl_sabotage("short") ? ns / 2 : ns, start);
		if (wl_sabotage("long"))
			wl_nap(late_allowed + ns);
		int64_t took = wl_now() - start, hidden = wl_clock(CLOCK_REALTIME) - real - took;
		if (wl_stop && error == EINTR)
			break;
		CHECK(!error, "%s: %s after %lld us", wl_opt("mode", ""), strerror(error),
		      (long long)took / 1000);
		/* A wait by the real-time clock includes the pause; poll's unit is 1 ms. */
		int64_t least = ns - (wl_mode("futex_abs_real") ? (hidden > 0 ? hidden : 0) + WL_MS : 0);
		CHECK(took >= least, "%s: back after %lld us of %lld", wl_opt("mode", ""),
		      (long long)took / 1000, (long long)ns / 1000);
		CHECK(took <= ns + late_allowed + (hidden > 0 ? hidden : 0),
		      "%s: back after %lld us of %lld", wl_opt("mode", ""), (long long)took / 1000,
		      (long long)ns / 1000);
	} while (wl_tick());
	return wl_done();
}

/* Descriptors that tell of events.
 *
 * --mode eventfd: counters, also beyond 32 bits, and the semaphore kind
 * --mode timerfd: expirations not yet read, interval, the time that remains
 * --mode signalfd: its mask, and a signal that waits in it
 * --mode epoll: level, edge and oneshot entries, data, an epoll in an epoll, an
 *   entry whose descriptor number has been closed
 */
#include "workload.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#define HOLD (40 * WL_MS)

static bool hold(void)
{
	bool more = true;
	for (int64_t start = wl_now(); more && wl_now() - start < HOLD; wl_nap(WL_MS))
		more = wl_tick();
	return more;
}

static uint64_t take(int fd)
{
	uint64_t value = 0;
	ssize_t n = read(fd, &value, 8);
	CHECK(n == 8 || (n == -1 && errno == EAGAIN), "read of descriptor %d: %s", fd, strerror(errno));
	return n == 8 ? value : 0;
}

static void counters(void)
{
	int counter = MUST(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)), semaphore = MUST(eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK));
	wl_ready();
	for (uint64_t round = 1, more = true; more; round++) {
		uint64_t value = wl_mix(round) >> 1, few = 3;
		MUST(write(counter, &value, 8));
		MUST(write(semaphore, &few, 8));
		if (wl_sabotage("count"))
			MUST(write(semaphore, &few, 8));
		more = hold();
		CHECK(take(counter) == value, "the counter is not %#llx", (unsigned long long)value);
		CHECK(take(counter) == 0, "the counter is not empty");
		for (int i = 0; i < 3; i++)
			CHECK(take(semaphore) == 1, "the semaphore is empty after %d", i);
		CHECK(take(semaphore) == 0, "the semaphore is not empty");
	}
}

static void timer_descriptors(void)
{
	int unread = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)), far = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
	int absolute = MUST(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK)), idle = MUST(timerfd_create(CLOCK_REALTIME, 0));
	struct itimerspec each = { { 0, 10 * WL_MS }, { 0, 10 * WL_MS } }, hour = { { 5, 0 }, { 3600, 0 } }, now;
	struct itimerspec passed = { { 0, 0 }, { 1, 0 } };
	int64_t started = wl_now();
	MUST(timerfd_settime(far, 0, &hour, NULL));
	/* Long ago: it has fired once, which nobody reads until the end. */
	MUST(timerfd_settime(absolute, TFD_TIMER_ABSTIME, &passed, NULL));
	wl_ready();
	for (bool more = true; more;) {
		int64_t armed = wl_now();
		MUST(timerfd_settime(unread, 0, &each, NULL));
		if (wl_sabotage("remaining"))
			started -= 10 * WL_SEC;
		more = hold();
		int64_t low = wl_now();
		if (wl_sabotage("ticks"))
			take(unread);
		uint64_t ticks = take(unread), most = (uint64_t)((wl_now() - armed) / (10 * WL_MS)) + 1;
		/* One expiry less when it was set anew at the destination. */
		uint64_t least = (uint64_t)((low - armed) / (10 * WL_MS));
		least = least > 3 ? least - 2 : 0;
		CHECK(least <= ticks && ticks <= most, "%llu expirations, not %llu to %llu", (unsigned long long)ticks,
		      (unsigned long long)least, (unsigned long long)most);
		MUST(timerfd_gettime(unread, &now));
		CHECK(now.it_interval.tv_nsec == 10 * WL_MS, "the interval is %ld ns", now.it_interval.tv_nsec);
		MUST(timerfd_gettime(far, &now));
		int64_t left = now.it_value.tv_sec * WL_SEC + now.it_value.tv_nsec;
		CHECK(llabs(left - (3600 * WL_SEC - (wl_now() - started))) < WL_SEC, "%lld ms remain",
		      (long long)left / 1000000);
		CHECK(now.it_interval.tv_sec == 5, "the far interval is %ld s", (long)now.it_interval.tv_sec);
		MUST(timerfd_gettime(idle, &now));
		CHECK(!now.it_value.tv_sec && !now.it_value.tv_nsec, "a disarmed timer is armed");
		struct pollfd item = { .fd = absolute, .events = POLLIN };
		CHECK(poll(&item, 1, 0) == 1, "an expiration has been lost");
	}
	CHECK(take(absolute) == 1, "not one expiration of the absolute timer");
}

static void signal_descriptor(void)
{
	sigset_t some, other;
	struct signalfd_siginfo info;
	sigemptyset(&some);
	sigaddset(&some, SIGUSR1);
	sigaddset(&some, SIGRTMIN + 5);
	other = some;
	sigaddset(&other, SIGUSR2);
	sigprocmask(SIG_BLOCK, &other, NULL);
	int fd = MUST(signalfd(-1, &some, SFD_NONBLOCK | SFD_CLOEXEC));
	wl_ready();
	for (int round = 1, more = true; more; round++) {
		MUST(kill(getpid(), SIGUSR1));
		MUST(kill(getpid(), SIGUSR2));
		MUST(sigqueue(getpid(), SIGRTMIN + 5, (union sigval){ .sival_int = round }));
		if (wl_sabotage("mask"))
			MUST(signalfd(fd, &other, 0));
		more = hold();
		CHECK(read(fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1, "no SIGUSR1");
		CHECK(info.ssi_pid == (uint32_t)getpid(), "SIGUSR1 of pid %u", info.ssi_pid);
		CHECK(read(fd, &info, sizeof info) == sizeof info && (int)info.ssi_signo == SIGRTMIN + 5 && info.ssi_int == round,
		      "signal %u with value %d instead of %d", info.ssi_signo, info.ssi_int, round);
		CHECK(read(fd, &info, sizeof info) == -1 && errno == EAGAIN, "a signal outside the mask");
		CHECK(syscall(SYS_rt_sigtimedwait, &other, NULL, &(struct timespec){ 0, 0 }, 8) == SIGUSR2, "SIGUSR2 is lost");
	}
}

enum { LEVEL, EDGE, ONESHOT, QUIET, CLOSED, KINDS };
#define DATA(kind) (0xfeedface00000000 + (kind))

/* How often each entry is reported by one look; -1 for data that was never given. */
static void look(int epoll, int seen[KINDS])
{
	struct epoll_event events[16];
	int n;
	while ((n = epoll_wait(epoll, events, 16, 0)) < 0)
		CHECK(errno == EINTR, "epoll_wait: %s", strerror(errno));
	memset(seen, 0, KINDS * sizeof *seen);
	for (int i = 0; i < n; i++) {
		uint64_t kind = events[i].data.u64 - DATA(0);
		CHECK(kind < KINDS, "unknown data %#llx", (unsigned long long)events[i].data.u64);
		CHECK(events[i].events == EPOLLIN, "entry %d has events %#x", (int)kind, events[i].events);
		seen[kind]++;
	}
}

static void epoll(void)
{
	const uint32_t flags[KINDS] = { EPOLLIN, EPOLLIN | EPOLLET, EPOLLIN | EPOLLONESHOT, EPOLLIN, EPOLLIN };
	int fd[KINDS], seen[KINDS], set = MUST(epoll_create1(EPOLL_CLOEXEC)), outer = MUST(epoll_create1(0));
	struct epoll_event event;
	for (int kind = 0; kind < KINDS; kind++) {
		fd[kind] = MUST(eventfd(0, EFD_NONBLOCK));
		event = (struct epoll_event){ .events = flags[kind], .data.u64 = DATA(kind) };
		MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd[kind], &event));
	}
	event = (struct epoll_event){ .events = EPOLLIN, .data.u64 = 5 };
	MUST(epoll_ctl(outer, EPOLL_CTL_ADD, set, &event));
	/* The number is free again, and its entry lives on with the description. */
	int kept = MUST(dup(fd[CLOSED]));
	close(fd[CLOSED]);
	wl_ready();
	for (bool more = true; more;) {
		uint64_t one = 1;
		for (int kind = 0; kind < KINDS; kind++)
			if (kind != QUIET)
				MUST(write(kind == CLOSED ? kept : fd[kind], &one, 8));
		look(set, seen);
		CHECK(seen[LEVEL] && seen[EDGE] && seen[ONESHOT] && seen[CLOSED] && !seen[QUIET], "the first look");
		if (wl_sabotage("lost"))
			MUST(epoll_ctl(set, EPOLL_CTL_DEL, fd[LEVEL], NULL));
		event = (struct epoll_event){ .events = flags[ONESHOT], .data.u64 = DATA(ONESHOT) };
		if (wl_sabotage("oneshot"))
			MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd[ONESHOT], &event));
		event = (struct epoll_event){ .events = EPOLLIN, .data.u64 = 99 };
		if (wl_sabotage("data"))
			MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd[QUIET], &event)), MUST(write(fd[QUIET], &one, 8));
		more = hold();
		/* A move may report the edge once more: an extra wake-up is allowed, a lost one is not. */
		look(set, seen);
		CHECK(seen[LEVEL] && seen[CLOSED], "a level-triggered entry is lost");
		CHECK(!seen[ONESHOT] && !seen[QUIET], "an entry that is off or idle has events");
		look(set, seen);
		CHECK(!seen[EDGE], "the edge comes again and again");
		int n = epoll_wait(outer, &event, 1, 0);
		CHECK((n == 1 && event.data.u64 == 5) || (n == -1 && errno == EINTR), "the outer epoll is silent");
		for (int kind = 0; kind < KINDS; kind++)
			take(kind == CLOSED ? kept : fd[kind]);
		look(set, seen);
		for (int kind = 0; kind < KINDS; kind++)
			CHECK(!seen[kind], "entry %d has events after all was read", kind);
		event = (struct epoll_event){ .events = flags[ONESHOT], .data.u64 = DATA(ONESHOT) };
		MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd[ONESHOT], &event));
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("eventfd"))
		counters();
	else if (wl_mode("timerfd"))
		timer_descriptors();
	else if (wl_mode("signalfd"))
		signal_descriptor();
	else if (wl_mode("epoll"))
		epoll();
	else
		wl_fail("unknown mode");
	return wl_done();
}

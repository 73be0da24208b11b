/* A time namespace that the program has made itself: a child in it reads clocks that are
 * ahead of its parent's by what was written there, for ever.
 */
#include "workload.h"
#include <sched.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define MONOTONIC_AHEAD 100000
#define BOOTTIME_AHEAD 200000

static struct shared {
	volatile long asked, answered;
	volatile int64_t monotonic, boottime;
} *common;

static void put_text(const char *path, const char *text)
{
	int fd = MUST(open(path, O_WRONLY | O_CLOEXEC));
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", path, strerror(errno));
	MUST(close(fd));
}

static void enter(void)
{
	MUST(unshare(CLONE_NEWTIME));
	put_text("/proc/self/timens_offsets", "monotonic 100000 0\nboottime 200000 0\n");
	int fd = MUST(open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC));
	MUST(setns(fd, CLONE_NEWTIME));
	MUST(close(fd));
}

static void answer(void)
{
	enter();
	for (int64_t before = 0;;) {
		int64_t now = wl_clock(CLOCK_MONOTONIC);
		CHECK(now >= before, "the clock went back from %lld to %lld", (long long)before, (long long)now);
		before = now;
		if (common->asked != common->answered) {
			common->monotonic = wl_clock(CLOCK_MONOTONIC);
			common->boottime = wl_clock(CLOCK_BOOTTIME);
			common->answered = common->asked;
		}
		/* To a moment of its own clock, and for a while. */
		int64_t then = now + 2 * WL_MS;
		struct timespec until = { then / WL_SEC, then % WL_SEC };
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
			;
		now = wl_clock(CLOCK_MONOTONIC);
		CHECK(now >= then && now - then < 30 * WL_SEC, "it woke up %lld ns late", (long long)(now - then));
		wl_nap(WL_MS);
	}
}

static void want_ahead(const char *clock, int64_t from, int64_t inside, int64_t to, int64_t seconds)
{
	int64_t ahead = seconds * WL_SEC;
	CHECK(from + ahead <= inside && inside <= to + ahead, "%s %lld, not %lld to %lld", clock,
	      (long long)inside, (long long)(from + ahead), (long long)(to + ahead));
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	common = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(common != MAP_FAILED, "mmap: %s", strerror(errno));
	pid_t child = wl_fork();
	if (!child)
		answer();
	wl_ready();
	while (wl_tick()) {
		int64_t monotonic = wl_clock(CLOCK_MONOTONIC), boottime = wl_clock(CLOCK_BOOTTIME);
		common->asked++;
		while (common->asked != common->answered) {
			CHECK(!waitpid(child, NULL, WNOHANG), "the child has ended");
			wl_nap(WL_MS);
		}
		int more = wl_sabotage("clock");
		want_ahead("monotonic", monotonic, common->monotonic, wl_clock(CLOCK_MONOTONIC), MONOTONIC_AHEAD + more);
		want_ahead("boottime", boottime, common->boottime, wl_clock(CLOCK_BOOTTIME), BOOTTIME_AHEAD);
	}
	kill(child, SIGKILL);
	return wl_done();
}

/* Clocks through the vDSO and through system calls.
 *
 * None goes back; the monotonic ones do not run ahead of the real-time clock by
 * more than a margin; and what the vDSO says lies between two system calls.
 */
#include "workload.h"
#include <sys/time.h>

#define MARGIN (100 * WL_MS)

static int64_t by_syscall(clockid_t clock)
{
	struct timespec t;
	MUST(syscall(SYS_clock_gettime, clock, &t));
	return t.tv_sec * WL_SEC + t.tv_nsec;
}

static const struct {
	clockid_t id;
	const char *name;
	/* Coarse clocks lag by a tick. */
	int64_t lag;
	/* Whether it stands still, or need not advance, while the real-time clock goes on. */
	bool monotonic;
} clocks[] = {
	{ CLOCK_REALTIME, "CLOCK_REALTIME", 0, false },
	{ CLOCK_MONOTONIC, "CLOCK_MONOTONIC", 0, true },
	{ CLOCK_MONOTONIC_RAW, "CLOCK_MONOTONIC_RAW", 0, true },
	{ CLOCK_BOOTTIME, "CLOCK_BOOTTIME", 0, true },
	{ CLOCK_MONOTONIC_COARSE, "CLOCK_MONOTONIC_COARSE", 20 * WL_MS, true },
	{ CLOCK_REALTIME_COARSE, "CLOCK_REALTIME_COARSE", 20 * WL_MS, false },
	{ CLOCK_TAI, "CLOCK_TAI", 0, false },
};
#define CLOCKS (sizeof clocks / sizeof *clocks)

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	wl_ready();
	int64_t last[CLOCKS], last_real = wl_clock(CLOCK_REALTIME);
	for (size_t i = 0; i < CLOCKS; i++)
		last[i] = wl_clock(clocks[i].id);
	do {
		int64_t before = by_syscall(CLOCK_REALTIME);
		for (size_t i = 0; i < CLOCKS; i++) {
			int64_t low = by_syscall(clocks[i].id), now = wl_clock(clocks[i].id);
			int64_t high = by_syscall(clocks[i].id);
			if (clocks[i].id == CLOCK_MONOTONIC && wl_sabotage("back"))
				now -= WL_SEC;
			if (clocks[i].id == CLOCK_MONOTONIC && wl_sabotage("jump"))
				low = now = high += WL_SEC;
			CHECK(now >= last[i], "%s went back by %lld ns", clocks[i].name, (long long)(last[i] - now));
			CHECK(low - clocks[i].lag <= now && now <= high, "%s is %lld by the vDSO, not in %lld..%lld",
			      clocks[i].name, (long long)now, (long long)low, (long long)high);
			int64_t real = by_syscall(CLOCK_REALTIME) - last_real;
			CHECK(!clocks[i].monotonic || now - last[i] <= real + MARGIN, "%s jumped by %lld us in %lld us",
			      clocks[i].name, (long long)(now - last[i]) / 1000, (long long)real / 1000);
			last[i] = now;
		}
		last_real = before;
		struct timeval day;
		MUST(gettimeofday(&day, NULL));
		CHECK(llabs(day.tv_sec * WL_SEC + day.tv_usec * 1000LL - wl_clock(CLOCK_REALTIME)) < 60 * WL_SEC &&
			      llabs(time(NULL) - (long long)day.tv_sec) < 60,
		      "gettimeofday and time disagree");
		/* By far the most common: a tight loop with nothing else. */
		int64_t previous = wl_now();
		for (int i = 0; i < 20000; i++) {
			int64_t now = wl_now();
			CHECK(now >= previous, "CLOCK_MONOTONIC went back by %lld ns", (long long)(previous - now));
			previous = now;
		}
	} while (wl_tick());
	return wl_done();
}

/* The protocol of every workload program.
 *
 * A program sets its state up, prints `ready`, and then checks that state over
 * and over, printing `tick N` as it goes, until it reads the line `stop`, gets
 * SIGTERM, or --seconds N have passed. It then prints `gap_us N` (the largest
 * gap between two looks at CLOCK_REALTIME) and `PASS`, and exits 0. As soon as
 * anything is wrong it prints `FAIL: what` and exits 1; so do its children.
 * With `--sabotage KIND` it damages its own state as a bad restore would, a
 * few ticks in, and must then fail.
 *
 * Output bypasses stdio, so a line is never half written at a fork or a move.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WL_API static __attribute__((unused))
#define WL_MS 1000000LL
#define WL_SEC 1000000000LL
#define WL_TICK_NS (20 * WL_MS)
#define WL_SABOTAGE_TICK 3

static int wl_argc;
static char **wl_argv;
static volatile sig_atomic_t wl_stop;
static bool wl_stdin_open = true;
static long wl_ticks;
static int64_t wl_last_look, wl_last_print, wl_gap, wl_deadline;

WL_API int64_t wl_clock(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * WL_SEC + t.tv_nsec;
}

WL_API int64_t wl_now(void)
{
	return wl_clock(CLOCK_MONOTONIC);
}

/* One whole line in one write, whatever signals do. */
WL_API void wl_say(const char *format, ...)
{
	char line[512];
	va_list args;
	va_start(args, format);
	int n = vsnprintf(line, sizeof line - 1, format, args);
	va_end(args);
	size_t length = n < (int)sizeof line - 1 ? (size_t)n : sizeof line - 2;
	line[length++] = '\n';
	for (size_t done = 0; done < length;) {
		ssize_t put = write(1, line + done, length - done);
		if (put < 0 && errno != EINTR)
			_exit(2);
		done += put > 0 ? (size_t)put : 0;
	}
}

#define wl_fail(...)                          \
	do {                                  \
		wl_say("FAIL: " __VA_ARGS__); \
		_exit(1);                     \
	} while (0)

#define CHECK(condition, ...)                 \
	do {                                  \
		if (!(condition))             \
			wl_fail(__VA_ARGS__); \
	} while (0)

/* For calls of the set-up, whose failure is the machine's. */
#define MUST(call)                                                            \
	({                                                                    \
		__typeof__(call) wl_result = (call);                          \
		if (wl_result == (__typeof__(call))-1)                        \
			wl_fail("%s:%d: %s: %s", __FILE__, __LINE__, #call,   \
				strerror(errno));                             \
		wl_result;                                                    \
	})

/* The value of `--name value`. */
WL_API const char *wl_opt(const char *name, const char *otherwise)
{
	for (int i = 1; i + 1 < wl_argc; i++)
		if (!strncmp(wl_argv[i], "--", 2) && !strcmp(wl_argv[i] + 2, name))
			return wl_argv[i + 1];
	return otherwise;
}

WL_API long wl_num(const char *name, long otherwise)
{
	const char *text = wl_opt(name, NULL);
	return text ? strtol(text, NULL, 0) : otherwise;
}

WL_API bool wl_mode(const char *mode)
{
	return !strcmp(wl_opt("mode", ""), mode);
}

/* Whether to do the damage `kind` now: true once the program is well under way. */
WL_API bool wl_sabotage(const char *kind)
{
	return wl_ticks >= WL_SABOTAGE_TICK && !strcmp(wl_opt("sabotage", ""), kind);
}

static void wl_on_term(int signal)
{
	(void)signal;
	wl_stop = 1;
}

WL_API void wl_init(int argc, char **argv)
{
	wl_argc = argc;
	wl_argv = argv;
	struct sigaction action = { .sa_handler = wl_on_term, .sa_flags = SA_RESTART };
	sigaction(SIGTERM, &action, NULL);
}

WL_API void wl_ready(void)
{
	long seconds = wl_num("seconds", 0);
	wl_say("ready");
	wl_last_look = wl_clock(CLOCK_REALTIME);
	wl_last_print = wl_now();
	wl_deadline = seconds ? wl_last_print + seconds * WL_SEC : INT64_MAX;
}

/* The line `stop` on stdin; the end of stdin is no order to stop. */
static void wl_look_at_stdin(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };
	char text[64];
	if (!wl_stdin_open || poll(&in, 1, 0) <= 0)
		return;
	ssize_t n = read(0, text, sizeof text - 1);
	if (n <= 0) {
		wl_stdin_open = n < 0 && (errno == EINTR || errno == EAGAIN);
		return;
	}
	text[n] = 0;
	if (strstr(text, "stop"))
		wl_stop = 1;
}

/* Called after every check; false when it is time to end. */
WL_API bool wl_tick(void)
{
	int64_t look = wl_clock(CLOCK_REALTIME), now = wl_now();
	if (look - wl_last_look > wl_gap)
		wl_gap = look - wl_last_look;
	wl_last_look = look;
	if (now - wl_last_print >= WL_TICK_NS) {
		wl_last_print = now;
		wl_say("tick %ld", ++wl_ticks);
		wl_look_at_stdin();
	}
	return !wl_stop && now < wl_deadline;
}

WL_API int wl_done(void)
{
	wl_say("gap_us %lld", (long long)(wl_gap / 1000));
	wl_say("PASS");
	return 0;
}

/* A child that does not outlive its parent, whatever becomes of the test. */
WL_API pid_t wl_fork(void)
{
	pid_t pid = fork();
	if (pid < 0)
		wl_fail("fork: %s", strerror(errno));
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

/* Sleeps without a call that a signal could cut short unseen. */
WL_API void wl_nap(int64_t ns)
{
	struct timespec left = { ns / WL_SEC, ns % WL_SEC };
	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

/* The 64-bit mix of splitmix64: patterns that differ in every word. */
WL_API uint64_t wl_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

WL_API void wl_fill(void *area, size_t bytes, uint64_t seed)
{
	uint64_t *word = area;
	for (size_t i = 0; i < bytes / 8; i++)
		word[i] = wl_mix(seed + i);
}

/* Index of the first wrong word, or -1. */
WL_API ssize_t wl_compare(const void *area, size_t bytes, uint64_t seed)
{
	const uint64_t *word = area;
	for (size_t i = 0; i < bytes / 8; i++)
		if (word[i] != wl_mix(seed + i))
			return (ssize_t)i;
	return -1;
}

/* `--dir` joined with a name that no other run uses. */
WL_API const char *wl_path(const char *name)
{
	static char paths[8][PATH_MAX];
	static int next;
	char *path = paths[next++ % 8];
	snprintf(path, PATH_MAX, "%s/%s.%d", wl_opt("dir", "/tmp"), name, (int)getpid());
	return path;
}

/* Sends SIGSEGV's address and code here instead of ending the program. */
struct wl_fault {
	sigjmp_buf back;
	volatile sig_atomic_t armed;
	void *volatile address;
	volatile int code;
};
static struct wl_fault wl_fault;

static void wl_on_fault(int signal, siginfo_t *info, void *context)
{
	(void)context;
	if (!wl_fault.armed)
		wl_fail("signal %d at %p", signal, info->si_addr);
	wl_fault.armed = 0;
	wl_fault.address = info->si_addr;
	wl_fault.code = info->si_code;
	siglongjmp(wl_fault.back, 1);
}

/* si_code of the SIGSEGV that the access gives, or 0 when it succeeds. */
WL_API __attribute__((noinline)) int wl_probe(volatile uint8_t *address, bool write)
{
	struct sigaction action = { .sa_sigaction = wl_on_fault, .sa_flags = SA_SIGINFO };
	sigaction(SIGSEGV, &action, NULL);
	if (sigsetjmp(wl_fault.back, 1)) {
		CHECK(wl_fault.address == address, "fault at %p, not %p", wl_fault.address, address);
		return wl_fault.code;
	}
	wl_fault.armed = 1;
	uint8_t value = *address;
	if (write)
		*address = value;
	wl_fault.armed = 0;
	return 0;
}

/* A line of /proc/self/FILE that starts with `start`, without it; "" when there is none. */
WL_API const char *wl_proc(const char *file, const char *start)
{
	static char line[4096];
	char path[64];
	snprintf(path, sizeof path, "/proc/self/%s", file);
	FILE *stream = fopen(path, "re");
	CHECK(stream, "%s: %s", path, strerror(errno));
	bool found = false;
	while (!found && fgets(line, sizeof line, stream))
		found = !strncmp(line, start, strlen(start));
	fclose(stream);
	line[strcspn(line, "\n")] = 0;
	return found ? line + strlen(start) : "";
}

/* The mapping that begins at an address: its permissions and VmFlags. */
struct wl_mapping {
	uintptr_t start, end;
	char permissions[5], flags[256];
};

WL_API bool wl_find_mapping(const void *address, struct wl_mapping *found)
{
	static char line[4096];
	FILE *stream = fopen("/proc/self/smaps", "re");
	CHECK(stream, "smaps: %s", strerror(errno));
	bool inside = false, done = false;
	while (!done && fgets(line, sizeof line, stream)) {
		struct wl_mapping head;
		if (sscanf(line, "%lx-%lx %4s", &head.start, &head.end, head.permissions) == 3) {
			inside = head.start <= (uintptr_t)address && (uintptr_t)address < head.end;
			if (inside)
				*found = head;
		} else if (inside && !strncmp(line, "VmFlags:", 8)) {
			snprintf(found->flags, sizeof found->flags, "%.250s", line + 8);
			found->flags[strcspn(found->flags, "\n")] = ' ';
			done = true;
		}
	}
	fclose(stream);
	return done;
}

/* Anonymous memory shared with the children made later. */
WL_API void *wl_shared(size_t bytes)
{
	return MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

#endif

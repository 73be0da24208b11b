/* System calls that wait without a deadline, interrupted at any moment.
 *
 * A child does what the parent waits for every 30 ms and counts it in shared
 * memory; the parent's call, named by --mode, may neither fail with EINTR nor
 * miss an event nor see one too many.
 *
 * Modes: pipe eventfd tty fifo epoll_forever poll_forever futex
 * wait4 waitid write_full timerfd signalfd
 * and by signals (whose handler's EINTR is the wanted one):
 * pause sigsuspend sigwaitinfo ppoll_mask
 */
#include "workload.h"
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <termios.h>

struct counters {
	uint64_t sent;
	uint32_t word;
};
static struct counters *shared;
static volatile sig_atomic_t caught;
static int in = -1, out = -1, poller = -1;
static sigset_t only_usr1, without_usr1;

static void on_signal(int signal)
{
	(void)signal;
	caught++;
}

static void make_tty(void)
{
	struct termios raw;
	out = MUST(posix_openpt(O_RDWR | O_NOCTTY));
	MUST(grantpt(out));
	MUST(unlockpt(out));
	in = MUST(open(ptsname(out), O_RDWR | O_NOCTTY));
	MUST(tcgetattr(in, &raw));
	cfmakeraw(&raw);
	MUST(tcsetattr(in, TCSANOW, &raw));
}

static void make_objects(void)
{
	int ends[2];
	if (wl_mode("eventfd")) {
		in = out = MUST(eventfd(0, 0));
	} else if (wl_mode("tty")) {
		make_tty();
	} else if (wl_mode("fifo")) {
		const char *path = wl_path("fifo");
		MUST(mkfifo(path, 0600));
		in = MUST(open(path, O_RDWR));
		out = MUST(open(path, O_WRONLY));
		unlink(path);
	} else if (wl_mode("timerfd")) {
		struct itimerspec each = { { 0, 30 * WL_MS }, { 0, 30 * WL_MS } };
		in = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
		MUST(timerfd_settime(in, 0, &each, NULL));
	} else {
		MUST(pipe(ends));
		in = ends[0];
		out = ends[1];
	}
	poller = MUST(epoll_create1(0));
	struct epoll_event interest = { .events = EPOLLIN };
	epoll_ctl(poller, EPOLL_CTL_ADD, in, &interest);
}

static bool by_signal(void)
{
	return wl_mode("pause") || wl_mode("sigsuspend") || wl_mode("sigwaitinfo") ||
	       wl_mode("ppoll_mask") || wl_mode("signalfd");
}

/* What --sabotage interrupts a wait with. */
static void on_alarm(int signal)
{
	(void)signal;
}

/* The child's whole life. */
static void make_events(pid_t parent)
{
	uint64_t one = 1;
	for (;;) {
		wl_nap(30 * WL_MS);
		__atomic_fetch_add(&shared->sent, 1, __ATOMIC_SEQ_CST);
		if (by_signal()) {
			kill(parent, SIGUSR1);
		} else if (wl_mode("futex")) {
			__atomic_fetch_add(&shared->word, 1, __ATOMIC_SEQ_CST);
			syscall(SYS_futex, &shared->word, FUTEX_WAKE, 1, NULL, NULL, 0);
		} else if (wl_mode("write_full")) {
			char bytes[4096];
			if (read(in, bytes, sizeof bytes) != sizeof bytes)
				wl_fail("short read from a full pipe");
		} else if (out >= 0) {
			size_t size = wl_mode("eventfd") ? 8 : 1;
			if (write(out, &one, size) != (ssize_t)size)
				wl_fail("write: %s", strerror(errno));
		}
	}
}

static int take(void)
{
	uint64_t value = 0;
	/* A second event may be there already when this process was kept from running for long. */
	ssize_t size = wl_mode("eventfd") || wl_mode("timerfd") ? 8 : 1;
	ssize_t n = read(in, &value, size);
	if (n < 0)
		return errno;
	CHECK(n == size, "read gave %zd bytes", n);
	return 0;
}

/* A child that ends after 30 ms with a status of its own. */
static int wait_for_child(void)
{
	static int code;
	pid_t pid = wl_fork();
	code = (code + 37) % 256;
	if (!pid) {
		wl_nap(30 * WL_MS);
		_exit(code);
	}
	if (wl_mode("wait4")) {
		int status;
		if (waitpid(pid, &status, 0) < 0)
			return errno;
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code, "status %#x", status);
	} else {
		siginfo_t info;
		if (waitid(P_PID, pid, &info, WEXITED) < 0)
			return errno;
		CHECK(info.si_pid == pid && info.si_status == code, "status %d", info.si_status);
	}
	return 0;
}

/* Waits for one event; 0, or the errno that the program should not have seen. */
static int wait_once(void)
{
	struct epoll_event event;
	struct pollfd item = { .fd = in, .events = POLLIN };
	sig_atomic_t before = caught;
	int result = 0;
	errno = 0;
	if (wl_mode("wait4") || wl_mode("waitid"))
		return wait_for_child();
	if (wl_mode("pause") || wl_mode("sigsuspend")) {
		/* SIGUSR1 is blocked outside sigsuspend, so none is lost; pause may lose one. */
		result = wl_mode("pause") ? pause() : sigsuspend(&without_usr1);
		CHECK(result == -1 && errno == EINTR, "%d: %s", result, strerror(errno));
		return caught > before || wl_stop ? 0 : EINTR;
	}
	if (wl_mode("ppoll_mask")) {
		result = ppoll(&item, 1, NULL, &without_usr1);
		return result == -1 && (caught > before || wl_stop) ? 0 : errno;
	}
	if (wl_mode("sigwaitinfo"))
		return sigwaitinfo(&only_usr1, NULL) == SIGUSR1 ? 0 : errno;
	if (wl_mode("signalfd")) {
		struct signalfd_siginfo info;
		return read(in, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1 ? 0 : errno;
	}
	if (wl_mode("futex")) {
		static uint32_t seen;
		while (__atomic_load_n(&shared->word, __ATOMIC_SEQ_CST) == seen) {
			result = (int)syscall(SYS_futex, &shared->word, FUTEX_WAIT, seen, NULL, NULL, 0);
			if (result && errno != EAGAIN)
				return errno;
		}
		seen = __atomic_load_n(&shared->word, __ATOMIC_SEQ_CST);
		return 0;
	}
	if (wl_mode("write_full")) {
		char bytes[4096] = "";
		return write(out, bytes, sizeof bytes) == sizeof bytes ? 0 : errno ? errno : EIO;
	}
	if (wl_mode("epoll_forever"))
		result = epoll_wait(poller, &event, 1, -1);
	else if (wl_mode("poll_forever"))
		result = poll(&item, 1, -1);
	if (result < 0)
		return errno;
	return take();
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	struct sigaction action = { .sa_handler = on_signal };
	sigaction(SIGUSR1, &action, NULL);
	action.sa_handler = on_alarm;
	sigaction(SIGALRM, &action, NULL);
	sigemptyset(&without_usr1);
	sigemptyset(&only_usr1);
	sigaddset(&only_usr1, SIGUSR1);
	if (by_signal() && !wl_mode("pause"))
		sigprocmask(SIG_BLOCK, &only_usr1, NULL);
	shared = wl_shared(4096);
	make_objects();
	if (wl_mode("signalfd"))
		in = MUST(signalfd(-1, &only_usr1, 0));
	if (wl_mode("write_full"))
		while (fcntl(out, F_SETFL, O_NONBLOCK) == 0 && write(out, shared, 4096) > 0)
			;
	fcntl(out, F_SETFL, wl_mode("tty") || wl_mode("eventfd") || wl_mode("fifo") ? O_RDWR : O_WRONLY);
	pid_t parent = getpid();
	bool own_events = wl_mode("wait4") || wl_mode("waitid") || wl_mode("timerfd");
	if (!own_events && !wl_fork())
		make_events(parent);
	wl_ready();
	uint64_t got = 0;
	bool counted = !own_events && !by_signal() && !wl_mode("futex") &&
		       !wl_mode("write_full") && !wl_mode("eventfd");
	do {
		if (wl_sabotage("eintr"))
			ualarm(5000, 0);
		int error = wait_once();
		got++;
		if (wl_stop && error == EINTR)
			break;
		CHECK(!error, "%s: %s", wl_opt("mode", ""), strerror(error));
		uint64_t sent = __atomic_load_n(&shared->sent, __ATOMIC_SEQ_CST);
		CHECK(!counted || got <= sent, "%llu events of %llu", (unsigned long long)got,
		      (unsigned long long)sent);
	} while (wl_tick());
	return wl_done();
}

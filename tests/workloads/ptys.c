/* Pseudo-terminals that the program made itself.
 *
 * --mode canonical: typed lines that nobody has read, a line begun, and its echo
 * --mode raw: bytes on their way in both directions
 * --mode settings: modes, control characters, window size, packet mode, number
 * --mode control: a session with a controlling terminal: foreground group, ^C, /dev/tty
 */
#include "workload.h"
#include <sys/ioctl.h>
#include <termios.h>

#define HOLD (40 * WL_MS)

static int master, slave;

static bool hold(void)
{
	bool more = true;
	for (int64_t start = wl_now(); more && wl_now() - start < HOLD; wl_nap(WL_MS))
		more = wl_tick();
	return more;
}

static void make(void)
{
	master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
	MUST(grantpt(master));
	MUST(unlockpt(master));
	slave = MUST(open(ptsname(master), O_RDWR | O_NOCTTY));
}

static void type(int fd, const char *text)
{
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write: %s", strerror(errno));
}

/* Reads exactly `text`; a terminal may hand it out in pieces. */
static void want(int fd, const char *what, const char *text)
{
	char bytes[4096];
	size_t length = strlen(text), done = 0;
	for (int64_t start = wl_now(); done < length;) {
		struct pollfd item = { .fd = fd, .events = POLLIN };
		CHECK(wl_now() - start < 3 * WL_SEC, "%s: %zu bytes of %zu", what, done, length);
		if (poll(&item, 1, 100) != 1)
			continue;
		ssize_t n = read(fd, bytes + done, length - done);
		CHECK(n > 0, "%s: read: %s", what, n ? strerror(errno) : "the end");
		done += (size_t)n;
	}
	CHECK(!memcmp(bytes, text, length), "%s: not what was written", what);
}

static void want_idle(int fd, const char *what)
{
	struct pollfd item = { .fd = fd, .events = POLLIN };
	CHECK(poll(&item, 1, 0) == 0, "%s has more to read", what);
}

/* One line for each read, however many are there. */
static void want_line(const char *text)
{
	char line[256];
	struct pollfd item = { .fd = slave, .events = POLLIN };
	CHECK(poll(&item, 1, 3000) == 1, "no line to read");
	ssize_t n = read(slave, line, sizeof line);
	CHECK(n == (ssize_t)strlen(text) && !memcmp(line, text, strlen(text)), "not the line that was typed");
}

static void canonical(void)
{
	make();
	wl_ready();
	for (bool more = true; more;) {
		type(master, "first line\nsecond\nbegun, ");
		if (wl_sabotage("lost"))
			tcflush(slave, TCIFLUSH);
		more = hold();
		want_line("first line\n");
		want_line("second\n");
		want_idle(slave, "the terminal in the middle of a line");
		/* The begun line can still be edited: ERASE takes its last two characters. */
		type(master, "\x7f\x7f; ended\n");
		want_line("begun; ended\n");
		want(master, "echo", "first line\r\nsecond\r\nbegun, \b \b\b \b; ended\r\n");
		want_idle(slave, "the terminal");
		want_idle(master, "the master");
		/* ^D on an empty line is the end of the file, once. */
		type(master, "\x04");
		more = hold() && more;
		want_line("");
		want_idle(slave, "the terminal after ^D");
	}
}

static void set_raw(int fd)
{
	struct termios modes;
	MUST(tcgetattr(fd, &modes));
	cfmakeraw(&modes);
	MUST(tcsetattr(fd, TCSANOW, &modes));
}

static void raw(void)
{
	char in[1001], out[1001];
	make();
	set_raw(slave);
	wl_ready();
	for (uint64_t round = 0, more = true; more; round++) {
		for (int i = 0; i < 1000; i++) {
			in[i] = (char)(wl_mix(round + i) % 255 + 1);
			out[i] = (char)(wl_mix(~round + i) % 255 + 1);
		}
		in[1000] = out[1000] = 0;
		type(master, in);
		type(slave, out);
		if (wl_sabotage("lost"))
			tcflush(slave, TCIOFLUSH);
		more = hold();
		want(slave, "input", in);
		want(master, "output", out);
		want_idle(slave, "the terminal");
		want_idle(master, "the master");
	}
}

static void settings(void)
{
	struct winsize size = { 43, 132, 1000, 700 }, size_now;
	struct termios modes, modes_now;
	char name[64];
	int packets = 1, number, number_now;
	make();
	MUST(tcgetattr(slave, &modes));
	modes.c_iflag ^= IXON | ICRNL | IUTF8;
	modes.c_oflag ^= OPOST;
	modes.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
	modes.c_cc[VINTR] = 7;
	modes.c_cc[VERASE] = 8;
	modes.c_cc[VMIN] = 3;
	modes.c_cc[VTIME] = 5;
	cfsetspeed(&modes, B9600);
	MUST(tcsetattr(slave, TCSANOW, &modes));
	MUST(tcgetattr(slave, &modes));
	MUST(ioctl(slave, TIOCSWINSZ, &size));
	MUST(ioctl(master, TIOCPKT, &packets));
	MUST(ioctl(master, TIOCGPTN, &number));
	snprintf(name, sizeof name, "%s", ptsname(master));
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("window"))
			size_now.ws_row = 24, MUST(ioctl(slave, TIOCSWINSZ, &size_now));
		if (wl_sabotage("mode"))
			set_raw(slave);
		MUST(ioctl(master, TIOCGWINSZ, &size_now));
		CHECK(!memcmp(&size, &size_now, sizeof size), "window of %d rows and %d columns", size_now.ws_row,
		      size_now.ws_col);
		MUST(tcgetattr(slave, &modes_now));
		CHECK(modes.c_iflag == modes_now.c_iflag && modes.c_oflag == modes_now.c_oflag &&
			      modes.c_cflag == modes_now.c_cflag && modes.c_lflag == modes_now.c_lflag,
		      "modes %#x %#x %#x %#x", modes_now.c_iflag, modes_now.c_oflag, modes_now.c_cflag, modes_now.c_lflag);
		CHECK(!memcmp(modes.c_cc, modes_now.c_cc, sizeof modes.c_cc), "control characters");
		CHECK(cfgetospeed(&modes_now) == B9600, "speed %u", cfgetospeed(&modes_now));
		MUST(ioctl(master, TIOCGPKT, &packets));
		MUST(ioctl(master, TIOCGPTN, &number_now));
		CHECK(packets == 1, "packet mode is off");
		CHECK(number == number_now && !strcmp(name, ptsname(master)) && !strcmp(name, ttyname(slave)),
		      "terminal %d, not %d", number_now, number);
		wl_nap(WL_MS);
	}
}

static struct control {
	int ready, damage, interrupts[2], windows[2];
	pid_t leader, foreground, background;
} *control;
static int me;

static void on_signal(int signal)
{
	__atomic_fetch_add(&(signal == SIGINT ? control->interrupts : control->windows)[me], 1, __ATOMIC_SEQ_CST);
}

static _Noreturn void member_of_group(int which)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	me = which;
	MUST(setpgid(0, 0));
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGWINCH, &action, NULL);
	__atomic_fetch_add(&control->ready, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
}

static _Noreturn void session_leader(void)
{
	MUST(setsid());
	MUST(ioctl(slave, TIOCSCTTY, 0));
	signal(SIGTTOU, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	/* The children must not write into what is shared. */
	pid_t foreground = wl_fork();
	if (!foreground)
		member_of_group(0);
	pid_t background = wl_fork();
	if (!background)
		member_of_group(1);
	control->foreground = foreground;
	control->background = background;
	while (__atomic_load_n(&control->ready, __ATOMIC_SEQ_CST) < 2)
		wl_nap(WL_MS);
	MUST(tcsetpgrp(slave, control->foreground));
	int tty = MUST(open("/dev/tty", O_RDWR | O_CLOEXEC));
	control->leader = getpid();
	__atomic_fetch_add(&control->ready, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		if (__atomic_load_n(&control->damage, __ATOMIC_SEQ_CST))
			MUST(tcsetpgrp(slave, background));
		CHECK(tcgetsid(tty) == getpid() && tcgetsid(slave) == getpid(), "session of the terminal is %d", tcgetsid(tty));
		CHECK(tcgetpgrp(tty) == control->foreground, "foreground group is %d", tcgetpgrp(tty));
		/* Opening it anew works only for the session that it controls. */
		close(MUST(open("/dev/tty", O_RDWR)));
		wl_nap(5 * WL_MS);
	}
}

static void await_count(const int *count, int wanted, const char *what)
{
	for (int64_t start = wl_now(); __atomic_load_n(count, __ATOMIC_SEQ_CST) != wanted; wl_nap(WL_MS))
		CHECK(wl_now() - start < 3 * WL_SEC, "%s: %d of %d", what, *count, wanted);
}

static void controlling(void)
{
	make();
	control = wl_shared(sizeof *control);
	if (!wl_fork())
		session_leader();
	await_count(&control->ready, 3, "processes of the session");
	wl_ready();
	for (int round = 1; wl_tick(); round++) {
		struct winsize size = { (unsigned short)(20 + round % 20), 80, 0, 0 };
		if (wl_sabotage("foreground"))
			__atomic_store_n(&control->damage, 1, __ATOMIC_SEQ_CST);
		type(master, "\x03");
		await_count(&control->interrupts[0], round, "^C at the foreground group");
		want(master, "echo of ^C", "^C");
		MUST(ioctl(master, TIOCSWINSZ, &size));
		await_count(&control->windows[0], round, "SIGWINCH at the foreground group");
		CHECK(!control->interrupts[1] && !control->windows[1], "the background group got a signal");
		CHECK(tcgetsid(master) == control->leader, "session of the master is %d", tcgetsid(master));
		for (int i = 0; i < 10; i++) {
			wl_tick();
			wl_nap(WL_MS);
		}
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("canonical"))
		canonical();
	else if (wl_mode("raw"))
		raw();
	else if (wl_mode("settings"))
		settings();
	else if (wl_mode("control"))
		controlling();
	else
		wl_fail("unknown mode");
	return wl_done();
}

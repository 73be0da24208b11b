/* Watches of inotify(7).
 *
 * --mode files: a file, a directory, and a file with a mask of its own; their numbers
 *   have gaps. Every change gives the events that it must, and none comes by itself.
 * --mode named: a file and a folder that are named on the command line, and that this only
 *   looks at
 * --mode epoll: a child changes files; its parent waits with epoll and counts.
 */
#include "workload.h"
#include <sys/epoll.h>
#include <sys/inotify.h>

static int notify;

/* The next event, or a wd of 0 when there is none. */
static struct inotify_event *next(void)
{
	static char buffer[4096] __attribute__((aligned(8)));
	static ssize_t have, at;
	static struct inotify_event none;
	if (at >= have) {
		have = read(notify, buffer, sizeof buffer);
		at = 0;
		if (have < 0) {
			CHECK(errno == EAGAIN, "read: %s", strerror(errno));
			return &none;
		}
	}
	struct inotify_event *event = (void *)(buffer + at);
	at += (ssize_t)(sizeof *event + event->len);
	return event;
}

static void expect(int wd, uint32_t mask, const char *name)
{
	struct inotify_event *event = next();
	CHECK(event->wd == wd && event->mask == mask, "event %#x of watch %d, not %#x of %d", event->mask, event->wd,
	      mask, wd);
	CHECK(!strcmp(event->len ? event->name : "", name), "event of %s", event->len ? event->name : "nothing");
}

static int make(const char *path)
{
	return MUST(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
}

static void files(void)
{
	char folder[PATH_MAX], inside[PATH_MAX + 16], path[PATH_MAX];
	snprintf(folder, sizeof folder, "%s", wl_path("watched"));
	snprintf(inside, sizeof inside, "%s/inside", folder);
	snprintf(path, sizeof path, "%s", wl_path("file"));
	MUST(mkdir(folder, 0700));
	int file = make(path);
	notify = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	int gap = MUST(inotify_add_watch(notify, "/", IN_UNMOUNT | IN_DELETE_SELF));
	int of_file = MUST(inotify_add_watch(notify, path, IN_MODIFY | IN_ATTRIB));
	int other_gap = MUST(inotify_add_watch(notify, "/tmp", IN_DELETE_SELF));
	int of_folder = MUST(inotify_add_watch(notify, folder, IN_CREATE | IN_DELETE | IN_EXCL_UNLINK | IN_ONLYDIR));
	MUST(inotify_rm_watch(notify, other_gap));
	expect(other_gap, IN_IGNORED, "");
	/* The file's own watch has a second instance whose events are left alone. */
	int second = MUST(inotify_init1(IN_CLOEXEC));
	MUST(inotify_add_watch(second, folder, IN_DELETE_SELF | IN_MOVE_SELF));
	MUST(inotify_rm_watch(notify, gap));
	expect(gap, IN_IGNORED, "");
	wl_ready();
	do {
		if (wl_sabotage("event"))
			MUST(fchmod(file, 0640));
		if (wl_sabotage("number"))
			of_folder++;
		CHECK(!next()->wd, "an event that nobody caused");
		MUST(pwrite(file, "x", 1, 0));
		expect(of_file, IN_MODIFY, "");
		close(make(inside));
		expect(of_folder, IN_CREATE, "inside");
		MUST(unlink(inside));
		expect(of_folder, IN_DELETE, "inside");
		CHECK(!next()->wd, "one event too many");
		wl_nap(WL_TICK_NS / 2);
	} while (wl_tick());
	/* The next number is one that nobody has had. */
	int fresh = MUST(inotify_add_watch(notify, "/", IN_DELETE_SELF));
	CHECK(fresh > of_folder, "a watch got the number %d again", fresh);
	MUST(rmdir(folder));
	MUST(unlink(path));
}

static void named(void)
{
	const char *path = wl_opt("file", "/etc/debian_version"), *folder = wl_opt("folder", "/etc");
	notify = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	int of_file = MUST(inotify_add_watch(notify, path, IN_OPEN));
	MUST(inotify_add_watch(notify, folder, IN_DELETE_SELF));
	wl_ready();
	do {
		CHECK(!next()->wd, "an event that nobody caused");
		if (!wl_sabotage("event"))
			close(MUST(open(path, O_RDONLY | O_CLOEXEC)));
		expect(of_file, IN_OPEN, "");
		wl_nap(WL_TICK_NS / 2);
	} while (wl_tick());
}

static void with_epoll(void)
{
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s", wl_path("file"));
	int file = make(path);
	volatile uint64_t *written = wl_shared(4096);
	notify = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	int watch = MUST(inotify_add_watch(notify, path, IN_MODIFY));
	int interest = MUST(epoll_create1(EPOLL_CLOEXEC));
	struct epoll_event wanted = { .events = EPOLLIN, .data.u64 = 0x1234567890 }, found;
	MUST(epoll_ctl(interest, EPOLL_CTL_ADD, notify, &wanted));
	int order[2];
	MUST(pipe(order));
	pid_t child = wl_fork();
	if (child == 0)
		for (char byte; read(order[0], &byte, 1) == 1; (*written)++)
			if (byte == 'w')
				MUST(pwrite(file, &byte, 1, 0));
	wl_ready();
	do {
		CHECK(epoll_wait(interest, &found, 1, 0) == 0, "an event that nobody caused");
		MUST(write(order[1], wl_sabotage("lost") ? "n" : "w", 1));
		int count;
		while ((count = epoll_wait(interest, &found, 1, 2000)) < 0 && errno == EINTR)
			;
		CHECK(count == 1 && found.data.u64 == wanted.data.u64, "no event within 2 s");
		expect(watch, IN_MODIFY, "");
		wl_nap(WL_TICK_NS / 2);
	} while (wl_tick());
	kill(child, SIGKILL);
	MUST(unlink(path));
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("files"))
		files();
	else if (wl_mode("named"))
		named();
	else if (wl_mode("epoll"))
		with_epoll();
	else
		wl_fail("--mode");
	return wl_done();
}

/* Message queues of POSIX.
 *
 * --mode queue: attributes, owner and mode, messages of several priorities that wait, flags of descriptors
 * --mode served: a child that waits in mq_receive, and a parent that waits for its answers by epoll
 */
#include "workload.h"
#include <mqueue.h>
#include <sys/epoll.h>

static char name[64], other[64];

static void put(mqd_t queue, const char *text, unsigned priority)
{
	CHECK(mq_send(queue, text, strlen(text), priority) == 0, "mq_send: %s", strerror(errno));
}

static void want(mqd_t queue, const char *text, unsigned priority)
{
	char buffer[200];
	unsigned found = 77;
	ssize_t length = mq_receive(queue, buffer, sizeof buffer, &found);
	CHECK(length >= 0, "mq_receive: %s", strerror(errno));
	CHECK((size_t)length == strlen(text) && !memcmp(buffer, text, (size_t)length) && found == priority,
	      "%.*s with %u instead of %s with %u", (int)length, buffer, found, text, priority);
}

static void fill(mqd_t queue)
{
	put(queue, "low", 0);
	put(queue, "high", 9);
	put(queue, "first", 5);
	put(queue, "", 5);
	put(queue, "last", 5);
}

static void queue(void)
{
	struct mq_attr attributes = { .mq_maxmsg = 7, .mq_msgsize = 200 };
	mqd_t both = mq_open(name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0640, &attributes);
	CHECK(both >= 0, "mq_open: %s", strerror(errno));
	mqd_t reader = mq_open(name, O_RDONLY), copy = dup(both);
	CHECK(reader >= 0 && copy >= 0, "mq_open: %s", strerror(errno));
	MUST(fchmod(both, 0600));
	fill(both);
	struct stat stat;
	wl_ready();
	for (bool more = true; more;) {
		if (wl_sabotage("order")) {
			want(both, "high", 9);
			put(both, "high", 1);
		}
		if (wl_sabotage("lost"))
			want(both, "high", 9);
		if (wl_sabotage("blocking")) {
			struct mq_attr block = { 0 };
			MUST(mq_setattr(copy, &block, NULL));
		}
		for (int64_t start = wl_now(); more && wl_now() - start < 20 * WL_MS; wl_nap(WL_MS))
			more = wl_tick();
		CHECK(mq_getattr(both, &attributes) == 0 && attributes.mq_flags == O_NONBLOCK, "flags %#lx", attributes.mq_flags);
		CHECK(attributes.mq_maxmsg == 7 && attributes.mq_msgsize == 200 && attributes.mq_curmsgs == 5,
		      "%ld messages of %ld, each of %ld", attributes.mq_curmsgs, attributes.mq_maxmsg, attributes.mq_msgsize);
		CHECK(mq_getattr(reader, &attributes) == 0 && attributes.mq_flags == 0, "flags %#lx", attributes.mq_flags);
		CHECK(mq_send(reader, "", 0, 0) == -1 && errno == EBADF, "the reader can write");
		MUST(fstat(reader, &stat));
		CHECK((stat.st_mode & 0777) == 0600, "mode %o", stat.st_mode);
		want(both, "high", 9);
		want(reader, "first", 5);
		want(reader, "", 5);
		want(reader, "last", 5);
		want(copy, "low", 0);
		fill(both);
	}
	MUST(mq_unlink(name));
}

static void served(void)
{
	struct mq_attr attributes = { .mq_maxmsg = 3, .mq_msgsize = 8 };
	mqd_t asked = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes);
	mqd_t answers = mq_open(other, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes);
	CHECK(asked >= 0 && answers >= 0, "mq_open: %s", strerror(errno));
	pid_t child = wl_fork();
	if (!child)
		for (uint64_t number;;) {
			CHECK(mq_receive(asked, (char *)&number, 8, NULL) == 8, "mq_receive: %s", strerror(errno));
			number = wl_mix(number);
			CHECK(mq_send(answers, (char *)&number, 8, 1) == 0, "mq_send: %s", strerror(errno));
		}
	int epoll = MUST(epoll_create1(0));
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 7 };
	MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, answers, &event));
	wl_ready();
	for (uint64_t round = 1, more = true, answer; more; round++) {
		for (int64_t start = wl_now(); more && wl_now() - start < 20 * WL_MS; wl_nap(WL_MS))
			more = wl_tick();
		if (wl_sabotage("stray"))
			MUST(mq_send(asked, (char *)&round, 8, 0));
		uint64_t asks = round;
		MUST(mq_send(asked, (char *)&asks, 8, 0));
		int ready;
		while ((ready = epoll_wait(epoll, &event, 1, 10000)) < 0)
			CHECK(errno == EINTR, "epoll_wait: %s", strerror(errno));
		CHECK(ready == 1 && event.data.u64 == 7, "no event of the answer");
		CHECK(mq_receive(answers, (char *)&answer, 8, NULL) == 8 && answer == wl_mix(round), "a wrong answer");
	}
	MUST(kill(child, SIGKILL));
	MUST(waitpid(child, NULL, 0));
	MUST(mq_unlink(name));
	MUST(mq_unlink(other));
}

/* A damaged program ends at once: somebody removes what it leaves in the node. */
static void clean_up_after_damage(void)
{
	int ends[2];
	char byte;
	if (!*wl_opt("sabotage", ""))
		return;
	MUST(pipe(ends));
	if (!MUST(fork())) {
		close(ends[1]);
		while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
			;
		mq_unlink(name);
		mq_unlink(other);
		_exit(0);
	}
	close(ends[0]);
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	snprintf(name, sizeof name, "/mig-%d", (int)getpid());
	snprintf(other, sizeof other, "/mig-%d-answers", (int)getpid());
	clean_up_after_damage();
	if (wl_mode("queue"))
		queue();
	else
		served();
	return wl_done();
}

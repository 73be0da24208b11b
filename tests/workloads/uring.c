/* io_uring: rings in which nothing goes on when they are moved.
 *
 * --mode idle: requests between the moves; answers wait to be seen. --flags IORING_SETUP_*.
 * --mode wait: a thread waits for an answer, another one makes a request now and then.
 */
#include "workload.h"

#include <linux/io_uring.h>
#include <pthread.h>
#include <sys/epoll.h>

#define NO_SQARRAY (1u << 16)

static struct io_uring_params params;
static int ring, ends[2], epoll;
static uint8_t *queues;
static struct io_uring_sqe *entries;
static uint64_t asked, answered;

static _Atomic uint32_t *counter(uint32_t offset)
{
	return (_Atomic uint32_t *)(queues + offset);
}

static void make(uint32_t flags)
{
	params.flags = flags;
	ring = (int)MUST(syscall(SYS_io_uring_setup, 8, &params));
	size_t array = params.sq_off.array + params.sq_entries * 4;
	size_t completions = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	size_t bytes = flags & NO_SQARRAY || array < completions ? completions : array;
	queues = MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING));
	entries = MUST(mmap(NULL, params.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
			    ring, IORING_OFF_SQES));
	MUST(fcntl(ring, F_SETFD, FD_CLOEXEC));
}

static void ask(uint8_t opcode, void *buffer, uint32_t bytes)
{
	_Atomic uint32_t *tail = counter(params.sq_off.tail);
	uint32_t mask = params.sq_entries - 1, place = *tail & mask;
	struct io_uring_sqe entry = { .opcode = opcode, .fd = ends[opcode == IORING_OP_WRITE],
				      .addr = (uintptr_t)buffer, .len = bytes, .user_data = wl_mix(asked++) };
	/* Not the nth entry, where the program may choose. */
	uint32_t index = params.flags & NO_SQARRAY ? place : (place + 3) & mask;
	entries[index] = entry;
	if (!(params.flags & NO_SQARRAY))
		*(uint32_t *)(queues + params.sq_off.array + place * 4) = index;
	++*tail;
	long taken = syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0);
	CHECK(taken == 1, "io_uring_enter takes %ld: %s", taken, strerror(errno));
}

/* The next answer; what the requests return is looked at by the caller. */
static int32_t reap(void)
{
	_Atomic uint32_t *head = counter(params.cq_off.head), *tail = counter(params.cq_off.tail);
	CHECK(*head != *tail, "answer %ld is missing", (long)answered);
	struct io_uring_cqe *answer = (struct io_uring_cqe *)(queues + params.cq_off.cqes) + (*head & (params.cq_entries - 1));
	CHECK(answer->user_data == wl_mix(answered), "not answer %ld, but %#llx", (long)answered, answer->user_data);
	answered++;
	int32_t result = answer->res;
	++*head;
	return result;
}

static void set_idle(void)
{
	make((uint32_t)wl_num("flags", 0));
	for (size_t i = 0; i < 1000; i++)
		ask(IORING_OP_NOP, NULL, 0), reap();
	/* Three that are not seen before the end of the next look. */
	for (size_t i = 0; i < 3; i++)
		ask(IORING_OP_NOP, NULL, 0);
	MUST(pipe2(ends, O_CLOEXEC));
	epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 5 };
	MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, ring, &event));
}

static void see_idle(void)
{
	static uint64_t number;
	struct epoll_event event;
	uint64_t out = wl_mix(++number), in = 0;
	if (wl_sabotage("answer"))
		++*counter(params.cq_off.head);
	if (wl_sabotage("tail"))
		--*counter(params.sq_off.tail);
	CHECK(epoll_wait(epoll, &event, 1, 0) == 1 && event.data.u64 == 5, "epoll sees no answer");
	for (size_t i = 0; i < 3; i++)
		CHECK(reap() == 0, "a request that does nothing fails");
	ask(IORING_OP_WRITE, &out, sizeof out);
	CHECK(reap() == sizeof out, "a write fails");
	ask(IORING_OP_READ, &in, sizeof in);
	CHECK(reap() == sizeof in && in == out, "a read fails");
	CHECK(epoll_wait(epoll, &event, 1, 0) == 0, "epoll sees an answer");
	for (size_t i = 0; i < 3; i++)
		ask(IORING_OP_NOP, NULL, 0);
}

static _Atomic uint64_t beats;

static void *wait_for_answers(void *unused)
{
	(void)unused;
	for (;;) {
		long found = syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
		CHECK(found >= 0 && !wl_sabotage("eintr"), "io_uring_enter: %s", strerror(errno));
		reap();
		beats++;
	}
	return NULL;
}

static void set_wait(void)
{
	pthread_t thread;
	make(0);
	pthread_create(&thread, NULL, wait_for_answers, NULL);
}

static void see_wait(void)
{
	uint64_t before = beats;
	int64_t since = wl_now();
	ask(IORING_OP_NOP, NULL, 0);
	while (beats == before) {
		CHECK(wl_now() - since < 20 * WL_SEC, "the answer does not come");
		wl_nap(WL_MS / 10);
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	bool idle = wl_mode("idle");
	(idle ? set_idle : set_wait)();
	wl_ready();
	do {
		(idle ? see_idle : see_wait)();
		wl_nap(WL_MS);
	} while (wl_tick());
	(idle ? see_idle : see_wait)();
	return wl_done();
}

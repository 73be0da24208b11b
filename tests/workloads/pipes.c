/* Pipes and FIFOs with bytes in them.
 *
 * Bytes stay in the pipe for a while, are read and compared, and put in anew.
 * --mode contents: a few bytes in many pipes, some half read
 * --mode full: a pipe that takes no more, and one enlarged to 1 MiB
 * --mode packets: O_DIRECT keeps writes apart
 * --mode closed: the other end is gone: contents, then the end; EPIPE
 * --mode fifo: a FIFO with contents, opened at both ends
 * --mode passed: both ends, in a parent and in its children
 */
#include "workload.h"

#define HOLD (40 * WL_MS)
enum { PIPES = 20 };

/* The contents stay where they are for a while; false when it is time to end. */
static bool hold(void)
{
	bool more = true;
	for (int64_t start = wl_now(); more && wl_now() - start < HOLD; wl_nap(WL_MS))
		more = wl_tick();
	return more;
}

static void put(int fd, size_t length, uint64_t seed)
{
	static uint64_t words[1 << 17];
	wl_fill(words, (length + 7) & ~7ul, seed);
	CHECK(write(fd, words, length) == (ssize_t)length, "write of %zu: %s", length, strerror(errno));
}

static void take(int fd, size_t skip, size_t length, uint64_t seed)
{
	static uint64_t words[1 << 17];
	static uint8_t bytes[1 << 20];
	size_t done = 0;
	wl_fill(words, (skip + length + 7) & ~7ul, seed);
	while (done < length) {
		ssize_t n = read(fd, bytes + done, length - done);
		CHECK(n > 0, "%zu bytes of %zu, then %s", done, length, n ? strerror(errno) : "the end");
		done += (size_t)n;
	}
	CHECK(!memcmp((uint8_t *)words + skip, bytes, length), "contents of a pipe");
}

static void want_empty(int fd)
{
	char byte;
	CHECK(read(fd, &byte, 1) == -1 && errno == EAGAIN, "there is more in the pipe");
}

static void contents(void)
{
	int pipes[PIPES][2];
	for (int i = 0; i < PIPES; i++)
		MUST(pipe2(pipes[i], i % 2 ? O_NONBLOCK : O_NONBLOCK | O_CLOEXEC));
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed += PIPES) {
		for (int i = 0; i < PIPES; i++) {
			size_t length = wl_mix(seed + i) % 3000;
			/* Two writes share the first page; half of it has been read. */
			put(pipes[i][1], length, seed + i);
			put(pipes[i][1], 100 * i, ~(seed + i));
			take(pipes[i][0], 0, length / 2, seed + i);
		}
		if (wl_sabotage("lost"))
			take(pipes[7][0], 0, 1, 0x13579);
		if (wl_sabotage("more"))
			put(pipes[7][1], 1, 1);
		more = hold();
		for (int i = 0; i < PIPES; i++) {
			size_t length = wl_mix(seed + i) % 3000;
			take(pipes[i][0], length / 2, length - length / 2, seed + i);
			take(pipes[i][0], 0, 100 * i, ~(seed + i));
			want_empty(pipes[i][0]);
		}
	}
}

static void full(void)
{
	int small[2], large[2];
	MUST(pipe2(small, O_NONBLOCK));
	MUST(pipe2(large, O_NONBLOCK));
	int size = MUST(fcntl(large[1], F_SETPIPE_SZ, 1 << 20));
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		put(small[1], 65536, seed);
		put(large[1], (size_t)size, seed);
		if (wl_sabotage("room"))
			MUST(fcntl(small[1], F_SETPIPE_SZ, 1 << 18));
		more = hold();
		CHECK(write(small[1], "", 1) == -1 && errno == EAGAIN, "a full pipe takes more");
		CHECK(write(large[1], "", 1) == -1 && errno == EAGAIN, "a full large pipe takes more");
		CHECK(fcntl(large[0], F_GETPIPE_SZ) == size && fcntl(small[0], F_GETPIPE_SZ) == 65536, "sizes of pipes");
		take(small[0], 0, 65536, seed);
		take(large[0], 0, (size_t)size, seed);
		want_empty(small[0]);
		want_empty(large[0]);
	}
}

static void packets(void)
{
	int ends[2];
	uint8_t bytes[4096], wanted[4096];
	MUST(pipe2(ends, O_DIRECT | O_NONBLOCK));
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		for (int i = 1; i <= 10; i++)
			put(ends[1], 8 * i, seed + i);
		if (wl_sabotage("merged"))
			fcntl(ends[1], F_SETFL, O_NONBLOCK), put(ends[1], 8, seed + 11), put(ends[1], 8, seed + 11);
		more = hold();
		for (int i = 1; i <= 10; i++) {
			ssize_t n = read(ends[0], bytes, sizeof bytes);
			wl_fill(wanted, sizeof wanted, seed + i);
			CHECK(n == 8 * i && !memcmp(bytes, wanted, 8 * i), "packet %d has %zd bytes", i, n);
		}
		want_empty(ends[0]);
		CHECK(fcntl(ends[1], F_GETFL) & O_DIRECT, "O_DIRECT is gone");
	}
}

static void closed(void)
{
	char byte;
	signal(SIGPIPE, SIG_IGN);
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		int ended[2], broken[2];
		MUST(pipe2(ended, O_NONBLOCK));
		MUST(pipe2(broken, O_NONBLOCK));
		put(ended[1], 1000, seed);
		if (!wl_sabotage("open"))
			close(ended[1]);
		close(broken[0]);
		more = hold();
		take(ended[0], 0, 1000, seed);
		CHECK(read(ended[0], &byte, 1) == 0, "no end of a pipe without writers");
		CHECK(write(broken[1], "", 1) == -1 && errno == EPIPE, "no EPIPE from a pipe without readers");
		close(ended[0]);
		close(broken[1]);
	}
}

static void fifo(void)
{
	const char *path = wl_path("fifo");
	MUST(mkfifo(path, 0600));
	int reader = MUST(open(path, O_RDONLY | O_NONBLOCK)), writer = MUST(open(path, O_WRONLY));
	int both = MUST(open(path, O_RDWR | O_NONBLOCK));
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		put(writer, 5000, seed);
		put(both, 500, ~seed);
		if (wl_sabotage("lost"))
			take(reader, 0, 8, seed);
		more = hold();
		take(seed % 2 ? reader : both, 0, 5000, seed);
		take(reader, 0, 500, ~seed);
		want_empty(both);
		/* The name still leads to it. */
		int again = MUST(open(path, O_WRONLY | O_NONBLOCK));
		put(again, 8, seed);
		close(again);
		take(reader, 0, 8, seed);
	}
	unlink(path);
}

/* Three children read what the parent writes and pass it on, each with a wait in between. */
static void passed(void)
{
	enum { LINKS = 4 };
	int link[LINKS][2];
	uint64_t word;
	for (int i = 0; i < LINKS; i++)
		MUST(pipe(link[i]));
	for (int i = 0; i + 1 < LINKS; i++) {
		if (wl_fork())
			continue;
		for (int j = 0; j < LINKS; j++) {
			if (j != i)
				close(link[j][0]);
			if (j != i + 1)
				close(link[j][1]);
		}
		for (uint64_t wanted = 0;; wanted++) {
			ssize_t n = read(link[i][0], &word, 8);
			if (n == 0)
				_exit(0);
			CHECK(n == 8 && word == wl_mix(wanted), "child %d: word %llu", i, (unsigned long long)wanted);
			if (wanted == 200 && !strcmp(wl_opt("sabotage", ""), "order"))
				word++;
			CHECK(write(link[i + 1][1], &word, 8) == 8, "write: %s", strerror(errno));
		}
	}
	close(link[0][0]);
	for (int i = 1; i < LINKS; i++)
		close(link[i][1]);
	wl_ready();
	uint64_t sent = 0, got = 0;
	while (wl_tick()) {
		/* Some are always on their way. */
		for (; sent < got + 20; sent++) {
			word = wl_mix(sent);
			CHECK(write(link[0][1], &word, 8) == 8, "write: %s", strerror(errno));
		}
		CHECK(read(link[LINKS - 1][0], &word, 8) == 8 && word == wl_mix(got), "word %llu is wrong",
		      (unsigned long long)got);
		got++;
		wl_nap(200000);
	}
	/* The end travels through all of them. */
	close(link[0][1]);
	for (; read(link[LINKS - 1][0], &word, 8) == 8; got++)
		CHECK(word == wl_mix(got), "word %llu is wrong", (unsigned long long)got);
	CHECK(got == sent, "%llu words of %llu", (unsigned long long)got, (unsigned long long)sent);
	int status;
	for (int i = 0; i + 1 < LINKS; i++)
		CHECK(wait(&status) > 0 && status == 0, "a child ended with %#x", status);
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("contents"))
		contents();
	else if (wl_mode("full"))
		full();
	else if (wl_mode("packets"))
		packets();
	else if (wl_mode("closed"))
		closed();
	else if (wl_mode("fifo"))
		fifo();
	else if (wl_mode("passed"))
		passed();
	else
		wl_fail("unknown mode");
	return wl_done();
}

/* Programs whose state is always changing: a move finds them in the middle of it.
 *
 * --mode fork: children and grandchildren that come and go, with their statuses
 * --mode exec: vfork and exec of this very program
 * --mode threads: threads that come and go
 * --mode memory: random mmap, munmap, mremap, mprotect, madvise, with a shadow copy
 * --mode pingpong: two processes that answer each other through pipes
 * --mode signals: two processes that answer each other by real-time signals
 * --mode log: --count (default 3) processes that append numbered lines to one file
 */
#include "workload.h"
#include <pthread.h>

static uint64_t rounds = 1;

static int await(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		CHECK(errno == EINTR, "wait for %d: %s", pid, strerror(errno));
	return status;
}

static void forks(void)
{
	enum { AT_ONCE = 6 };
	wl_ready();
	for (; wl_tick(); rounds++) {
		pid_t pid[AT_ONCE];
		for (int i = 0; i < AT_ONCE; i++) {
			uint64_t local[32], seed = rounds * AT_ONCE + (uint64_t)i;
			wl_fill(local, sizeof local, seed);
			if ((pid[i] = wl_fork()))
				continue;
			if (seed % 3 == 0) {
				pid_t below = wl_fork();
				if (!below)
					_exit((int)(seed % 251));
				CHECK(await(below) == (int)(seed % 251) << 8, "status of a grandchild");
			}
			if (seed % 4 == 0)
				wl_nap((int64_t)(seed % 3) * WL_MS);
			CHECK(wl_compare(local, sizeof local, seed) < 0, "the stack of a child");
			CHECK(getppid() != getpid() && getpid() != 1, "IDs of a child");
			_exit((int)(seed % 256));
		}
		/* Not in the order of their birth. */
		for (int i = AT_ONCE - 1; i >= 0; i--) {
			int wanted = (int)((rounds * AT_ONCE + (uint64_t)i + !!wl_sabotage("status")) % 256) << 8;
			int status = await(pid[i]);
			CHECK(status == wanted, "status %#x of a child, not %#x", status, wanted);
		}
	}
	CHECK(wait(NULL) == -1 && errno == ECHILD, "a child too many");
}

static void execs(void)
{
	char code[16], program[PATH_MAX] = "";
	MUST(readlink("/proc/self/exe", program, sizeof program - 1));
	wl_ready();
	for (; wl_tick(); rounds++) {
		snprintf(code, sizeof code, "%d", (int)(rounds % 256));
		char *const arguments[] = { program, "--mode", "exit", "--code", code, NULL };
		pid_t pid = vfork();
		if (pid == 0) {
			execv(program, arguments);
			_exit(99);
		}
		CHECK(pid > 0, "vfork: %s", strerror(errno));
		int wanted = (int)((rounds + !!wl_sabotage("status")) % 256) << 8, status = await(pid);
		CHECK(status == wanted, "status %#x of an executed program, not %#x", status, wanted);
	}
}

static uint64_t done;

static void *one_thread(void *seed)
{
	uint64_t local[32];
	wl_fill(local, sizeof local, (uintptr_t)seed);
	if ((uintptr_t)seed % 3 == 0)
		wl_nap(WL_MS / 2);
	CHECK(wl_compare(local, sizeof local, (uintptr_t)seed) < 0, "the stack of a thread");
	if (!(wl_sabotage("count") && (uintptr_t)seed % 8 == 0))
		__atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
	return seed;
}

static void thread_loop(void)
{
	enum { AT_ONCE = 8 };
	wl_ready();
	for (; wl_tick(); rounds++) {
		pthread_t thread[AT_ONCE];
		void *value;
		for (uintptr_t i = 0; i < AT_ONCE; i++)
			CHECK(!pthread_create(&thread[i], NULL, one_thread, (void *)(rounds * AT_ONCE + i)), "no thread");
		for (uintptr_t i = 0; i < AT_ONCE; i++) {
			CHECK(!pthread_join(thread[i], &value), "join");
			CHECK(value == (void *)(rounds * AT_ONCE + i), "value of a thread");
		}
		CHECK(done == rounds * AT_ONCE, "%llu threads of %llu", (unsigned long long)done,
		      (unsigned long long)rounds * AT_ONCE);
	}
}

#define PAGE 4096ul
enum { SLOTS = 64, PAGES = 32 };
/* What each page holds: 0 for zeroes, else the seed; and whether it can be written. */
static struct slot {
	uint8_t *at;
	size_t pages;
	uint64_t seed[PAGES];
	bool writable[PAGES];
} slots[SLOTS];

static void check_slot(struct slot *slot)
{
	static const uint8_t zeroes[PAGE];
	for (size_t page = 0; page < slot->pages; page++) {
		uint8_t *at = slot->at + page * PAGE;
		bool good = slot->seed[page] ? wl_compare(at, PAGE, slot->seed[page]) < 0 : !memcmp(at, zeroes, PAGE);
		CHECK(good, "page %zu of %zu at %p", page, slot->pages, (void *)at);
	}
}

static void fill_page(struct slot *slot, size_t page, uint64_t seed)
{
	if (!slot->writable[page])
		return;
	slot->seed[page] = seed | 1;
	wl_fill(slot->at + page * PAGE, PAGE, seed | 1);
}

static void resize(struct slot *slot, size_t pages)
{
	size_t old = slot->pages;
	MUST(mprotect(slot->at, old * PAGE, PROT_READ | PROT_WRITE));
	memset(slot->writable, true, sizeof slot->writable);
	void *moved = mremap(slot->at, old * PAGE, pages * PAGE, MREMAP_MAYMOVE);
	if (moved == MAP_FAILED) {
		/* It works on one mapping, and pieces first written apart do not join again. */
		CHECK(errno == EFAULT, "mremap: %s", strerror(errno));
		return;
	}
	slot->at = moved;
	slot->pages = pages;
	for (size_t page = old; page < pages; page++)
		slot->seed[page] = 0;
}

static void walk_step(struct slot *slot, uint64_t random)
{
	size_t page = slot->pages ? random / 8 % slot->pages : 0, pages = random / 64 % PAGES + 1;
	if (!slot->at) {
		*slot = (struct slot){ .pages = pages };
		slot->at = MUST(mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		memset(slot->writable, true, sizeof slot->writable);
		return;
	}
	check_slot(slot);
	switch (random % 8) {
	case 0:
		MUST(munmap(slot->at, slot->pages * PAGE));
		slot->at = NULL;
		break;
	case 1:
		resize(slot, pages);
		break;
	case 2:
		slot->writable[page] = !slot->writable[page];
		MUST(mprotect(slot->at + page * PAGE, PAGE, slot->writable[page] ? PROT_READ | PROT_WRITE : PROT_READ));
		break;
	case 3:
		MUST(madvise(slot->at + page * PAGE, PAGE, MADV_DONTNEED));
		slot->seed[page] = 0;
		break;
	default:
		fill_page(slot, page, random);
	}
}

static void walk(void)
{
	wl_ready();
	for (; wl_tick(); rounds++) {
		walk_step(&slots[wl_mix(rounds) % SLOTS], wl_mix(~rounds));
		for (int i = 0; wl_sabotage("page") && i < SLOTS; i++)
			if (slots[i].at)
				MUST(madvise(slots[i].at, PAGE, MADV_DONTNEED)), slots[i].seed[0] = 3;
	}
	for (int i = 0; i < SLOTS; i++)
		if (slots[i].at)
			check_slot(&slots[i]);
}

static bool answering;

static void transfer(int fd, void *area, size_t bytes, bool writing)
{
	for (size_t done = 0; done < bytes;) {
		uint8_t *at = (uint8_t *)area + done;
		ssize_t n = writing ? write(fd, at, bytes - done) : read(fd, at, bytes - done);
		/* Only the first process closes its ends in peace. */
		if (n == 0 && answering)
			_exit(0);
		CHECK(n > 0, "%s: %s", writing ? "write" : "read", n ? strerror(errno) : "the other side is gone");
		done += (size_t)n;
	}
}

/* Each side knows what the other sends, up to more than a pipe holds. */
static void pingpong(void)
{
	enum { MOST = 200000 };
	static uint64_t words[MOST / 8 + 1];
	int there[2], back[2];
	MUST(pipe(there));
	MUST(pipe(back));
	pid_t child = wl_fork();
	close(child ? there[0] : there[1]);
	close(child ? back[1] : back[0]);
	answering = !child;
	signal(SIGPIPE, SIG_IGN);
	if (child)
		wl_ready();
	for (; !child || wl_tick(); rounds++) {
		size_t bytes = (rounds % 16 ? wl_mix(rounds) % 4096 : wl_mix(rounds) % MOST) & ~7ull;
		bytes += 8;
		if (child) {
			wl_fill(words, bytes, rounds);
			if (wl_sabotage("word"))
				words[bytes / 16]++;
			transfer(there[1], words, bytes, true);
			transfer(back[0], words, bytes, false);
			CHECK(wl_compare(words, bytes, ~rounds) < 0, "answer %llu", (unsigned long long)rounds);
		} else {
			transfer(there[0], words, bytes, false);
			CHECK(wl_compare(words, bytes, rounds) < 0, "question %llu", (unsigned long long)rounds);
			wl_fill(words, bytes, ~rounds);
			transfer(back[1], words, bytes, true);
		}
	}
	close(there[1]);
	CHECK(await(child) == 0, "the other side failed");
}

static volatile int last_value;

static void on_ball(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	CHECK(info->si_code == SI_QUEUE, "code %d", info->si_code);
	CHECK(info->si_value.sival_int == last_value + 1, "value %d after %d", info->si_value.sival_int, last_value);
	last_value++;
}

/* Each of the two has several in the air; each answers every one of them. */
static void storm(void)
{
	enum { AHEAD = 30 };
	struct sigaction action = { .sa_sigaction = on_ball, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigset_t ball, none;
	sigemptyset(&none);
	sigemptyset(&ball);
	sigaddset(&ball, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &ball, NULL);
	sigaction(SIGRTMIN, &action, NULL);
	pid_t parent = getpid(), child = wl_fork(), other = child ? child : parent;
	int sent = 0;
	if (child)
		wl_ready();
	int64_t heard = wl_now();
	while (child ? wl_tick() : true) {
		while (sent < last_value + AHEAD) {
			if (sigqueue(other, SIGRTMIN, (union sigval){ .sival_int = sent + 1 + !!(child && wl_sabotage("lost")) }))
				break;
			sent++;
		}
		int before = last_value;
		struct timespec moment = { 0, 20 * WL_MS };
		/* Handlers run in here only. */
		ppoll(NULL, 0, &moment, &none);
		if (last_value != before)
			heard = wl_now();
		CHECK(wl_now() - heard < 5 * WL_SEC, "no signal after number %d", last_value);
	}
	kill(child, SIGKILL);
	CHECK(await(child) == SIGKILL, "the other side failed");
}

static void writer(int log, long me, const int *end)
{
	char line[64];
	for (uint64_t n = 0; !__atomic_load_n(end, __ATOMIC_SEQ_CST); n++) {
		if (n == 100 && me == 0 && !strcmp(wl_opt("sabotage", ""), "gap"))
			n++;
		int length = snprintf(line, sizeof line, "%ld %llu %016llx\n", me, (unsigned long long)n,
				      (unsigned long long)wl_mix(n));
		CHECK(write(log, line, (size_t)length) == length, "write: %s", strerror(errno));
		if (n % 8 == 0)
			wl_nap(WL_MS);
	}
	_exit(0);
}

/* Reads on from where it stopped; every line must be the next one of its writer. */
static void check_log(FILE *log, uint64_t next[])
{
	char line[64];
	for (;;) {
		long at = ftell(log);
		if (!fgets(line, sizeof line, log) || line[strlen(line) - 1] != '\n') {
			/* The end, or a line that is being written. */
			clearerr(log);
			MUST(fseek(log, at, SEEK_SET));
			return;
		}
		long who;
		unsigned long long n, mixed;
		CHECK(sscanf(line, "%ld %llu %llx", &who, &n, &mixed) == 3 && who >= 0 && who < 16, "line %s", line);
		CHECK(n == next[who] && mixed == wl_mix(n), "writer %ld: line %llu instead of %llu", who, n,
		      (unsigned long long)next[who]);
		next[who]++;
	}
}

static void log_lines(void)
{
	long count = wl_num("count", 3);
	uint64_t next[16] = { 0 };
	int *end = wl_shared(PAGE);
	pid_t pid[16];
	CHECK(count <= 16, "too many writers");
	int log = MUST(open(wl_path("log"), O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0600));
	FILE *reading = fopen(wl_path("log"), "re");
	CHECK(reading, "fopen: %s", strerror(errno));
	for (long i = 0; i < count; i++)
		if (!(pid[i] = wl_fork()))
			writer(log, i, end);
	wl_ready();
	while (wl_tick()) {
		check_log(reading, next);
		wl_nap(WL_MS);
	}
	__atomic_store_n(end, 1, __ATOMIC_SEQ_CST);
	for (long i = 0; i < count; i++)
		CHECK(await(pid[i]) == 0, "writer %ld failed", i);
	check_log(reading, next);
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("exit"))
		return (int)wl_num("code", 98);
	else if (wl_mode("fork"))
		forks();
	else if (wl_mode("exec"))
		execs();
	else if (wl_mode("threads"))
		thread_loop();
	else if (wl_mode("memory"))
		walk();
	else if (wl_mode("pingpong"))
		pingpong();
	else if (wl_mode("signals"))
		storm();
	else if (wl_mode("log"))
		log_lines();
	else
		wl_fail("unknown mode");
	return wl_done();
}

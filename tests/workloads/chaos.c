/* Programs that never rest: whatever a move finds, it finds in the middle of it.
 *
 * --mode memory: --size-mb (default 48) of memory of four kinds (plain, views of a file, huge pages as advice, the
 *   heap) that is written, given back, protected, moved, mapped over and (--forks, default 1) forked, against a
 *   shadow copy
 * --mode tasks: threads and processes that come and go, and signals that each thread queues to itself
 * --mode files: files that are made, read, renamed and removed; connections that are made and closed
 * --mode all: all of it in one process
 */
#include "workload.h"
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#define PAGE 4096ul
#define HUGE (2ul << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static volatile sig_atomic_t over;

static bool goes_on(void)
{
	return !__atomic_load_n(&over, __ATOMIC_SEQ_CST);
}

static int await(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		CHECK(errno == EINTR, "wait for %d: %s", pid, strerror(errno));
	return status;
}

/* --- memory ------------------------------------------------------------------------------- */

enum kind { PLAIN, VIEW, ADVISED };
/* What each page holds: 0 for what it had at first, else the seed. */
struct area {
	enum kind kind;
	uint8_t *at;
	size_t pages;
	uint64_t *seed;
	bool *writable;
};
enum { VIEW_PAGES = 256, AREAS = 24, MOST = 1024 };
static int viewed = -1;

/* The file behind the views: each page has its own words. */
static void make_file(void)
{
	static uint8_t page[PAGE];
	const char *path = wl_path("view");
	viewed = MUST(open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	for (size_t i = 0; i < VIEW_PAGES; i++) {
		wl_fill(page, PAGE, i << 20);
		CHECK(write(viewed, page, PAGE) == PAGE, "write: %s", strerror(errno));
	}
}

static void check_page(const struct area *area, size_t page, const char *when)
{
	static const uint8_t zeroes[PAGE];
	const uint8_t *at = area->at + page * PAGE;
	bool good;
	if (area->seed[page])
		good = wl_compare(at, PAGE, area->seed[page]) < 0;
	else if (area->kind == VIEW)
		good = wl_compare(at, PAGE, (uint64_t)page << 20) < 0;
	else
		good = !memcmp(at, zeroes, PAGE);
	CHECK(good, "%s: page %zu of %zu at %p, kind %d, seed %llx: first word %llx", when, page, area->pages,
	      (const void *)at, area->kind, (unsigned long long)area->seed[page],
	      (unsigned long long)*(const uint64_t *)at);
}

static void check_area(const struct area *area, const char *when)
{
	for (size_t page = 0; area->at && page < area->pages; page++)
		check_page(area, page, when);
}

static void map_area(struct area *area, uint64_t random)
{
	area->pages = area->kind == VIEW ? VIEW_PAGES : area->kind == ADVISED ? MOST : random % MOST + 1;
	memset(area->seed, 0, MOST * sizeof *area->seed);
	memset(area->writable, true, MOST);
	int flags = MAP_PRIVATE | (area->kind == VIEW ? 0 : MAP_ANONYMOUS), file = area->kind == VIEW ? viewed : -1;
	if (area->kind != ADVISED) {
		area->at = MUST(mmap(NULL, area->pages * PAGE, PROT_READ | PROT_WRITE, flags, file, 0));
		return;
	}
	size_t bytes = MOST * PAGE;
	uint8_t *wide = MUST(mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, flags, -1, 0));
	size_t before = -(uintptr_t)wide % HUGE;
	if (before)
		MUST(munmap(wide, before));
	if (HUGE - before)
		MUST(munmap(wide + before + bytes, HUGE - before));
	area->at = wide + before;
	/* Not every kernel has them. */
	madvise(area->at, bytes, MADV_HUGEPAGE);
}

static void write_page(struct area *area, size_t page, uint64_t seed)
{
	if (!area->writable[page])
		return;
	area->seed[page] = seed | 1;
	wl_fill(area->at + page * PAGE, PAGE, seed | 1);
}

static void move_area(struct area *area, size_t pages)
{
	size_t old = area->pages;
	MUST(mprotect(area->at, old * PAGE, PROT_READ | PROT_WRITE));
	memset(area->writable, true, MOST);
	void *moved = mremap(area->at, old * PAGE, pages * PAGE, MREMAP_MAYMOVE);
	if (moved == MAP_FAILED) {
		/* It works on one mapping, and pieces first written apart do not join again. */
		CHECK(errno == EFAULT, "mremap: %s", strerror(errno));
		return;
	}
	area->at = moved;
	area->pages = pages;
	for (size_t page = old; page < pages; page++)
		area->seed[page] = 0;
}

/* Moves the contents away, and leaves zeroes in their place. */
static void swap_out(struct area *area)
{
	size_t bytes = area->pages * PAGE;
	MUST(mprotect(area->at, bytes, PROT_READ | PROT_WRITE));
	memset(area->writable, true, MOST);
	void *moved = mremap(area->at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (moved == MAP_FAILED) {
		CHECK(errno == EFAULT || errno == EINVAL, "mremap: %s", strerror(errno));
		return;
	}
	const struct area away = { area->kind, moved, area->pages, area->seed, area->writable };
	check_area(&away, "moved away");
	memset(area->seed, 0, MOST * sizeof *area->seed);
	check_page(area, area->pages / 2, "moved from");
	MUST(munmap(moved, bytes));
}

/* A child sees what there was, whatever the parent does meanwhile. */
static pid_t fork_off(const struct area *area, pid_t before)
{
	if (before > 0)
		CHECK(await(before) == 0, "a child that looks at its memory");
	pid_t pid = wl_fork();
	if (!pid) {
		check_area(area, "in a child");
		_exit(0);
	}
	return pid;
}

static void step(struct area *area, pid_t *child, uint64_t random)
{
	if (!area->at) {
		map_area(area, random);
		return;
	}
	size_t page = random / 64 % area->pages, count = random / 65536 % 16 + 1, pages = random / 4096 % MOST + 1;
	count = page + count > area->pages ? area->pages - page : count;
	uint8_t *at = area->at + page * PAGE;
	check_page(area, page, "before a step");
	switch (random % 64) {
	case 0:
		check_area(area, "before munmap");
		MUST(munmap(area->at, area->pages * PAGE));
		area->at = NULL;
		break;
	case 1:
		if (area->kind == PLAIN)
			move_area(area, pages);
		break;
	case 2:
		if (area->kind == PLAIN)
			swap_out(area);
		break;
	case 3:
		if (wl_num("forks", 1))
			*child = fork_off(area, *child);
		break;
	case 4:
		/* Another mapping where one was. */
		if (area->kind == PLAIN) {
			int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
			MUST(mmap(at, count * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
			memset(area->seed + page, 0, count * sizeof *area->seed);
			memset(area->writable + page, true, count);
		}
		break;
	case 5:
		area->writable[page] = !area->writable[page];
		MUST(mprotect(at, PAGE, area->writable[page] ? PROT_READ | PROT_WRITE : PROT_READ));
		break;
	case 6:
		MUST(mprotect(at, count * PAGE, PROT_NONE));
		MUST(mprotect(at, count * PAGE, PROT_READ | PROT_WRITE));
		memset(area->writable + page, true, count);
		break;
	case 7:
		/* What these do, nobody sees; not every kernel can. */
		madvise(area->at, area->pages * PAGE, random & 1024 ? MADV_PAGEOUT : MADV_COLLAPSE);
		break;
	case 8 ... 17:
		MUST(madvise(at, count * PAGE, MADV_DONTNEED));
		memset(area->seed + page, 0, count * sizeof *area->seed);
		if (random & 1024)
			check_page(area, page, "given back");
		break;
	case 18 ... 21:
		/* Written by the kernel. */
		if (area->writable[page]) {
			CHECK(pread(viewed, at, PAGE, 7 * PAGE) == PAGE, "pread: %s", strerror(errno));
			area->seed[page] = 7 << 20;
		}
		break;
	default:
		write_page(area, page, random);
	}
}

/* The end of the heap moves to and fro. */
static void step_heap(uint64_t random)
{
	static uint8_t *start;
	static size_t pages;
	enum { HEAP = 2048 };
	if (!start) {
		start = MUST(sbrk(0));
		start += -(uintptr_t)start % PAGE;
	}
	size_t wanted = random % HEAP;
	CHECK(sbrk(0) == start + pages * PAGE || !pages, "the end of the heap");
	MUST(brk(start + wanted * PAGE));
	for (size_t page = 0; page < wanted; page++) {
		uint64_t *word = (uint64_t *)(start + page * PAGE) + page % 512;
		CHECK(*word == (page < pages ? wl_mix(page) : 0), "page %zu of the heap: %llx", page,
		      (unsigned long long)*word);
		*word = wl_mix(page);
	}
	pages = wanted;
}

static void *memory(void *main_thread)
{
	static uint64_t seed;
	uint64_t random = wl_mix(__atomic_add_fetch(&seed, 1, __ATOMIC_SEQ_CST) + (uint64_t)getpid() * 1000);
	size_t count = (size_t)wl_num("size-mb", 48) * 256 / MOST * 2;
	count = count < 3 ? 3 : count > AREAS ? AREAS : count;
	struct area *areas = calloc(count, sizeof *areas);
	for (size_t i = 0; i < count; i++) {
		areas[i].kind = (enum kind)(i % 3);
		areas[i].seed = calloc(MOST, sizeof *areas[i].seed);
		areas[i].writable = calloc(MOST, sizeof *areas[i].writable);
		map_area(&areas[i], random = wl_mix(random));
		for (size_t page = 0; page < areas[i].pages; page++)
			write_page(&areas[i], page, wl_mix(random + page));
	}
	if (main_thread)
		wl_ready();
	pid_t child = 0;
	for (uint64_t steps = 0; main_thread ? wl_tick() : goes_on(); steps++) {
		random = wl_mix(random);
		step(&areas[random / 7 % count], &child, wl_mix(~random));
		if (wl_mode("memory") && steps % 4096 == 0)
			step_heap(random);
		for (size_t i = 0; wl_sabotage("page") && i < count; i++)
			if (areas[i].at)
				areas[i].seed[0] ^= 2;
	}
	for (size_t i = 0; i < count; i++)
		check_area(&areas[i], "at the end");
	if (child > 0)
		CHECK(await(child) == 0, "the last child that looks at its memory");
	return NULL;
}

/* --- tasks -------------------------------------------------------------------------------- */

static __thread volatile int next_signal;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	int value = info->si_value.sival_int;
	CHECK(info->si_code == SI_QUEUE && value == next_signal, "signal %d instead of %d", value, next_signal);
	next_signal++;
}

/* Pending for a while, then all at once, in their order. */
static void queue_signals(int count)
{
	sigset_t one;
	sigemptyset(&one);
	sigaddset(&one, SIGRTMIN);
	CHECK(!pthread_sigmask(SIG_BLOCK, &one, NULL), "mask");
	next_signal = 0;
	for (int i = 0; i < count; i++)
		CHECK(!pthread_sigqueue(pthread_self(), SIGRTMIN, (union sigval){ .sival_int = i }), "queue");
	CHECK(next_signal == 0, "a blocked signal came");
	CHECK(!pthread_sigmask(SIG_UNBLOCK, &one, NULL), "mask");
	CHECK(next_signal == count, "%d signals of %d", next_signal, count);
}

static void *short_lived(void *seed)
{
	uint64_t local[64];
	wl_fill(local, sizeof local, (uintptr_t)seed);
	queue_signals((int)((uintptr_t)seed % 8));
	CHECK(wl_compare(local, sizeof local, (uintptr_t)seed) < 0, "the stack of a thread");
	return seed;
}

static void one_task(uint64_t random)
{
	pthread_t thread;
	void *value;
	CHECK(!pthread_create(&thread, NULL, short_lived, (void *)(uintptr_t)(random | 1)), "no thread");
	int wanted = (int)(random % 251) + !!wl_sabotage("status");
	pid_t pid = wl_fork();
	if (!pid)
		_exit((int)(random % 251));
	queue_signals((int)(random / 256 % 16));
	CHECK(!pthread_join(thread, &value) && value == (void *)(uintptr_t)(random | 1), "a thread's value");
	int status = await(pid);
	CHECK(status == wanted << 8, "status %#x of a child, not %#x", status, wanted << 8);
}

static void *tasks(void *main_thread)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(SIGRTMIN, &action, NULL);
	if (main_thread)
		wl_ready();
	for (uint64_t round = 0; main_thread ? wl_tick() : goes_on(); round++)
		one_task(wl_mix(round));
	return NULL;
}

/* --- files and connections ------------------------------------------------------------------ */

static void one_file(uint64_t random)
{
	uint64_t words[512], again[512];
	size_t bytes = (random % 511 + 1) * 8;
	char first[PATH_MAX], second[PATH_MAX];
	snprintf(first, sizeof first, "%s", wl_path("one"));
	snprintf(second, sizeof second, "%s", wl_path("other"));
	int file = MUST(open(first, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	wl_fill(words, bytes, random);
	CHECK(write(file, words, bytes) == (ssize_t)bytes, "write: %s", strerror(errno));
	MUST(rename(first, second));
	int copy = MUST(dup(file));
	CHECK(lseek(copy, 0, SEEK_CUR) == (off_t)bytes, "the offset of a duplicate");
	MUST(lseek(copy, 0, SEEK_SET));
	if (wl_sabotage("word"))
		words[0]++;
	CHECK(read(file, again, sizeof again) == (ssize_t)bytes, "read: %s", strerror(errno));
	CHECK(!memcmp(words, again, bytes), "what was written");
	MUST(unlink(second));
	CHECK(access(second, F_OK) == -1 && errno == ENOENT, "a removed file");
	CHECK(pread(copy, again, 8, 0) == 8 && again[0] == words[0], "a file without a name");
	close(copy);
	close(file);
}

static void one_connection(int listener, const struct sockaddr_un *address, uint64_t random)
{
	uint64_t sent[8], got[8];
	wl_fill(sent, sizeof sent, random);
	int here = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	MUST(connect(here, (const struct sockaddr *)address, sizeof *address));
	CHECK(write(here, sent, sizeof sent) == sizeof sent, "write: %s", strerror(errno));
	int there = MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	CHECK(read(there, got, sizeof got) == sizeof got && !memcmp(sent, got, sizeof got), "a question");
	CHECK(write(there, got, 16) == 16, "write: %s", strerror(errno));
	close(there);
	CHECK(read(here, got, sizeof got) == 16 && !memcmp(sent, got, 16), "an answer");
	CHECK(read(here, got, sizeof got) == 0, "the end of a connection");
	close(here);
	int ends[2];
	MUST(pipe2(ends, O_CLOEXEC));
	CHECK(write(ends[1], sent, sizeof sent) == sizeof sent, "write: %s", strerror(errno));
	CHECK(read(ends[0], got, sizeof got) == sizeof got && !memcmp(sent, got, sizeof got), "a pipe");
	close(ends[0]);
	close(ends[1]);
}

static void *files(void *main_thread)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof address.sun_path, "%s", wl_path("door"));
	int listener = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	unlink(address.sun_path);
	MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
	MUST(listen(listener, 4));
	if (main_thread)
		wl_ready();
	for (uint64_t round = 0; main_thread ? wl_tick() : goes_on(); round++) {
		one_file(wl_mix(round));
		one_connection(listener, &address, wl_mix(~round));
	}
	unlink(address.sun_path);
	return NULL;
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	void *const here = argv;
	make_file();
	if (wl_mode("memory")) {
		memory(here);
	} else if (wl_mode("tasks")) {
		tasks(here);
	} else if (wl_mode("files")) {
		files(here);
	} else if (wl_mode("all")) {
		void *(*const others[])(void *) = { memory, tasks, files };
		pthread_t thread[3];
		for (int i = 0; i < 3; i++)
			CHECK(!pthread_create(&thread[i], NULL, others[i], NULL), "no thread");
		memory(here);
		__atomic_store_n(&over, 1, __ATOMIC_SEQ_CST);
		for (int i = 0; i < 3; i++)
			CHECK(!pthread_join(thread[i], NULL), "join");
	} else {
		wl_fail("unknown mode");
	}
	unlink(wl_path("view"));
	return wl_done();
}

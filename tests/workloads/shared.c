/* Memory that several processes share, changed by all of them all the time.
 *
 * A parent and --count (default 3) children each advance a counter of their own
 * in the area, and all add to one total with atomic additions. Each child repeats
 * what the parent says: when the area is not one and the same any more, the echo
 * stops. --mode says what it is:
 * anonymous: MAP_SHARED | MAP_ANONYMOUS
 * file: a file in --dir, which is also read and written by system calls
 * memfd: a memfd with a seal, its name, and two mappings of it
 * posix, posix_unlinked, posix_closed: shm_open; unlinked; and its descriptor closed
 * ghost, ghost_closed: a file in --dir that has been unlinked; and its descriptor closed
 * memfd_write: a memfd that is changed by write(2) alone
 */
#include "workload.h"

#define PAGE 4096u
#define AREA (64 * PAGE)
#define STALE (3 * WL_SEC)

struct block {
	_Alignas(64) uint64_t counter, mixed, echo;
};
struct area {
	uint64_t said, total, end;
	struct block child[16];
	uint64_t pattern[1024];
};

static struct area *area, *second;
static int backing = -1;
static long count;

static void child(long me)
{
	struct block *own = &area->child[me];
	while (!__atomic_load_n(&area->end, __ATOMIC_SEQ_CST)) {
		own->counter++;
		own->mixed = wl_mix(own->counter);
		__atomic_fetch_add(&area->total, 1, __ATOMIC_SEQ_CST);
		__atomic_store_n(&own->echo, __atomic_load_n(&area->said, __ATOMIC_SEQ_CST), __ATOMIC_SEQ_CST);
		CHECK(wl_compare(area->pattern, sizeof area->pattern, 42) < 0, "child %ld: the pattern", me);
		if (own->counter % 64 == 0)
			wl_nap(WL_MS);
	}
	_exit(0);
}

static char name[64];

static bool is(const char *family)
{
	return !strncmp(wl_opt("mode", ""), family, strlen(family));
}

static void make(void)
{
	const char *path = NULL;
	snprintf(name, sizeof name, "/mig-workload.%d.%d", (int)getuid(), (int)getpid());
	if (is("posix")) {
		backing = MUST(shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600));
	} else if (wl_mode("file") || is("ghost")) {
		path = wl_path("shared");
		backing = MUST(open(path, O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600));
	} else if (!wl_mode("anonymous")) {
		backing = MUST(memfd_create("workload", MFD_ALLOW_SEALING));
	}
	if (backing >= 0)
		MUST(ftruncate(backing, AREA));
	if (wl_mode("memfd"))
		MUST(fcntl(backing, F_ADD_SEALS, F_SEAL_SHRINK));
	int flags = backing < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
	second = area = MUST(mmap(NULL, AREA, PROT_READ | PROT_WRITE, flags, backing, 0));
	if (wl_mode("memfd"))
		second = MUST(mmap(NULL, AREA, PROT_READ, MAP_SHARED, backing, 0));
	wl_fill(area->pattern, sizeof area->pattern, 42);
	if (wl_mode("posix_unlinked") || wl_mode("posix_closed"))
		MUST(shm_unlink(name));
	if (is("ghost"))
		MUST(unlink(path));
	if (wl_mode("posix_closed") || wl_mode("ghost_closed")) {
		MUST(close(backing));
		backing = -1;
	}
}

/* The object seen through its descriptor is the object seen through the mapping. */
static void check_backing(void)
{
	static uint64_t round;
	uint64_t word = wl_mix(round++), back;
	off_t at = (off_t)(sizeof(struct area) + 8 * (round % 1024));
	MUST(pwrite(backing, &word, 8, at));
	memcpy(&back, (uint8_t *)area + at, 8);
	CHECK(back == word, "a write is not seen in the mapping");
	back = ~word;
	memcpy((uint8_t *)area + at, &back, 8);
	MUST(pread(backing, &word, 8, at));
	CHECK(word == back, "a store is not seen by read");
	struct stat status;
	MUST(fstat(backing, &status));
	CHECK(status.st_size == AREA, "the size is %lld", (long long)status.st_size);
	bool nameless = is("ghost") || wl_mode("posix_unlinked");
	CHECK(is("memfd") || !status.st_nlink == nameless, "%lu links", (unsigned long)status.st_nlink);
	if (!wl_mode("memfd"))
		return;
	char link[64] = "";
	snprintf(link, sizeof link, "/proc/self/fd/%d", backing);
	char target[64] = "";
	MUST(readlink(link, target, sizeof target - 1));
	CHECK(!strcmp(target, "/memfd:workload (deleted)"), "the name is %s", target);
	CHECK(fcntl(backing, F_GET_SEALS) == F_SEAL_SHRINK, "seals are %#x", fcntl(backing, F_GET_SEALS));
	CHECK(second->said == area->said, "the second mapping is another object");
}

static void with_children(void)
{
	pid_t pid[16];
	for (long i = 0; i < count; i++)
		if (!(pid[i] = wl_fork()))
			child(i);
	wl_ready();
	int64_t heard = wl_now();
	do {
		uint64_t slowest = UINT64_MAX;
		for (long i = 0; i < count; i++) {
			uint64_t echo = __atomic_load_n(&area->child[i].echo, __ATOMIC_SEQ_CST);
			CHECK(echo <= area->said, "child %ld answers what was never said", i);
			slowest = echo < slowest ? echo : slowest;
		}
		if (slowest == area->said) {
			heard = wl_now();
			__atomic_fetch_add(&area->said, 1, __ATOMIC_SEQ_CST);
		}
		CHECK(wl_now() - heard < STALE, "the children do not see what the parent writes");
		CHECK(wl_compare(area->pattern, sizeof area->pattern, 42) < 0, "the pattern");
		if (backing >= 0)
			check_backing();
		if (wl_sabotage("split")) {
			static uint8_t copy[AREA];
			memcpy(copy, area, AREA);
			MUST(mmap(area, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
			memcpy(area, copy, AREA);
		}
		if (wl_sabotage("total"))
			area->total++;
		if (wl_sabotage("total"))
			wl_stop = 1;
		wl_nap(WL_MS);
	} while (wl_tick());
	__atomic_store_n(&area->end, 1, __ATOMIC_SEQ_CST);
	uint64_t sum = 0;
	for (long i = 0; i < count; i++) {
		int status;
		while (waitpid(pid[i], &status, 0) < 0)
			CHECK(errno == EINTR, "wait: %s", strerror(errno));
		CHECK(status == 0, "child %ld: status %#x", i, status);
		CHECK(area->child[i].mixed == wl_mix(area->child[i].counter), "counter of child %ld", i);
		sum += area->child[i].counter;
	}
	if (wl_mode("posix"))
		MUST(shm_unlink(name));
	CHECK(sum == area->total, "the total is %llu, not %llu", (unsigned long long)area->total,
	      (unsigned long long)sum);
}

/* No mapping sees these writes: a tracker of dirty pages does not either. */
static void by_write(void)
{
	uint64_t words[512], back[512];
	MUST(munmap(area, AREA));
	memset(words, 0, sizeof words);
	MUST(ftruncate(backing, sizeof words));
	MUST(pwrite(backing, words, sizeof words, 0));
	wl_ready();
	for (uint64_t round = 0; wl_tick(); round++) {
		size_t at = wl_mix(round) % 512;
		words[at] = wl_mix(~round);
		MUST(pwrite(backing, &words[at], 8, (off_t)(8 * at)));
		if (wl_sabotage("stale"))
			words[at]++;
		MUST(pread(backing, back, sizeof back, 0));
		CHECK(!memcmp(words, back, sizeof words), "contents of the memfd");
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	count = wl_num("count", 3);
	CHECK(count <= 16, "too many children");
	make();
	if (wl_mode("memfd_write"))
		by_write();
	else
		with_children();
	return wl_done();
}

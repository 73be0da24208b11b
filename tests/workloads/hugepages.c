/* Huge pages that were asked for (MAP_HUGETLB), with contents.
 *
 * --mode private: written to, read-only, PROT_NONE, never touched.
 * --mode shared: between parent and child.
 * --mode memfd: MFD_HUGETLB, with a hole, mapped shared and privately, sealed.
 */
#include "workload.h"

#define HUGE (2ul << 20)
#define PAGE 4096ul
#define FLAGS (MAP_ANONYMOUS | MAP_HUGETLB)

static uint8_t *area, *own;
static int fd;

static void set_private(void)
{
	area = MUST(mmap(NULL, 4 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | FLAGS, -1, 0));
	for (size_t i = 0; i < 3; i++)
		wl_fill(area + i * HUGE, HUGE, i * 1000000);
	MUST(mprotect(area + HUGE, HUGE, PROT_READ));
	MUST(mprotect(area + 2 * HUGE, HUGE, PROT_NONE));
}

static void check_pages(const uint8_t *pages, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		ssize_t wrong = wl_compare(pages + i * HUGE, HUGE, i * 1000000);
		CHECK(wrong < 0, "huge page %zu, word %zd", i, wrong);
	}
}

static void check_size(const void *address)
{
	struct wl_mapping mapping;
	CHECK(wl_find_mapping(address, &mapping) && strstr(mapping.flags, " ht "), "no huge page at %p", address);
}

static void see_private(void)
{
	check_size(area);
	CHECK(wl_probe(area + HUGE, true) == SEGV_ACCERR, "the second can be written to");
	CHECK(wl_probe(area + 2 * HUGE, false) == SEGV_ACCERR, "the third can be read");
	MUST(mprotect(area + 2 * HUGE, HUGE, PROT_READ));
	check_pages(area, 3);
	MUST(mprotect(area + 2 * HUGE, HUGE, PROT_NONE));
	if (wl_sabotage("page"))
		area[12345] ^= 1;
	if (wl_sabotage("protection"))
		MUST(mprotect(area + HUGE, HUGE, PROT_READ | PROT_WRITE));
}

static void set_shared(void)
{
	area = MUST(mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | FLAGS, -1, 0));
	wl_fill(area, HUGE, 0);
	_Atomic uint64_t *beat = (_Atomic uint64_t *)(area + HUGE);
	if (!wl_fork())
		for (;; wl_nap(WL_MS))
			++*beat;
}

static void see_shared(void)
{
	_Atomic uint64_t *beat = (_Atomic uint64_t *)(area + HUGE);
	uint64_t before = *beat;
	int64_t since = wl_now();
	check_size(area);
	check_pages(area, 1);
	if (wl_sabotage("split"))
		MUST(mmap(area + HUGE, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0));
	while (*beat == before) {
		CHECK(wl_now() - since < 20 * WL_SEC, "the child writes elsewhere");
		wl_nap(WL_MS);
	}
}

static void set_memfd(void)
{
	fd = MUST(memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING));
	MUST(ftruncate(fd, 4 * HUGE));
	area = MUST(mmap(NULL, 4 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	own = MUST(mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
	for (size_t i = 0; i < 3; i++)
		wl_fill(area + i * HUGE, HUGE, i * 1000000);
	CHECK(own[0] == area[0], "a private view of the same");
	wl_fill(own, PAGE, 77);
	MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * HUGE, HUGE));
	MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
}

static void see_memfd(void)
{
	struct stat status;
	MUST(fstat(fd, &status));
	CHECK(status.st_size == 4 * (off_t)HUGE && status.st_blksize == HUGE, "%ld bytes", status.st_size);
	CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW), "seals are %#x", fcntl(fd, F_GET_SEALS));
	check_size(area);
	check_pages(area, 2);
	CHECK(wl_compare(own, PAGE, 77) < 0, "what was written privately");
	CHECK(wl_compare(own + PAGE, HUGE - PAGE, PAGE / 8) < 0, "the rest of it");
	uint64_t word = 1;
	MUST(pread(fd, &word, sizeof word, 2 * HUGE));
	CHECK(word == 0, "there is something in the hole");
	if (wl_sabotage("private"))
		own[5] ^= 1;
	if (wl_sabotage("shared"))
		area[HUGE + 5] ^= 1;
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	void (*see)(void);
	if (wl_mode("private"))
		set_private(), see = see_private;
	else if (wl_mode("shared"))
		set_shared(), see = see_shared;
	else if (wl_mode("memfd"))
		set_memfd(), see = see_memfd;
	else
		wl_fail("unknown mode");
	wl_ready();
	do {
		see();
		wl_nap(5 * WL_MS);
	} while (wl_tick());
	see();
	return wl_done();
}

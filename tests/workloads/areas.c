/* Mappings of every kind, with their protections, advice and contents.
 *
 * --mode cow: a private file mapping, some pages of which are written.
 * --mode none: contents under PROT_NONE.
 * --mode protections: writes to read-only pages give SIGSEGV; code pages run.
 * --mode guard: MADV_GUARD_INSTALL between pages with contents.
 * --mode huge: MADV_HUGEPAGE and MADV_NOHUGEPAGE.
 * --mode sparse: 64 GiB reserved, a few pages used.
 * --mode many: --count (default 4000) mappings.
 * --mode growsdown: a MAP_GROWSDOWN mapping that grows meanwhile.
 * --mode advice: the madvise flags that smaps shows.
 * --mode seal: mseal.
 * --mode droppable: MAP_DROPPABLE.
 * --mode memfd: a memfd of an odd size with all seals, mapped for reading.
 * --mode lock: mlock and mlock2(MLOCK_ONFAULT).
 * --mode edges: page 0, below 4 GiB, the last page, 16 TiB without access, and code of the vsyscall page.
 */
#include "workload.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#define PAGE 4096ul
#define PAGES 64ul

static uint8_t *area;
static int file = -1;

static void *anonymous(size_t bytes, int flags)
{
	return MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0));
}

static void fill_pages(void)
{
	for (size_t page = 0; page < PAGES; page++)
		wl_fill(area + page * PAGE, PAGE, page * 1000);
}

static void check_page(size_t page)
{
	ssize_t wrong = wl_compare(area + page * PAGE, PAGE, page * 1000);
	CHECK(wrong < 0, "page %zu, word %zd", page, wrong);
}

static void check_pages(void)
{
	for (size_t page = 0; page < PAGES; page++)
		check_page(page);
}

static void set_cow(void)
{
	const char *path = wl_path("cow");
	file = MUST(open(path, O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600));
	MUST(ftruncate(file, PAGES * PAGE));
	area = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
	fill_pages();
	MUST(munmap(area, PAGES * PAGE));
	area = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0));
	for (size_t page = 0; page < PAGES; page += 3)
		wl_fill(area + page * PAGE, PAGE, page * 7777);
}

static void check_cow(void)
{
	uint64_t word;
	for (size_t page = 0; page < PAGES; page++) {
		uint64_t seed = page % 3 ? page * 1000 : page * 7777;
		CHECK(wl_compare(area + page * PAGE, PAGE, seed) < 0, "page %zu (%s)", page,
		      page % 3 ? "of the file" : "written");
		MUST(pread(file, &word, 8, (off_t)(page * PAGE)));
		CHECK(word == wl_mix(page * 1000), "page %zu of the file has changed", page);
	}
	if (wl_sabotage("written"))
		wl_fill(area + 9 * PAGE, PAGE, 9 * 1000);
}

static void set_none(void)
{
	area = anonymous(PAGES * PAGE, 0);
	fill_pages();
	MUST(mprotect(area, PAGES * PAGE, PROT_NONE));
}

static void check_none(void)
{
	static size_t page;
	struct wl_mapping mapping;
	page = (page + 1) % PAGES;
	CHECK(wl_find_mapping(area, &mapping), "the area is gone");
	CHECK(!strcmp(mapping.permissions, "---p"), "permissions are %s", mapping.permissions);
	CHECK(wl_probe(area + page * PAGE, false) == SEGV_ACCERR, "page %zu can be read", page);
	MUST(mprotect(area + page * PAGE, PAGE, PROT_READ | PROT_WRITE));
	if (wl_sabotage("contents"))
		memset(area + page * PAGE, 0, PAGE);
	check_page(page);
	MUST(mprotect(area + page * PAGE, PAGE, PROT_NONE));
	if (wl_sabotage("protection"))
		MUST(mprotect(area, PAGES * PAGE, PROT_READ));
}

/* In turn: read-only, read-write, read-execute, write of a read-execute. */
static void set_protections(void)
{
	area = anonymous(PAGES * PAGE, 0);
	fill_pages();
	for (size_t page = 0; page < PAGES; page++) {
		uint8_t code[] = { 0xb8, (uint8_t)page, 0, 0, 0, 0xc3 };
		if (page % 3 == 2)
			memcpy(area + page * PAGE, code, sizeof code);
		int protection[] = { PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC };
		MUST(mprotect(area + page * PAGE, PAGE, protection[page % 3]));
	}
}

static void check_protections(void)
{
	for (size_t page = 0; page < PAGES; page++) {
		bool writable = page % 3 == 1;
		int code = wl_probe(area + page * PAGE, true);
		CHECK(code == (writable ? 0 : SEGV_ACCERR), "write to page %zu gives %d", page, code);
		if (page % 3 == 2)
			CHECK(((int (*)(void))(uintptr_t)(area + page * PAGE))() == (int)page, "code of page %zu", page);
		else
			check_page(page);
	}
	if (wl_sabotage("protection"))
		MUST(mprotect(area, PAGE, PROT_READ | PROT_WRITE));
}

static void set_guard(void)
{
	area = anonymous(PAGES * PAGE, 0);
	fill_pages();
	for (size_t page = 3; page < PAGES; page += 5)
		MUST(madvise(area + page * PAGE, PAGE, MADV_GUARD_INSTALL));
}

static void check_guard(void)
{
	for (size_t page = 0; page < PAGES; page++)
		if (page % 5 == 3)
			CHECK(wl_probe(area + page * PAGE, false), "page %zu is no guard any more", page);
		else
			check_page(page);
	if (wl_sabotage("guard"))
		MUST(madvise(area + 8 * PAGE, PAGE, MADV_GUARD_INSTALL + 1));
}

#define HUGE (2ul << 20)

static void set_huge(void)
{
	area = anonymous(5 * HUGE, 0);
	area += -(uintptr_t)area % HUGE;
	MUST(madvise(area, 2 * HUGE, MADV_HUGEPAGE));
	MUST(madvise(area + 2 * HUGE, 2 * HUGE, MADV_NOHUGEPAGE));
	wl_fill(area, 4 * HUGE, 5);
}

static void want_flag(const void *address, const char *flag, bool wanted)
{
	struct wl_mapping mapping;
	CHECK(wl_find_mapping(address, &mapping), "no mapping at %p", address);
	CHECK(!!strstr(mapping.flags, flag) == wanted, "flags at %p are %s: %s%s", address, mapping.flags,
	      wanted ? "missing" : "too much:", flag);
}

static void check_huge(void)
{
	want_flag(area, " hg ", true);
	want_flag(area + 2 * HUGE, " nh ", true);
	CHECK(wl_compare(area, 4 * HUGE, 5) < 0, "contents of huge pages");
	if (wl_sabotage("advice"))
		MUST(madvise(area, 2 * HUGE, MADV_NOHUGEPAGE));
}

#define SPARSE (64ul << 30)

static void set_sparse(void)
{
	area = MUST(mmap(NULL, SPARSE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	MUST(madvise(area, SPARSE, MADV_NOHUGEPAGE));
	for (size_t i = 0; i < PAGES; i++)
		wl_fill(area + wl_mix(i) % (SPARSE / PAGE) * PAGE, PAGE, i);
}

static void check_sparse(void)
{
	static uint64_t look = 1000;
	for (size_t i = 0; i < PAGES; i++)
		CHECK(wl_compare(area + wl_mix(i) % (SPARSE / PAGE) * PAGE, PAGE, i) < 0, "sparse page %zu", i);
	uint64_t *unused = (uint64_t *)(area + wl_mix(look++) % (SPARSE / PAGE) * PAGE);
	bool used = false;
	for (size_t i = 0; i < PAGES; i++)
		used |= unused == (uint64_t *)(area + wl_mix(i) % (SPARSE / PAGE) * PAGE);
	CHECK(used || *unused == 0, "an unused page is not zero");
	long resident = strtol(wl_proc("status", "RssAnon:"), NULL, 10);
	CHECK(resident < 100000, "%ld kB resident", resident);
	want_flag(area, " nr ", true);
	if (wl_sabotage("page"))
		*unused = 1, area[wl_mix(5) % (SPARSE / PAGE) * PAGE] ^= 1;
}

static size_t count;

static void set_many(void)
{
	count = (size_t)wl_num("count", 4000);
	area = anonymous(2 * count * PAGE, 0);
	for (size_t i = 0; i < count; i++) {
		wl_fill(area + 2 * i * PAGE, 64, i);
		MUST(mprotect(area + 2 * i * PAGE, PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_EXEC));
		MUST(munmap(area + (2 * i + 1) * PAGE, PAGE));
	}
}

static void check_many(void)
{
	size_t seen = 0;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "re");
	while (fgets(line, sizeof line, maps)) {
		uintptr_t start, end;
		char permissions[5];
		if (sscanf(line, "%lx-%lx %4s", &start, &end, permissions) != 3 || start < (uintptr_t)area ||
		    start >= (uintptr_t)area + 2 * count * PAGE)
			continue;
		size_t i = (start - (uintptr_t)area) / PAGE / 2;
		/* Not one page more: the holes between them are part of the state. */
		if (end - start == PAGE && !strcmp(permissions, i % 2 ? "r--p" : "r-xp"))
			seen++;
	}
	fclose(maps);
	CHECK(seen == count, "%zu mappings of %zu", seen, count);
	for (size_t i = 0; i < count; i++)
		CHECK(wl_compare(area + 2 * i * PAGE, 64, i) < 0, "mapping %zu", i);
	if (wl_sabotage("mapping"))
		MUST(munmap(area + 2 * (count / 2) * PAGE, PAGE));
	if (wl_sabotage("protection"))
		MUST(mprotect(area, PAGE, PROT_READ));
}

static size_t grown = 1;
#define GROWTH (16ul << 20)

static void set_growsdown(void)
{
	uint8_t *hole = anonymous(GROWTH, 0);
	MUST(munmap(hole, GROWTH));
	area = MUST(mmap(hole + GROWTH - PAGE, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0));
	wl_fill(area, PAGE, 0);
}

static void check_growsdown(void)
{
	if (wl_sabotage("page"))
		area[0] ^= 1;
	if (grown < 1000) {
		wl_fill(area - grown * PAGE, PAGE, grown);
		grown++;
	}
	for (size_t i = 0; i < grown; i++)
		CHECK(wl_compare(area - i * PAGE, PAGE, i) < 0, "page %zu below", i);
	want_flag(area, " gd ", true);
}

static const struct advice {
	int advice;
	const char *flag;
} advices[] = {
	{ MADV_DONTFORK, " dc " }, { MADV_DONTDUMP, " dd " }, { MADV_WIPEONFORK, " wf " },
	{ MADV_HUGEPAGE, " hg " }, { MADV_NOHUGEPAGE, " nh " }, { MADV_SEQUENTIAL, " sr " },
	{ MADV_RANDOM, " rr " },
};
#define ADVICES (sizeof advices / sizeof *advices)

static void set_advice(void)
{
	area = anonymous(PAGES * PAGE, 0);
	fill_pages();
	for (size_t i = 0; i < ADVICES; i++)
		MUST(madvise(area + 2 * i * PAGE, PAGE, advices[i].advice));
}

static void check_advice(void)
{
	check_pages();
	for (size_t i = 0; i < ADVICES; i++)
		for (size_t j = 0; j < ADVICES; j++) {
			want_flag(area + 2 * i * PAGE, advices[j].flag, i == j);
			want_flag(area + (2 * i + 1) * PAGE, advices[j].flag, false);
		}
	if (wl_sabotage("advice"))
		MUST(madvise(area, PAGE, MADV_DOFORK));
}

static void set_lock(void)
{
	area = anonymous(PAGES * PAGE, 0);
	fill_pages();
	MUST(mlock(area, 8 * PAGE));
	MUST(syscall(SYS_mlock2, area + 16 * PAGE, 8 * PAGE, 1));
}

static void check_lock(void)
{
	check_pages();
	want_flag(area, " lo ", true);
	want_flag(area + 8 * PAGE, " lo ", false);
	want_flag(area + 16 * PAGE, " lf ", true);
	CHECK(strtol(wl_proc("status", "VmLck:"), NULL, 10) == 16 * 4, "VmLck is %s", wl_proc("status", "VmLck:"));
	if (wl_sabotage("lock"))
		MUST(munlock(area + 3 * PAGE, PAGE));
}

#define SYS_MSEAL 462
#define ODD 4133

static void set_seal(void)
{
	area = anonymous(PAGES * PAGE, 0);
	fill_pages();
	MUST(syscall(SYS_MSEAL, area + 8 * PAGE, 8 * PAGE, 0));
}

static void check_seal(void)
{
	check_pages();
	want_flag(area + 8 * PAGE, " sl ", !wl_sabotage("seal"));
	want_flag(area, " sl ", false);
	CHECK(munmap(area + 9 * PAGE, PAGE) && errno == EPERM, "a sealed page has been unmapped");
}

static void set_droppable(void)
{
	area = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, 0x08 | MAP_ANONYMOUS, -1, 0));
}

/* What is in it may be gone, but not turn into something else. */
static void check_droppable(void)
{
	want_flag(area, " dp ", true);
	for (size_t page = 0; page < PAGES; page++) {
		volatile uint64_t *word = (uint64_t *)(area + page * PAGE);
		uint64_t found = *word;
		CHECK(found == 0 || found == wl_mix(page), "page %zu", page);
		*word = wl_mix(page + wl_sabotage("page"));
	}
}

static void set_memfd(void)
{
	uint8_t bytes[ODD + 3];
	wl_fill(bytes, sizeof bytes, 11);
	file = MUST(memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC));
	MUST(write(file, bytes, ODD));
	MUST(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL));
	area = MUST(mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, file, 0));
}

static void check_memfd(void)
{
	struct stat status;
	MUST(fstat(file, &status));
	CHECK(status.st_size == ODD - wl_sabotage("size"), "%lld bytes", (long long)status.st_size);
	CHECK(fcntl(file, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL), "seals are %#x",
	      fcntl(file, F_GET_SEALS));
	CHECK(wl_compare(area, ODD / 8 * 8, 11) < 0, "contents");
	CHECK(mprotect(area, PAGE, PROT_READ | PROT_WRITE) && errno == EACCES, "it can be written to");
}

#define WIDE (16ul << 40)
static uint8_t *edges[4];

static void set_edges(void)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS, access = PROT_READ | PROT_WRITE;
	/* Where vm.mmap_min_addr and the stack leave room. */
	uint8_t *first = mmap(NULL, PAGE, access, flags | MAP_FIXED, -1, 0);
	uint8_t *last = mmap((void *)0x7ffffffde000, PAGE, access, flags | MAP_FIXED_NOREPLACE, -1, 0);
	edges[0] = first == MAP_FAILED ? anonymous(PAGE, 0) : first;
	edges[1] = last == MAP_FAILED ? anonymous(PAGE, 0) : last;
	edges[2] = anonymous(PAGE, MAP_32BIT);
	area = MUST(mmap(NULL, WIDE, PROT_NONE, flags | MAP_NORESERVE, -1, 0));
	edges[3] = area + WIDE / 2;
	MUST(mprotect(edges[3], PAGE, access));
	for (size_t i = 0; i < 4; i++)
		wl_fill(edges[i], PAGE, i * 1000);
}

static void check_edges(void)
{
	long (*vsyscall_time)(void *) = (long (*)(void *))0xffffffffff600400;
	for (size_t i = 0; i < 4; i++)
		CHECK(wl_compare(edges[i], PAGE, i * 1000) < 0, "page %zu, at %p", i, edges[i]);
	CHECK((uintptr_t)edges[2] < 1ul << 32, "%p", edges[2]);
	CHECK(wl_probe(area, false) && wl_probe(area + WIDE - PAGE, false), "what has no access can be read");
	/* A kernel may have no such page. */
	if (*wl_proc("maps", "ffffffffff600000"))
		CHECK(labs(vsyscall_time(NULL) - time(NULL)) < 3, "the time of the vsyscall page");
	if (wl_sabotage("page"))
		edges[3][5] ^= 1;
}

static const struct mode {
	const char *name;
	void (*set)(void), (*check)(void);
} modes[] = {
	{ "cow", set_cow, check_cow },		{ "none", set_none, check_none },
	{ "guard", set_guard, check_guard },	{ "protections", set_protections, check_protections },
	{ "huge", set_huge, check_huge },	{ "sparse", set_sparse, check_sparse },
	{ "many", set_many, check_many },	{ "growsdown", set_growsdown, check_growsdown },
	{ "advice", set_advice, check_advice }, { "lock", set_lock, check_lock },
	{ "seal", set_seal, check_seal },	{ "droppable", set_droppable, check_droppable },
	{ "memfd", set_memfd, check_memfd },	{ "edges", set_edges, check_edges },
};

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
		if (!wl_mode(modes[i].name))
			continue;
		modes[i].set();
		wl_ready();
		do {
			modes[i].check();
			wl_nap(WL_MS);
		} while (wl_tick());
		modes[i].check();
		return wl_done();
	}
	wl_fail("unknown mode");
}

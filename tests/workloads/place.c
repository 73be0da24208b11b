/* What is decided for memory that a program has yet to get, and where its pages are placed.
 *
 * --mode future: mlockall(MCL_FUTURE).
 * --mode onfault: mlockall(MCL_FUTURE | MCL_ONFAULT).
 * --mode merge: PR_SET_MEMORY_MERGE, and MADV_UNMERGEABLE for one mapping.
 * --mode policy: set_mempolicy of two threads, mbind of mappings.
 */
#include "workload.h"

#include <pthread.h>

#define PAGE 4096ul
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68

enum { DEFAULT, PREFERRED, BIND, INTERLEAVE, LOCAL, PREFERRED_MANY };
#define STATIC_NODES (1 << 15)
#define MPOL_F_ADDR 2

static uint8_t *area;

static uint8_t *fresh(size_t bytes)
{
	return MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static bool has_flag(const void *address, const char *flag)
{
	struct wl_mapping mapping;
	CHECK(wl_find_mapping(address, &mapping), "no mapping at %p", address);
	return strstr(mapping.flags, flag);
}

/* What becomes of a mapping that is made now. */
static void check_future(bool locked, bool on_fault)
{
	uint8_t *new = fresh(3 * PAGE);
	CHECK(has_flag(new, " lo ") == locked && has_flag(new, " lf ") == on_fault, "a new mapping is%s locked%s",
	      locked ? " not" : "", on_fault ? " on fault" : "");
	MUST(munmap(new, 3 * PAGE));
	CHECK(!has_flag(area, " lo "), "the old mapping is locked");
	CHECK(wl_compare(area, PAGE, 3) < 0, "contents");
}

static void set_future(void)
{
	area = fresh(PAGE);
	wl_fill(area, PAGE, 3);
	MUST(mlockall(MCL_FUTURE));
}

static void see_future(void)
{
	if (wl_sabotage("lock"))
		MUST(munlockall());
	check_future(true, false);
}

static void set_onfault(void)
{
	set_future();
	MUST(mlockall(MCL_FUTURE | MCL_ONFAULT));
}

static void see_onfault(void)
{
	if (wl_sabotage("lock"))
		MUST(mlockall(MCL_FUTURE));
	check_future(true, true);
}

static void set_merge(void)
{
	MUST(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
	area = fresh(4 * PAGE);
	wl_fill(area, PAGE, 3);
	MUST(madvise(area + 2 * PAGE, PAGE, MADV_UNMERGEABLE));
}

static void see_merge(void)
{
	uint8_t *new = fresh(PAGE);
	CHECK(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1 && has_flag(new, " mg "), "a new mapping is not merged");
	MUST(munmap(new, PAGE));
	CHECK(has_flag(area, " mg ") && !has_flag(area + 2 * PAGE, " mg "), "not as advised");
	CHECK(wl_compare(area, PAGE, 3) < 0, "contents");
	if (wl_sabotage("merge"))
		MUST(prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
}

static long policy_of(const void *address)
{
	int mode = -1;
	unsigned long nodes[16] = { 0 };
	MUST(syscall(SYS_get_mempolicy, &mode, nodes, 1024ul, address, address ? MPOL_F_ADDR : 0ul));
	return mode | (long)(nodes[0] & 0xff) << 32;
}

static const struct policy {
	int mode;
	unsigned long nodes;
} policies[] = {
	{ DEFAULT, 0 }, { BIND, 1 }, { PREFERRED, 1 }, { INTERLEAVE | STATIC_NODES, 1 },
	{ LOCAL, 0 },	{ DEFAULT, 0 }, { PREFERRED_MANY, 1 },
};
#define POLICIES (sizeof policies / sizeof *policies)
static _Atomic long of_thread;
static _Atomic bool asked;

static void *other_thread(void *unused)
{
	unsigned long nodes = 1;
	(void)unused;
	MUST(syscall(SYS_set_mempolicy, PREFERRED, &nodes, 64ul));
	for (;;) {
		of_thread = policy_of(NULL);
		asked = true;
		wl_nap(WL_MS);
	}
	return NULL;
}

static void set_policy(void)
{
	pthread_t thread;
	unsigned long nodes = 1;
	area = fresh(2 * POLICIES * PAGE);
	for (size_t i = 0; i < POLICIES; i++) {
		uint8_t *page = area + 2 * i * PAGE;
		const struct policy *policy = policies + i;
		MUST(syscall(SYS_mbind, page, PAGE, policy->mode, policy->nodes ? &policy->nodes : NULL, 64ul, 0));
		wl_fill(page, PAGE, i);
	}
	MUST(syscall(SYS_set_mempolicy, INTERLEAVE, &nodes, 64ul));
	pthread_create(&thread, NULL, other_thread, NULL);
	while (!asked)
		wl_nap(WL_MS);
}

static void see_policy(void)
{
	for (size_t i = 0; i < POLICIES; i++) {
		long wanted = policies[i].mode | (long)policies[i].nodes << 32;
		CHECK(policy_of(area + 2 * i * PAGE) == wanted, "policy %zu is %#lx", i, policy_of(area + 2 * i * PAGE));
		CHECK(policy_of(area + (2 * i + 1) * PAGE) == DEFAULT, "policy after %zu", i);
		CHECK(wl_compare(area + 2 * i * PAGE, PAGE, i) < 0, "contents %zu", i);
	}
	CHECK(policy_of(NULL) == (INTERLEAVE | 1l << 32), "policy of the first thread is %#lx", policy_of(NULL));
	CHECK(of_thread == (PREFERRED | 1l << 32), "policy of the other thread is %#lx", of_thread);
	if (wl_sabotage("thread"))
		MUST(syscall(SYS_set_mempolicy, DEFAULT, NULL, 0ul));
	if (wl_sabotage("mapping"))
		MUST(syscall(SYS_mbind, area + 2 * PAGE, PAGE, DEFAULT, NULL, 0ul, 0));
}

static const struct mode {
	const char *name;
	void (*set)(void), (*see)(void);
} modes[] = {
	{ "future", set_future, see_future },
	{ "onfault", set_onfault, see_onfault },
	{ "merge", set_merge, see_merge },
	{ "policy", set_policy, see_policy },
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
			modes[i].see();
			wl_nap(WL_MS);
		} while (wl_tick());
		modes[i].see();
		return wl_done();
	}
	wl_fail("unknown mode");
}

/* Segments of System V shared memory.
 *
 * --mode shared: one with a key, an owner and a mode, which parent and child write to in turn; the parent
 *   reads it through an attachment that is read-only as well.
 * --mode parts: attachments of which parts have been unmapped, protected and moved elsewhere, several of one segment.
 *   What is left of them is detached as a whole and attached again.
 * --mode removed: a segment that has been removed while it is attached, whose key another one has by now. Its size is odd,
 *   it is locked, and is attached for a moment by everyone who looks.
 * --mode detached: segments that nobody has attached: with contents in few of many pages, of an odd size, and empty.
 */
#include "workload.h"
#include <sys/ipc.h>
#include <sys/shm.h>

#define PAGE 4096

static key_t key;

static struct shmid_ds state_of(int id)
{
	struct shmid_ds state;
	MUST(shmctl(id, IPC_STAT, &state));
	return state;
}

static void *attach(int id, const void *where, int flags)
{
	return MUST(shmat(id, where, flags));
}

static void want_attached(int id, unsigned long count)
{
	struct shmid_ds state = state_of(id);
	CHECK(state.shm_nattch == count, "%lu attachments, not %lu", (unsigned long)state.shm_nattch, count);
}

/* Before and after the fork of a child nobody may see another number. */
static void shared(void)
{
	int id = MUST(shmget(key, 8 * PAGE, IPC_CREAT | IPC_EXCL | 0640));
	struct shmid_ds state = state_of(id);
	state.shm_perm.mode = 0660;
	state.shm_perm.gid = getgid();
	MUST(shmctl(id, IPC_SET, &state));
	volatile uint64_t *turn = attach(id, NULL, 0);
	volatile uint64_t *look = attach(id, NULL, SHM_RDONLY);
	wl_fill((void *)(turn + PAGE / 8), 2 * PAGE, 1);
	pid_t child = wl_fork();
	if (!child)
		for (;;) {
			if (*turn % 2)
				++*turn;
			wl_nap(WL_MS / 10);
		}
	wl_ready();
	uint64_t count = 0;
	while (wl_tick()) {
		if (wl_sabotage("split")) {
			MUST(shmdt((void *)look));
			int other = MUST(shmget(IPC_PRIVATE, 8 * PAGE, 0600));
			attach(other, (void *)look, SHM_RDONLY);
		}
		if (wl_sabotage("content"))
			turn[PAGE / 8] = 0;
		++*turn;
		count += 2;
		int64_t began = wl_now();
		while (*turn != count)
			CHECK(wl_now() - began < 60 * WL_SEC, "the child does not answer");
		CHECK(*look == count, "%lu and %lu", (unsigned long)*look, (unsigned long)count);
		CHECK(wl_compare((void *)(look + PAGE / 8), 2 * PAGE, 1) < 0, "its contents have changed");
		CHECK(shmget(key, 8 * PAGE, 0) == id, "another segment has the key");
		CHECK(wl_probe((volatile uint8_t *)look, true) == SEGV_ACCERR, "it is not read-only");
		CHECK(mprotect((void *)look, PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES, "it can be made writable");
		state = state_of(id);
		CHECK(state.shm_perm.mode == 0660 && state.shm_segsz == 8 * PAGE, "mode %o", state.shm_perm.mode);
		want_attached(id, 4);
		wl_nap(WL_MS);
	}
	MUST(kill(child, SIGKILL));
	MUST(waitpid(child, NULL, 0));
	want_attached(id, 2);
	MUST(shmdt((void *)turn));
	MUST(shmdt((void *)look));
	want_attached(id, 0);
	MUST(shmctl(id, IPC_RMID, NULL));
}

static char *reserve(size_t pages)
{
	char *place = MUST(mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	MUST(munmap(place, pages * PAGE));
	return place;
}

struct parts {
	char *base, *moved, *elsewhere;
};

/* 16 pages: 0-2 as they are, 3 protected, 4 protected and back, 5-6 unmapped, with anonymous memory in 5, 7 split from
 * 8 by advice, 9-15 moved away; a second attachment without its first half. Seven mappings. */
static struct parts take_apart(int id)
{
	char *base = reserve(16);
	attach(id, base, 0);
	MUST(mprotect(base + 3 * PAGE, PAGE, PROT_READ));
	MUST(mprotect(base + 4 * PAGE, PAGE, PROT_NONE));
	MUST(mprotect(base + 4 * PAGE, PAGE, PROT_READ | PROT_WRITE));
	MUST(munmap(base + 5 * PAGE, 2 * PAGE));
	MUST(mmap(base + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	strcpy(base + 5 * PAGE, "between");
	MUST(madvise(base + 8 * PAGE, PAGE, MADV_DONTFORK));
	char *moved = reserve(7);
	MUST(mremap(base + 9 * PAGE, 7 * PAGE, 7 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, moved));
	char *elsewhere = attach(id, NULL, SHM_EXEC);
	MUST(munmap(elsewhere, 8 * PAGE));
	return (struct parts){ base, moved, elsewhere };
}

static void parts(void)
{
	int id = MUST(shmget(IPC_PRIVATE, 16 * PAGE, 0600));
	struct parts at = take_apart(id);
	wl_fill(at.base, 3 * PAGE, 0);
	wl_fill(at.moved, 7 * PAGE, 9);
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("protection"))
			MUST(mprotect(at.base + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE));
		if (wl_sabotage("detach"))
			MUST(munmap(at.base + 7 * PAGE, PAGE));
		want_attached(id, 7);
		CHECK(wl_compare(at.base, 3 * PAGE, 0) < 0 && wl_compare(at.moved, 7 * PAGE, 9) < 0, "contents have changed");
		CHECK(wl_compare(at.elsewhere + 9 * PAGE, 7 * PAGE, 9) < 0, "the other attachment has other contents");
		CHECK(wl_probe((uint8_t *)at.base + 3 * PAGE, true) == SEGV_ACCERR, "a page may be written to");
		CHECK(wl_probe((uint8_t *)at.base + 6 * PAGE, false) == SEGV_MAPERR, "a page is back");
		CHECK(!strcmp(at.base + 5 * PAGE, "between"), "memory between the parts is lost");
		at.base[7 * PAGE]++;
		CHECK(at.base[7 * PAGE] != at.base[8 * PAGE] || !at.base[8 * PAGE], "pages are mixed up");
		/* What has moved is found where the whole attachment would begin; the rest at its old place. */
		MUST(shmdt(at.moved - 9 * PAGE));
		want_attached(id, 6);
		MUST(shmdt(at.base));
		want_attached(id, 1);
		MUST(shmdt(at.elsewhere));
		want_attached(id, 0);
		MUST(munmap(at.base + 5 * PAGE, PAGE));
		at = take_apart(id);
		wl_nap(WL_MS);
	}
	MUST(shmctl(id, IPC_RMID, NULL));
}

static void removed(void)
{
	size_t size = 3 * PAGE + 100;
	int old = MUST(shmget(key, size, IPC_CREAT | IPC_EXCL | 0600));
	char *whole = attach(old, NULL, 0);
	/* All of the last page may be used. */
	wl_fill(whole, 4 * PAGE, 3);
	MUST(shmctl(old, SHM_LOCK, NULL));
	MUST(shmctl(old, IPC_RMID, NULL));
	int new = MUST(shmget(key, 2 * PAGE, IPC_CREAT | IPC_EXCL | 0600));
	strcpy(attach(new, NULL, 0), "new");
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("tail"))
			whole[4 * PAGE - 1]++;
		struct shmid_ds state = state_of(old);
		CHECK(state.shm_perm.mode == (0600 | SHM_DEST | SHM_LOCKED), "mode %o", state.shm_perm.mode);
		CHECK(state.shm_perm.__key == IPC_PRIVATE && state.shm_segsz == size, "%zu bytes", state.shm_segsz);
		CHECK(wl_compare(whole, 4 * PAGE, 3) < 0, "contents have changed");
		CHECK(shmget(key, 2 * PAGE, 0) == new, "another segment has the key");
		char *again = attach(old, NULL, 0);
		CHECK(!memcmp(again, whole, 4 * PAGE), "it is another segment");
		MUST(shmdt(again));
		want_attached(old, 1);
		char *other = attach(new, NULL, SHM_RDONLY);
		CHECK(!strcmp(other, "new"), "%s", other);
		MUST(shmdt(other));
		wl_nap(WL_MS);
	}
	MUST(shmctl(new, IPC_RMID, NULL));
	MUST(shmdt(whole));
	struct shmid_ds state;
	CHECK(shmctl(old, IPC_STAT, &state) < 0 && errno == EINVAL, "it is there when nobody has it attached");
}

/* The pages that a segment has, in memory and swapped. */
static unsigned long pages_of(int id)
{
	char line[512];
	FILE *table = fopen("/proc/sysvipc/shm", "re");
	CHECK(table, "/proc/sysvipc/shm: %s", strerror(errno));
	unsigned long pages = 0;
	while (fgets(line, sizeof line, table)) {
		int found;
		unsigned long rss, swap;
		if (sscanf(line, "%*d %d %*o %*u %*d %*d %*u %*u %*u %*u %*u %*u %*u %*u %lu %lu", &found, &rss, &swap) == 3 &&
		    found == id)
			pages = (rss + swap) / PAGE;
	}
	fclose(table);
	return pages;
}

static void detached(void)
{
	size_t pages = 1 << 18;
	int sparse = MUST(shmget(key, pages * PAGE, IPC_CREAT | IPC_EXCL | 0600));
	int odd = MUST(shmget(IPC_PRIVATE, PAGE + 1, 0600));
	int empty = MUST(shmget(IPC_PRIVATE, 5, 0400));
	char *first = attach(sparse, NULL, 0), *second = attach(odd, NULL, 0);
	wl_fill(first, PAGE, 1);
	wl_fill(first + (pages / 2) * PAGE, PAGE, 2);
	wl_fill(second, 2 * PAGE, 3);
	MUST(shmdt(first));
	MUST(shmdt(second));
	wl_ready();
	while (wl_tick()) {
		CHECK(pages_of(sparse) == 2 && pages_of(odd) == 2 && !pages_of(empty), "%lu pages", pages_of(sparse));
		want_attached(sparse, 0);
		first = attach(sparse, NULL, 0);
		second = attach(odd, NULL, 0);
		if (wl_sabotage("content"))
			first[(pages / 2) * PAGE]++;
		if (wl_sabotage("tail"))
			second[2 * PAGE - 1]++;
		CHECK(wl_compare(first, PAGE, 1) < 0, "the first page has changed");
		CHECK(wl_compare(first + (pages / 2) * PAGE, PAGE, 2) < 0, "a page has changed");
		CHECK(wl_compare(second, 2 * PAGE, 3) < 0, "the odd one has changed");
		CHECK(state_of(empty).shm_segsz == 5 && state_of(empty).shm_perm.mode == 0400, "the empty one has changed");
		MUST(shmdt(first));
		MUST(shmdt(second));
		wl_nap(WL_MS);
	}
	MUST(shmctl(sparse, IPC_RMID, NULL));
	MUST(shmctl(odd, IPC_RMID, NULL));
	MUST(shmctl(empty, IPC_RMID, NULL));
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	key = 0x6d690000 + getpid();
	if (wl_mode("shared"))
		shared();
	else if (wl_mode("parts"))
		parts();
	else if (wl_mode("removed"))
		removed();
	else
		detached();
	return wl_done();
}

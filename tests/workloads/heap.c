/* Private memory that grows and is written while it is checked.
 *
 * --mode big: --size-mb (default 256) of anonymous memory, checksummed in slices,
 *   some pages rewritten with a later generation each time.
 * --mode brk: the heap grows and shrinks by brk, and its end stays where it was put.
 * --mode malloc: thousands of blocks of all sizes, freed and made again.
 * --mode stack: deep frames with contents, and growth below them afterwards.
 */
#include "workload.h"

#define PAGE 4096u
#define SLICE (2u << 20)

static void big(void)
{
	size_t bytes = (size_t)wl_num("size-mb", 256) << 20, pages = bytes / PAGE, at = 0;
	uint8_t *memory = MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	uint32_t *generation = calloc(pages, sizeof *generation);
	CHECK(generation, "no memory");
	for (size_t page = 0; page < pages; page++)
		wl_fill(memory + page * PAGE, PAGE, page << 32);
	wl_ready();
	for (uint64_t round = 1; wl_tick(); round++) {
		for (size_t page = at / PAGE; page < (at + SLICE) / PAGE; page++) {
			ssize_t wrong = wl_compare(memory + page * PAGE, PAGE, (page << 32) + generation[page]);
			CHECK(wrong < 0, "page %zu of generation %u: word %zd", page, generation[page], wrong);
		}
		at = (at + SLICE) % bytes;
		for (int i = 0; i < 8; i++) {
			size_t page = wl_mix(round * 8 + i) % pages;
			wl_fill(memory + page * PAGE, PAGE, (page << 32) + ++generation[page]);
		}
		if (wl_sabotage("page"))
			wl_fill(memory + at, PAGE, 0xbad);
	}
	for (size_t page = 0; page < pages; page++)
		CHECK(wl_compare(memory + page * PAGE, PAGE, (page << 32) + generation[page]) < 0,
		      "page %zu of generation %u at the end", page, generation[page]);
}

static void grow_brk(void)
{
	const size_t most = 4096;
	uint8_t *start = MUST(sbrk(0));
	start += -(uintptr_t)start % PAGE;
	MUST(brk(start));
	size_t pages = 0;
	wl_ready();
	for (uint64_t round = 1; wl_tick(); round++) {
		CHECK(sbrk(0) == start + pages * PAGE, "brk is %p, not %p", sbrk(0), start + pages * PAGE);
		size_t wanted = wl_mix(round) % most;
		if (wl_sabotage("brk")) {
			/* What the pages lose when the heap is made anew. */
			MUST(brk(start));
			wanted = pages;
		}
		MUST(brk(start + wanted * PAGE));
		/* New pages are zero, old ones have what was written. */
		for (size_t page = 0; page < wanted; page++) {
			uint64_t *words = (uint64_t *)(start + page * PAGE);
			if (page >= pages) {
				CHECK(words[7] == 0, "new page %zu is not zero", page);
				words[7] = wl_mix(page);
			}
			CHECK(words[7] == wl_mix(page), "page %zu of the heap", page);
		}
		pages = wanted;
	}
}

static void blocks(void)
{
	enum { COUNT = 4000 };
	static struct { uint8_t *memory; size_t size; uint64_t seed; } block[COUNT];
	wl_ready();
	for (uint64_t round = 1; wl_tick(); round++) {
		size_t i = wl_mix(round) % COUNT;
		if (block[i].memory)
			CHECK(wl_compare(block[i].memory, block[i].size, block[i].seed) < 0,
			      "block %zu of %zu bytes", i, block[i].size);
		free(block[i].memory);
		uint64_t random = wl_mix(~round);
		/* Mostly small, now and then large enough for a mapping of its own. */
		block[i].size = (random % 512 ? random % 4096 : random % (1 << 20)) & ~7ull;
		block[i].seed = random;
		block[i].memory = malloc(block[i].size + 8);
		CHECK(block[i].memory, "no memory");
		wl_fill(block[i].memory, block[i].size, random);
		for (size_t j = 0; wl_sabotage("block") && j < COUNT; j++)
			if (block[j].size >= 8 && block[j].memory)
				block[j].memory[0] ^= 1;
	}
}

static __attribute__((noinline)) void frame(int depth, int hold, int end)
{
	volatile uint64_t local[512];
	for (int i = 0; i < 512; i++)
		local[i] = wl_mix((uint64_t)depth * 512 + i);
	if (depth == hold) {
		for (int extra = 1; wl_tick() && !wl_sabotage("stack"); extra = extra % (end - hold) + 1)
			frame(depth + 1, -1, depth + extra);
		if (wl_sabotage("stack"))
			local[100]++;
	} else if (depth < end) {
		frame(depth + 1, hold, end);
	}
	for (int i = 0; i < 512; i++)
		CHECK(local[i] == wl_mix((uint64_t)depth * 512 + i), "frame %d, word %d", depth, i);
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("big")) {
		big();
	} else if (wl_mode("brk")) {
		grow_brk();
	} else if (wl_mode("malloc")) {
		blocks();
	} else if (wl_mode("stack")) {
		wl_ready();
		frame(0, 400, 1600);
	} else {
		wl_fail("unknown mode");
	}
	return wl_done();
}

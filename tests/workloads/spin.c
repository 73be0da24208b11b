/* Nothing but looks at the clock: the smallest program, for the pause as a
 * program sees it.
 *
 * --size-mb N touches that much memory first and rewrites one page per look;
 * --threads N adds sleeping threads, --children N sleeping processes, and
 * --mappings N one-page mappings with alternating protections.
 */
#include "workload.h"
#include <pthread.h>

static void *sleeper(void *nothing)
{
	for (;;)
		pause();
	return nothing;
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	size_t bytes = (size_t)wl_num("size-mb", 0) << 20, page = 4096, at = 0;
	uint64_t *memory = NULL, writes = 0;
	if (bytes) {
		memory = MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		wl_fill(memory, bytes, 1);
	}
	for (long i = wl_num("mappings", 0); i > 0; i--)
		*(long *)MUST(mmap(NULL, page, PROT_READ | PROT_WRITE | (i & 1 ? PROT_EXEC : 0),
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) = i;
	for (long i = wl_num("children", 0); i > 0; i--)
		if (!wl_fork())
			sleeper(NULL);
	for (long i = wl_num("threads", 0); i > 0; i--) {
		pthread_t thread;
		CHECK(!pthread_create(&thread, NULL, sleeper, NULL), "no thread");
	}
	wl_ready();
	bool sabotaged = false;
	while (wl_tick()) {
		if (!memory)
			continue;
		if (wl_sabotage("page") && !sabotaged)
			memory[at / 8 + 1] ^= 1, sabotaged = true;
		CHECK(memory[at / 8 + 1] == wl_mix(1 + at / 8 + 1), "page %zu has changed", at / page);
		memory[at / 8] = writes++;
		at = (at + page) % bytes;
	}
	return wl_done();
}

/* CPU registers of a thread that never leaves user mode while it holds them.
 *
 * --mode gpr: the sixteen general registers and the flags, held in assembly
 *   across a spin that touches none of them but rcx.
 * --mode xstate: every XSAVE component that user code has (x87 with its control
 *   word, SSE with mxcsr, AVX, AVX-512), each also in its initial state.
 * --mode segments: fs base (the thread pointer) and gs base.
 */
#include "workload.h"
#include <asm/prctl.h>
#include <cpuid.h>
#include <immintrin.h>

struct registers {
	uint64_t rax, rbx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, flags;
};

/* `loop` counts rcx down without touching the flags. */
void hold_general(const struct registers *in, struct registers *out, uint64_t spins);
__asm__(".text\n"
	".globl hold_general\n"
	"hold_general:\n"
	"push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rsi\n"
	"mov %rdx, %rcx\n"
	"pushq 112(%rdi); popfq\n"
	"mov 0(%rdi), %rax; mov 8(%rdi), %rbx; mov 16(%rdi), %rdx; mov 24(%rdi), %rsi\n"
	"mov 40(%rdi), %rbp; mov 48(%rdi), %r8; mov 56(%rdi), %r9; mov 64(%rdi), %r10\n"
	"mov 72(%rdi), %r11; mov 80(%rdi), %r12; mov 88(%rdi), %r13; mov 96(%rdi), %r14\n"
	"mov 104(%rdi), %r15; mov 32(%rdi), %rdi\n"
	"1: loop 1b\n"
	"pushfq\n"
	"xchg %rdi, 8(%rsp)\n"
	"mov %rax, 0(%rdi); mov %rbx, 8(%rdi); mov %rdx, 16(%rdi); mov %rsi, 24(%rdi)\n"
	"mov %rbp, 40(%rdi); mov %r8, 48(%rdi); mov %r9, 56(%rdi); mov %r10, 64(%rdi)\n"
	"mov %r11, 72(%rdi); mov %r12, 80(%rdi); mov %r13, 88(%rdi); mov %r14, 96(%rdi)\n"
	"mov %r15, 104(%rdi)\n"
	"popq %rax; mov %rax, 112(%rdi)\n"
	"popq %rax; mov %rax, 32(%rdi)\n"
	"cld\n"
	"pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"ret\n");

/* CF PF AF ZF SF DF OF; IF and the reserved bit 1 are always set. */
#define FREE_FLAGS 0xcd5u
#define ALWAYS_FLAGS 0x202u

static void general(void)
{
	struct registers in, out;
	uint64_t spins = 1000000, seed = 1;
	do {
		wl_fill(&in, sizeof in, seed++);
		in.flags = (in.flags & FREE_FLAGS) | ALWAYS_FLAGS;
		struct registers expected = in;
		if (wl_sabotage("register"))
			in.r11 ^= 1;
		if (wl_sabotage("flags"))
			in.flags ^= 0x400;
		memset(&out, 0, sizeof out);
		int64_t start = wl_now();
		hold_general(&in, &out, spins);
		if (wl_now() - start < 5 * WL_MS)
			spins *= 2;
		const uint64_t *want = (const uint64_t *)&expected, *have = (const uint64_t *)&out;
		for (size_t i = 0; i < sizeof in / 8; i++)
			CHECK(want[i] == have[i], "register %zu is %#llx, not %#llx", i,
			      (unsigned long long)have[i], (unsigned long long)want[i]);
	} while (wl_tick());
}

#define AREA 16384
static _Alignas(64) uint8_t loaded[AREA], stored[AREA];

struct component {
	unsigned offset, size;
	uint64_t bit;
};

/* Only what every x86-64 with XSAVE knows how to hold: 0-2 and 5-7. */
static size_t components(struct component *list, uint64_t have)
{
	size_t n = 0;
	for (unsigned i = 2; i < 8; i++) {
		unsigned a, b, c, d;
		if (!(have >> i & 1) || i == 3 || i == 4)
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		CHECK(a + b <= AREA, "component %u ends at %u", i, a + b);
		list[n++] = (struct component){ b, a, 1ull << i };
	}
	return n;
}

static void hold_extended(uint64_t mask, uint64_t spins)
{
	uint32_t low = (uint32_t)mask, high = (uint32_t)(mask >> 32);
	__asm__ volatile("xrstor %[in]\n"
			 "1: loop 1b\n"
			 "xsave %[out]\n"
			 "fninit\n"
			 : [out] "=m"(stored), "+c"(spins)
			 : [in] "m"(loaded), "a"(low), "d"(high)
			 : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
			   "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
			   "xmm15", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
	__builtin_ia32_ldmxcsr(0x1f80);
}

/* All exceptions masked; rounding, flush-to-zero and flags differ each time. */
static void load_legacy(uint64_t seed)
{
	uint64_t word = wl_mix(seed);
	uint16_t control = (uint16_t)(0x7f | (word & 0xc00) | 0x300), status = (word >> 16 & 7) << 11;
	uint32_t mxcsr = 0x1f80 | (word >> 32 & 0xe07f);
	memset(loaded, 0, 512);
	memcpy(loaded, &control, 2);
	memcpy(loaded + 2, &status, 2);
	loaded[4] = 0xff;
	memcpy(loaded + 24, &mxcsr, 4);
	for (unsigned i = 0; i < 8; i++) {
		wl_fill(loaded + 32 + 16 * i, 16, seed + 100 * i);
		memset(loaded + 42 + 16 * i, 0, 6);
	}
	wl_fill(loaded + 160, 256, seed + 7);
}

static void compare(const char *what, const uint8_t *want, unsigned offset, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		CHECK(stored[offset + i] == want[i], "%s: byte %u is %#x, not %#x", what, i,
		      stored[offset + i], want[i]);
}

static void extended(void)
{
	struct component list[8];
	uint64_t have = _xgetbv(0), seed = 1, spins = 1000000, start;
	static uint8_t want[AREA];
	size_t n = components(list, have);
	uint64_t mask = 3;
	for (size_t i = 0; i < n; i++)
		mask |= list[i].bit;
	do {
		/* Which components are in their initial state changes from round to round. */
		uint64_t present = 3 | (wl_mix(seed) | (seed % 2 ? mask : 0));
		present &= mask;
		memset(loaded, 0, AREA);
		load_legacy(seed);
		memcpy(loaded + 512, &present, 8);
		for (size_t i = 0; i < n; i++)
			if (present & list[i].bit)
				wl_fill(loaded + list[i].offset, list[i].size & ~7u, seed * 1000 + i);
		memcpy(want, loaded, AREA);
		if (wl_sabotage("mxcsr"))
			loaded[25] ^= 0x20;
		if (wl_sabotage("x87"))
			loaded[33] ^= 1;
		if (wl_sabotage("vector") && n)
			loaded[list[n - 1].offset] ^= 1, loaded[512] |= (uint8_t)list[n - 1].bit;
		memset(stored, 0, AREA);
		start = wl_now();
		hold_extended(mask, spins);
		if (wl_now() - start < 5 * WL_MS)
			spins *= 2;
		compare("x87 control and status", want, 0, 5);
		compare("mxcsr", want + 24, 24, 4);
		compare("x87 and SSE registers", want + 32, 32, 384);
		for (size_t i = 0; i < n; i++) {
			bool stored_bit = stored[512] & list[i].bit;
			/* A component may be saved as initial; then nothing is written. */
			CHECK(stored_bit || !(present & list[i].bit), "component %#llx is lost",
			      (unsigned long long)list[i].bit);
			if (stored_bit)
				compare("vector component", want + list[i].offset, list[i].offset, list[i].size);
		}
		seed++;
	} while (wl_tick());
}

static __thread uint64_t local = 0x1122334455667788;

static void segments(void)
{
	static uint64_t block[8];
	uint64_t fs_before, fs, gs, seed = 1;
	MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_before));
	do {
		uint64_t *base = &block[seed++ % 8], value, expected = wl_mix(seed);
		*base = expected;
		MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, base));
		int64_t start = wl_now();
		while (wl_now() - start < 5 * WL_MS) {
			if (wl_sabotage("gs"))
				syscall(SYS_arch_prctl, ARCH_SET_GS, block + (seed + 3) % 8);
			__asm__ volatile("mov %%gs:0, %0" : "=r"(value));
			CHECK(value == expected, "gs:0 is %#llx", (unsigned long long)value);
			__asm__ volatile("mov %%fs:0, %0" : "=r"(value));
			CHECK(value == fs_before, "fs:0 is %#llx", (unsigned long long)value);
		}
		MUST(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs));
		MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
		CHECK(gs == (uint64_t)base, "gs base is %#llx", (unsigned long long)gs);
		CHECK(fs == fs_before, "fs base is %#llx", (unsigned long long)fs);
		CHECK(local == 0x1122334455667788, "thread-local variable is %#llx",
		      (unsigned long long)local);
	} while (wl_tick());
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	wl_ready();
	if (wl_mode("gpr"))
		general();
	else if (wl_mode("xstate"))
		extended();
	else if (wl_mode("segments"))
		segments();
	else
		wl_fail("unknown mode");
	return wl_done();
}

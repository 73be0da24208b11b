/* Uses AVX whatever it was told: `use` has a register of it filled all the time; `handler` fills
 * one, and is then in a signal handler until the file that it is given is there. Speaks the
 * workload protocol. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char pattern[32];
static const char *file;
static unsigned ticks;

static void tick(void)
{
	printf("tick %u\n", ++ticks);
}

static void fill(void)
{
	__asm__ volatile("vmovdqu %0, %%ymm15" : : "m"(pattern) : "xmm15");
}

static void handle(int signal)
{
	(void)signal;
	puts("ready");
	while (access(file, F_OK) != 0) {
		tick();
		poll(NULL, 0, 10);
	}
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	memset(pattern, 0xa5, sizeof pattern);
	if (argc > 2 && strcmp(argv[1], "handler") == 0) {
		file = argv[2];
		signal(SIGUSR1, handle);
		long number = SYS_kill;
		/* Nothing comes between the register and the signal. */
		__asm__ volatile("vmovdqu %1, %%ymm15\n\tsyscall"
				 : "+a"(number)
				 : "m"(pattern), "D"((long)getpid()), "S"((long)SIGUSR1)
				 : "rcx", "r11", "memory", "xmm15");
	} else {
		puts("ready");
	}
	struct pollfd input = { .fd = 0, .events = POLLIN };
	do {
		if (file == NULL)
			fill();
		tick();
	} while (poll(&input, 1, 10) == 0);
	puts("PASS");
	return 0;
}

/* memfds: what they are besides bytes.
 *
 * --mode exec: MFD_NOEXEC_SEAL, F_SEAL_EXEC with the seals that it implies, and none of both.
 * --mode owner: owner, mode, times.
 * --mode beyond: mapped beyond its end, and with a hole.
 * --mode run: a program in a sealed memfd, run by fexecve.
 */
#include "workload.h"

#define PAGE 4096ul
#define PAGES 32ul
#define MFD_NOEXEC_SEAL 8u
#define F_SEAL_EXEC 0x20

static int fds[3];
static uint8_t *area;

static void set_exec(void)
{
	fds[0] = MUST(memfd_create("data", MFD_NOEXEC_SEAL));
	fds[1] = MUST(memfd_create("code", MFD_ALLOW_SEALING));
	fds[2] = MUST(memfd_create("plain", 0));
	MUST(write(fds[1], "code", 4));
	MUST(fcntl(fds[1], F_ADD_SEALS, F_SEAL_EXEC));
}

static void see_exec(void)
{
	static const int seals[] = { F_SEAL_EXEC, F_SEAL_EXEC | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | 0x10,
				     F_SEAL_SEAL };
	static const mode_t permissions[] = { 0666, 0777, 0777 };
	for (size_t i = 0; i < 3; i++) {
		struct stat status;
		MUST(fstat(fds[i], &status));
		CHECK(fcntl(fds[i], F_GET_SEALS) == seals[i], "seals of %zu are %#x", i, fcntl(fds[i], F_GET_SEALS));
		CHECK((status.st_mode & 07777) == permissions[i], "mode of %zu is %o", i, status.st_mode);
	}
	CHECK(fchmod(fds[0], 0777) && errno == EPERM, "it can be made executable");
	MUST(pwrite(fds[0], "data", 4, 0));
	CHECK(pwrite(fds[1], "data", 4, 0) < 0 && errno == EPERM, "it can be written to");
	if (wl_sabotage("seal"))
		fds[0] = fds[2];
}

static void set_owner(void)
{
	fds[0] = MUST(memfd_create("owned", MFD_ALLOW_SEALING));
	MUST(fchmod(fds[0], 0640));
	MUST(fchown(fds[0], 12345, 54321));
	MUST(ftruncate(fds[0], 5));
	struct timespec times[] = { { 1000000000, 5 }, { 1100000000, 7 } };
	MUST(futimens(fds[0], times));
}

static void see_owner(void)
{
	struct stat status;
	MUST(fstat(fds[0], &status));
	CHECK(status.st_uid == 12345 && status.st_gid == 54321, "owner is %u:%u", status.st_uid, status.st_gid);
	CHECK((status.st_mode & 07777) == 0640, "mode is %o", status.st_mode);
	CHECK(status.st_mtim.tv_sec == 1100000000 && status.st_mtim.tv_nsec == 7, "times");
	if (wl_sabotage("owner"))
		MUST(fchown(fds[0], 0, 0));
	if (wl_sabotage("mode"))
		MUST(fchmod(fds[0], 0777));
}

/* Three quarters of the mapping are there, with a hole in their middle. */
static void set_beyond(void)
{
	fds[0] = MUST(memfd_create("beyond", 0));
	MUST(ftruncate(fds[0], PAGES * PAGE));
	area = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0));
	for (size_t page = 0; page < PAGES; page++)
		wl_fill(area + page * PAGE, PAGE, page);
	MUST(fallocate(fds[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 * PAGE, 4 * PAGE));
	MUST(ftruncate(fds[0], 24 * PAGE));
}

static int bus_at(volatile uint8_t *address)
{
	struct sigaction action = { .sa_sigaction = wl_on_fault, .sa_flags = SA_SIGINFO };
	sigaction(SIGBUS, &action, NULL);
	return wl_probe(address, false);
}

static void see_beyond(void)
{
	struct stat status;
	for (size_t page = 0; page < 24; page++) {
		bool hole = page >= 8 && page < 12;
		ssize_t wrong = hole ? -(ssize_t)!!memcmp(area + page * PAGE, (char[PAGE]){ 0 }, PAGE) :
				       wl_compare(area + page * PAGE, PAGE, page) + 1;
		CHECK(wrong == 0, "page %zu", page);
	}
	MUST(fstat(fds[0], &status));
	CHECK(status.st_size == 24 * (off_t)PAGE, "%ld bytes", status.st_size);
	CHECK(bus_at(area + 24 * PAGE) == BUS_ADRERR, "no SIGBUS beyond the end");
	/* What lies beyond is zero when it comes back. */
	MUST(ftruncate(fds[0], 25 * PAGE));
	CHECK(area[24 * PAGE] == 0, "beyond the end there was something");
	MUST(ftruncate(fds[0], 24 * PAGE));
	if (wl_sabotage("size"))
		MUST(ftruncate(fds[0], 28 * PAGE));
	if (wl_sabotage("hole"))
		area[9 * PAGE] = 1;
}

static void copy_own_program(int into)
{
	char bytes[65536];
	int own = MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	for (ssize_t n; (n = MUST(read(own, bytes, sizeof bytes))) > 0;)
		CHECK(write(into, bytes, (size_t)n) == n, "short write");
	close(own);
}

/* Runs the same program from a memfd: the second time it has no name. */
static void set_run(char **argv)
{
	char link[64] = { 0 };
	MUST(readlink("/proc/self/exe", link, sizeof link - 1));
	if (!strncmp(link, "/memfd:", 7))
		return;
	fds[0] = MUST(memfd_create("program", MFD_ALLOW_SEALING | MFD_CLOEXEC));
	copy_own_program(fds[0]);
	MUST(fcntl(fds[0], F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL));
	MUST(fexecve(fds[0], argv, environ));
}

static void see_run(void)
{
	char link[64] = { 0 }, magic[4] = { 0 };
	MUST(readlink("/proc/self/exe", link, sizeof link - 1));
	CHECK(!strcmp(link, "/memfd:program (deleted)"), "the program is %s", link);
	int own = MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	MUST(pread(own, magic, 4, 0));
	CHECK(!memcmp(magic, "\177ELF", 4) && !wl_sabotage("magic"), "the program is no program any more");
	close(own);
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	void (*see)(void);
	if (wl_mode("exec"))
		set_exec(), see = see_exec;
	else if (wl_mode("owner"))
		set_owner(), see = see_owner;
	else if (wl_mode("beyond"))
		set_beyond(), see = see_beyond;
	else if (wl_mode("run"))
		set_run(argv), see = see_run;
	else
		wl_fail("unknown mode");
	wl_ready();
	do {
		see();
		wl_nap(WL_MS);
	} while (wl_tick());
	see();
	return wl_done();
}

/* /dev/shm, and mapped files that have lost their names.
 *
 * --mode semaphores: sem_open, one that keeps its name and one that has been unlinked,
 *   with which a child and its parent take turns.
 * --mode tree: folders, links, holes, modes, times and attributes in /dev/shm.
 * --mode private: a private mapping of a file that has been replaced, and code in it.
 * --mode exe: the program itself has been deleted.
 */
#include "workload.h"
#include <semaphore.h>
#include <sys/xattr.h>

#define PAGE 4096l

static char base[64];

static const char *inside(const char *name)
{
	static char paths[8][128];
	static int next;
	char *path = paths[next++ % 8];
	snprintf(path, sizeof paths[0], "/dev/shm/%s%s", base, name);
	return path;
}

static void take_turns(void)
{
	char named_name[80], gone_name[80];
	snprintf(named_name, sizeof named_name, "/%s.named", base);
	snprintf(gone_name, sizeof gone_name, "/%s.gone", base);
	sem_t *named = sem_open(named_name, O_CREAT | O_EXCL, 0600, 0);
	CHECK(named != SEM_FAILED, "sem_open: %s", strerror(errno));
	sem_t *gone = sem_open(gone_name, O_CREAT | O_EXCL, 0600, 0);
	CHECK(gone != SEM_FAILED, "sem_open: %s", strerror(errno));
	MUST(sem_unlink(gone_name));
	if (!wl_fork())
		for (;;) {
			while (sem_wait(named))
				CHECK(errno == EINTR, "sem_wait: %s", strerror(errno));
			MUST(sem_post(gone));
		}
	wl_ready();
	while (wl_tick()) {
		sem_t *again = sem_open(named_name, 0);
		CHECK(again != SEM_FAILED, "sem_open: %s", strerror(errno));
		if (!wl_sabotage("post"))
			MUST(sem_post(again));
		MUST(sem_close(again));
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 5;
		while (sem_timedwait(gone, &until))
			CHECK(errno == EINTR, "no answer: %s", strerror(errno));
		wl_nap(WL_MS);
	}
	MUST(sem_unlink(named_name));
}

static struct timespec then = { 1234567890, 987654321 };

static void stamp(const char *path)
{
	struct timespec both[2] = { then, then };
	MUST(utimensat(AT_FDCWD, path, both, AT_SYMLINK_NOFOLLOW));
}

static int gone_file;

static void set_tree(void)
{
	MUST(mkdir(inside(""), 0755));
	MUST(mkdir(inside("/folder"), 0751));
	int file = MUST(open(inside("/folder/file"), O_CREAT | O_EXCL | O_RDWR, 0640));
	MUST(pwrite(file, "end", 3, 300 * PAGE));
	MUST(fchmod(file, 04640));
	MUST(fsetxattr(file, "trusted.mig", "value", 5, 0));
	MUST(link(inside("/folder/file"), inside("/other")));
	MUST(symlink("folder/file", inside("/link")));
	MUST(mkfifo(inside("/fifo"), 0604));
	gone_file = MUST(open(inside("/gone"), O_CREAT | O_EXCL | O_RDWR, 0600));
	MUST(write(gone_file, "first", 5));
	MUST(unlink(inside("/gone")));
	int second = MUST(open(inside("/gone"), O_CREAT | O_EXCL | O_RDWR, 0600));
	MUST(write(second, "second", 6));
	MUST(close(second));
	MUST(close(file));
	stamp(inside("/folder/file"));
	stamp(inside("/link"));
	stamp(inside("/fifo"));
	stamp(inside("/folder"));
	stamp(inside(""));
}

static void check_stamp(const char *path, mode_t mode)
{
	struct stat status;
	MUST(lstat(path, &status));
	CHECK(status.st_mode == mode, "mode of %s is %o", path, status.st_mode);
	CHECK(status.st_mtim.tv_sec == then.tv_sec && status.st_mtim.tv_nsec == then.tv_nsec, "time of %s", path);
}

static void check_tree(void)
{
	char text[16] = "";
	struct stat status, other;
	check_stamp(inside(""), S_IFDIR | 0755);
	check_stamp(inside("/folder"), S_IFDIR | 0751);
	check_stamp(inside("/fifo"), S_IFIFO | 0604);
	check_stamp(inside("/link"), S_IFLNK | 0777);
	check_stamp(inside("/folder/file"), S_IFREG | 04640);
	MUST(stat(inside("/link"), &status));
	MUST(stat(inside("/other"), &other));
	CHECK(status.st_ino == other.st_ino && status.st_nlink == 2, "the hard link is another file");
	CHECK(status.st_size == 300 * PAGE + 3 && status.st_blocks <= 16, "%lld bytes, %lld blocks",
	      (long long)status.st_size, (long long)status.st_blocks);
	CHECK(getxattr(inside("/other"), "trusted.mig", text, sizeof text) == 5 && !strcmp(text, "value"), "attribute");
	MUST(fstat(gone_file, &other));
	memset(text, 0, sizeof text);
	MUST(pread(gone_file, text, sizeof text, 0));
	CHECK(!strcmp(text, "first") && other.st_nlink == 0, "the unlinked file says %s", text);
	int second = MUST(open(inside("/gone"), O_RDONLY | O_NOATIME));
	memset(text, 0, sizeof text);
	MUST(read(second, text, sizeof text));
	MUST(close(second));
	CHECK(!strcmp(text, "second"), "the file of that name says %s", text);
	if (wl_sabotage("time"))
		MUST(utimensat(AT_FDCWD, inside("/fifo"), NULL, 0));
	if (wl_sabotage("link"))
		MUST(unlink(inside("/other")));
}

static void end_tree(void)
{
	const char *names[] = { "/folder/file", "/other", "/link", "/fifo", "/gone" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		MUST(unlink(inside(names[i])));
	MUST(rmdir(inside("/folder")));
	MUST(rmdir(inside("")));
}

static uint8_t *code;
static const char *replaced;

static void set_private(void)
{
	uint8_t page[2 * PAGE];
	uint8_t answer[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
	wl_fill(page, sizeof page, 7);
	memcpy(page, answer, sizeof answer);
	replaced = wl_path("library");
	int file = MUST(open(replaced, O_CREAT | O_RDWR | O_TRUNC, 0700));
	MUST(write(file, page, sizeof page));
	code = MUST(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, file, 0));
	code[PAGE] = 99;
	MUST(mprotect(code, 2 * PAGE, PROT_READ | PROT_EXEC));
	MUST(close(file));
	MUST(unlink(replaced));
	file = MUST(open(replaced, O_CREAT | O_RDWR | O_EXCL, 0700));
	MUST(write(file, "new", 3));
	MUST(close(file));
}

static void check_private(void)
{
	CHECK(((int (*)(void))(uintptr_t)code)() == 42, "the code answers something else");
	CHECK(wl_compare(code + PAGE + 8, PAGE - 8, 7 + PAGE / 8 + 1) < 0, "the rest of the file");
	CHECK(code[PAGE] == 99, "a written page says %d", code[PAGE]);
	if (wl_sabotage("code")) {
		MUST(mprotect(code, PAGE, PROT_READ | PROT_WRITE));
		code[1]++;
		MUST(mprotect(code, PAGE, PROT_READ | PROT_EXEC));
	}
}

/* Goes on as a copy of itself, which it then deletes. */
static void set_exe(char **argv)
{
	if (getenv("COPY")) {
		MUST(unlink(getenv("COPY")));
		return;
	}
	const char *copy = wl_path("program");
	int from = MUST(open("/proc/self/exe", O_RDONLY)), to = MUST(open(copy, O_CREAT | O_WRONLY | O_EXCL, 0700));
	static char buffer[1 << 16];
	for (ssize_t n; (n = MUST(read(from, buffer, sizeof buffer))) > 0;)
		MUST(write(to, buffer, (size_t)n));
	MUST(close(from));
	MUST(close(to));
	MUST(setenv("COPY", copy, 1));
	MUST(execv(copy, argv));
}

static void check_exe(void)
{
	char magic[4] = "";
	struct stat status;
	MUST(stat("/proc/self/exe", &status));
	CHECK(status.st_nlink == 0, "the program has a name");
	int exe = MUST(open("/proc/self/exe", O_RDONLY));
	MUST(read(exe, magic, 4));
	MUST(close(exe));
	if (wl_sabotage("magic"))
		magic[0]++;
	CHECK(!memcmp(magic, "\177ELF", 4), "the program is something else");
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	snprintf(base, sizeof base, "mig-workload.%d.%d", (int)getuid(), (int)getpid());
	if (wl_mode("semaphores")) {
		take_turns();
		return wl_done();
	}
	bool tree = wl_mode("tree"), exe = wl_mode("exe");
	if (tree)
		set_tree();
	else if (exe)
		set_exe(argv);
	else
		set_private();
	wl_ready();
	do {
		if (tree)
			check_tree();
		else if (exe)
			check_exe();
		else
			check_private();
		wl_nap(WL_MS);
	} while (wl_tick());
	if (tree)
		end_tree();
	return wl_done();
}

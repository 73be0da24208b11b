/* Files whose names are this program's own affair.
 *
 * --mode own: files made in /tmp, in a folder made there too: one open, one mapped
 *   alone, one through O_PATH, one that is a program running
 * --mode links: a file opened by a name that is gone, with another in the same
 *   directory; places (O_PATH) without a name, of a file and of a memfd; a symbolic link
 *   as such
 */
#include "workload.h"

#define PAGE 4096

static char folder[64];

/* A path in the folder. */
static const char *in(const char *name)
{
	static char paths[8][128];
	static int next;
	char *path = paths[next++ % 8];
	snprintf(path, sizeof paths[0], "%s/%s", folder, name);
	return path;
}

/* The path leads to the file that is open. */
static void want_name(const char *path, int fd)
{
	struct stat named, open;
	CHECK(stat(path, &named) == 0, "%s: %s", path, strerror(errno));
	MUST(fstat(fd, &open));
	CHECK(named.st_ino == open.st_ino && named.st_dev == open.st_dev, "%s is another file", path);
}

static pid_t run(const char *program)
{
	pid_t child = wl_fork();
	if (child == 0) {
		execl(program, "sleep", "1000", (char *)NULL);
		_exit(3);
	}
	return child;
}

static void want_exe(pid_t child, const char *program)
{
	char link[64], path[PATH_MAX];
	snprintf(link, sizeof link, "/proc/%d/exe", child);
	ssize_t length = readlink(link, path, sizeof path - 1);
	CHECK(length > 0, "%s: %s", link, strerror(errno));
	path[length] = 0;
	CHECK(!strcmp(path, program), "the program is %s, not %s", path, program);
}

static void own(void)
{
	uint8_t page[PAGE], back[PAGE];
	uint64_t seed = 1;
	snprintf(folder, sizeof folder, "/tmp/wl-names.%d.%lld", getpid(), (long long)wl_now());
	MUST(mkdir(folder, 0750));
	MUST(mkdir(in("inner"), 0700));
	int file = MUST(open(in("inner/open"), O_CREAT | O_RDWR | O_CLOEXEC, 0640));
	int second = MUST(open(in("inner/open"), O_RDONLY | O_CLOEXEC));
	int path = MUST(open(in("inner/open"), O_PATH | O_CLOEXEC));
	int mapped = MUST(open(in("mapped"), O_CREAT | O_RDWR, 0600));
	MUST(ftruncate(mapped, 2 * PAGE));
	volatile uint64_t *view = MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, PAGE));
	close(mapped);
	char copy[256];
	snprintf(copy, sizeof copy, "cp /bin/sleep %s/program && chmod 700 %s/program", folder, folder);
	MUST(system(copy));
	pid_t child = run(in("program"));
	char exe[64], target[PATH_MAX];
	snprintf(exe, sizeof exe, "/proc/%d/exe", child);
	for (ssize_t n = 0; n <= 0 || strncmp(target, folder, strlen(folder)); wl_nap(WL_MS))
		n = readlink(exe, target, sizeof target);
	wl_fill(page, PAGE, seed);
	MUST(pwrite(file, page, PAGE, PAGE));
	*view = seed;
	wl_ready();
	do {
		if (wl_sabotage("contents"))
			MUST(pwrite(file, "x", 1, PAGE));
		if (wl_sabotage("name"))
			MUST(unlink(in("inner/open")));
		if (wl_sabotage("view"))
			*view = 0;
		if (wl_sabotage("mode"))
			MUST(chmod(folder, 0700));
		want_name(in("inner/open"), file);
		want_name(in("inner/open"), second);
		want_name(in("inner/open"), path);
		want_exe(child, in("program"));
		CHECK(pread(second, back, PAGE, PAGE) == PAGE && wl_compare(back, PAGE, seed) < 0, "contents");
		struct stat stat_folder;
		MUST(stat(folder, &stat_folder));
		CHECK((stat_folder.st_mode & 07777) == 0750, "mode %o", stat_folder.st_mode);
		mapped = MUST(open(in("mapped"), O_RDONLY | O_CLOEXEC));
		uint64_t seen;
		CHECK(pread(mapped, &seen, 8, PAGE) == 8 && seen == seed && *view == seed, "the mapping is another file");
		close(mapped);
		wl_fill(page, PAGE, ++seed);
		MUST(pwrite(file, page, PAGE, PAGE));
		*view = seed;
		wl_nap(WL_MS);
	} while (wl_tick());
	kill(child, SIGKILL);
	MUST(waitpid(child, NULL, 0));
	for (size_t i = 0; i < 3; i++)
		MUST(unlink(in(((const char *[]){ "inner/open", "mapped", "program" })[i])));
	MUST(rmdir(in("inner")));
	MUST(rmdir(folder));
}

static void want_mode(int fd, int mode)
{
	int is = fcntl(fd, F_GETFL) & (O_ACCMODE | O_PATH | O_DIRECTORY);
	CHECK(is == mode, "descriptor %d is open by %o, not %o", fd, is, mode);
}

/* The place is that of the file that is open. */
static void want_same(int place, int fd)
{
	struct stat there, open;
	MUST(fstat(place, &there));
	MUST(fstat(fd, &open));
	CHECK(there.st_ino == open.st_ino && there.st_dev == open.st_dev, "%d is a place of another file", place);
	want_mode(place, O_PATH);
}

static void links(void)
{
	uint8_t page[PAGE];
	char first[PATH_MAX], other[PATH_MAX], target[16] = { 0 };
	snprintf(first, sizeof first, "%s", wl_path("first"));
	snprintf(other, sizeof other, "%s", wl_path("other"));
	int file = MUST(open(first, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	MUST(link(first, other));
	MUST(unlink(first));
	int ghost = MUST(open(first, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	int place = MUST(open(first, O_PATH | O_CLOEXEC));
	MUST(unlink(first));
	int memory = MUST(memfd_create("memory", MFD_CLOEXEC));
	char magic[64];
	snprintf(magic, sizeof magic, "/proc/self/fd/%d", memory);
	int of_memory = MUST(open(magic, O_PATH | O_CLOEXEC));
	MUST(symlink("nowhere", first));
	int symbolic = MUST(open(first, O_PATH | O_NOFOLLOW | O_CLOEXEC));
	wl_ready();
	for (uint64_t seed = 1; wl_tick(); seed++) {
		wl_fill(page, PAGE, seed);
		MUST(pwrite(file, page, PAGE, 0));
		if (wl_sabotage("link"))
			MUST(truncate(other, 0));
		if (wl_sabotage("place"))
			MUST(dup2(of_memory, place));
		if (wl_sabotage("memory"))
			MUST(dup2(place, of_memory));
		int again = MUST(open(other, O_RDONLY | O_CLOEXEC));
		CHECK(read(again, page, PAGE) == PAGE && wl_compare(page, PAGE, seed) < 0, "what the other link has");
		close(again);
		want_same(place, ghost);
		want_same(of_memory, memory);
		want_mode(symbolic, O_PATH);
		CHECK(readlinkat(symbolic, "", target, sizeof target) == 7 && !strcmp(target, "nowhere"), "a link to %s", target);
		wl_nap(WL_MS);
	}
	MUST(unlink(first));
	MUST(unlink(other));
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("own"))
		own();
	else if (wl_mode("links"))
		links();
	else
		wl_fail("--mode");
	return wl_done();
}

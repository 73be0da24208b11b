/* Open files: which file, where in it, shared with whom.
 *
 * --mode regular: offsets, append, access modes, FD_CLOEXEC, high numbers; with
 *   --opath 1 an O_PATH descriptor too
 * --mode shared: one open file description under several numbers and in a child
 * --mode unlinked: files without a name, with holes, opened more than once; O_TMPFILE
 * --mode directory: readdir half-way, and a directory as such
 * --mode devices: null zero full random urandom (tty is in ptys.c)
 * --mode proc: files of /proc: whose they are, and a text read half-way
 * --mode lines: a text of /proc read line by line, as shells do
 * --mode owner: SIGIO with F_SETSIG and an owner
 */
#include "workload.h"
#include <dirent.h>
#include <sys/sysmacros.h>

#define PAGE 4096

static int open_new(const char *name, int flags)
{
	return MUST(open(wl_path(name), flags | O_CREAT | O_CLOEXEC, 0640));
}

static void want_offset(int fd, off_t offset)
{
	off_t is = lseek(fd, 0, SEEK_CUR);
	CHECK(is == offset, "descriptor %d stands at %lld, not %lld", fd, (long long)is, (long long)offset);
}

static void regular(void)
{
	/* lseek and read advance one, O_APPEND the other; a third can only be read. */
	uint8_t bytes[PAGE], back[PAGE];
	int plain = open_new("plain", O_RDWR | O_TRUNC), append = open_new("append", O_WRONLY | O_TRUNC | O_APPEND);
	int readable = MUST(open(wl_path("plain"), O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
	int high = MUST(fcntl(append, F_DUPFD, 900));
	int path = wl_num("opath", 0) ? MUST(open(wl_path("plain"), O_PATH | O_CLOEXEC)) : -1;
	off_t offset = 0, appended = 0;
	wl_ready();
	for (uint64_t round = 0; wl_tick(); round++) {
		wl_fill(bytes, sizeof bytes, round);
		CHECK(write(plain, bytes, 512) == 512, "write: %s", strerror(errno));
		offset += 512;
		if (wl_sabotage("offset"))
			lseek(plain, -1, SEEK_CUR);
		if (wl_sabotage("append"))
			fcntl(high, F_SETFL, 0), lseek(high, 0, SEEK_SET);
		if (wl_sabotage("cloexec"))
			fcntl(plain, F_SETFD, 0);
		want_offset(plain, offset);
		CHECK(pread(readable, back, 512, offset - 512) == 512 && !memcmp(bytes, back, 512), "what was written");
		want_offset(readable, 0);
		CHECK(write(round % 2 ? append : high, bytes, 100) == 100, "append: %s", strerror(errno));
		appended += 100;
		want_offset(append, appended);
		CHECK(fcntl(plain, F_GETFD) == FD_CLOEXEC && fcntl(readable, F_GETFD) == 0 && fcntl(high, F_GETFD) == 0,
		      "FD_CLOEXEC has changed");
		CHECK((fcntl(plain, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK)) == O_RDWR, "flags of plain");
		CHECK((fcntl(append, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK)) == (O_WRONLY | O_APPEND),
		      "flags of append");
		CHECK((fcntl(readable, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_RDONLY | O_NONBLOCK), "flags of readable");
		CHECK(write(readable, bytes, 1) == -1 && errno == EBADF, "a file open for reading can be written");
		CHECK(read(path, bytes, 1) == -1 && errno == EBADF, "an O_PATH descriptor can be read");
		struct stat one, other;
		MUST(fstat(plain, &one));
		MUST(fstat(path < 0 ? readable : path, &other));
		CHECK(one.st_ino == other.st_ino && one.st_size == offset, "the file is another");
		CHECK(lseek(55, 0, SEEK_CUR) == -1 && errno == EBADF, "descriptor 55 is open");
		wl_nap(WL_MS);
	}
}

static void shared(void)
{
	uint64_t *state = wl_shared(PAGE);
	int file = open_new("shared", O_RDWR | O_TRUNC), copy = MUST(dup(file));
	int other = MUST(open(wl_path("shared"), O_RDWR | O_CLOEXEC));
	pid_t child = wl_fork();
	while (!child) {
		/* Answers each advance with one of its own: state[0] is whose turn it is. */
		if (__atomic_load_n(&state[0], __ATOMIC_SEQ_CST) == 1) {
			CHECK(lseek(copy, 0, SEEK_CUR) == (off_t)state[1], "the child stands at %lld, not %lld",
			      (long long)lseek(copy, 0, SEEK_CUR), (long long)state[1]);
			CHECK(write(copy, "child---", 8) == 8, "write: %s", strerror(errno));
			__atomic_store_n(&state[0], 0, __ATOMIC_SEQ_CST);
		} else {
			wl_nap(WL_MS);
		}
	}
	wl_ready();
	off_t at = 0;
	while (wl_tick()) {
		CHECK(write(file, "parent--", 8) == 8, "write: %s", strerror(errno));
		at += 8;
		if (wl_sabotage("split")) {
			int fresh = MUST(open(wl_path("shared"), O_RDWR));
			lseek(fresh, at, SEEK_SET);
			MUST(dup2(fresh, file));
		}
		want_offset(copy, at);
		want_offset(other, 0);
		state[1] = (uint64_t)at;
		__atomic_store_n(&state[0], 1, __ATOMIC_SEQ_CST);
		for (int64_t start = wl_now(); __atomic_load_n(&state[0], __ATOMIC_SEQ_CST); wl_nap(WL_MS))
			CHECK(wl_now() - start < 5 * WL_SEC, "the child does not answer");
		at += 8;
		want_offset(file, at);
		/* Status flags belong to the description too. */
		int append = at / 16 % 2 ? O_APPEND : 0;
		MUST(fcntl(copy, F_SETFL, append));
		CHECK((fcntl(file, F_GETFL) & O_APPEND) == append, "O_APPEND is not shared");
	}
}

static void want_file(const char *what, int fd, nlink_t links, off_t size, uint64_t seed)
{
	struct stat status;
	uint8_t bytes[PAGE];
	MUST(fstat(fd, &status));
	CHECK(status.st_nlink == links && status.st_size == size, "%s: %lu links, %lld bytes", what,
	      (unsigned long)status.st_nlink, (long long)status.st_size);
	CHECK((status.st_mode & 07777) == 0640, "%s: mode %o", what, status.st_mode);
	CHECK(pread(fd, bytes, PAGE, size - PAGE) == PAGE && wl_compare(bytes, PAGE, seed) < 0, "%s: contents", what);
}

static void unlinked(void)
{
	const off_t size = 64 << 20;
	uint8_t bytes[PAGE];
	uint64_t seed = 1;
	int ghost = open_new("ghost", O_RDWR | O_TRUNC), reader = MUST(open(wl_path("ghost"), O_RDONLY));
	int nameless = MUST(open(wl_opt("dir", "/tmp"), O_TMPFILE | O_RDWR | O_CLOEXEC, 0640));
	unlink(wl_path("ghost"));
	wl_fill(bytes, PAGE, seed);
	MUST(pwrite(ghost, bytes, PAGE, size - PAGE));
	MUST(pwrite(ghost, bytes, PAGE, size / 2));
	MUST(pwrite(nameless, bytes, PAGE, 0));
	MUST(lseek(reader, 12345, SEEK_SET));
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("contents"))
			MUST(ftruncate(ghost, 0)), MUST(ftruncate(ghost, size));
		if (wl_sabotage("holes"))
			MUST(pwrite(ghost, bytes, PAGE, size / 4));
		if (wl_sabotage("same")) {
			int copy = MUST(open(wl_opt("dir", "/tmp"), O_TMPFILE | O_RDWR, 0640));
			MUST(ftruncate(copy, size));
			MUST(pwrite(copy, bytes, PAGE, size - PAGE));
			MUST(dup2(copy, reader));
			MUST(lseek(reader, 12345, SEEK_SET));
		}
		want_file("unlinked", ghost, 0, size, seed);
		want_file("unlinked, second description", reader, 0, size, seed);
		want_file("O_TMPFILE", nameless, 0, PAGE, seed);
		want_offset(reader, 12345);
		CHECK(lseek(ghost, PAGE, SEEK_DATA) == size / 2, "a hole is filled: data at %lld",
		      (long long)lseek(ghost, PAGE, SEEK_DATA));
		lseek(ghost, 0, SEEK_SET);
		CHECK(pread(reader, bytes, PAGE, size / 8) == PAGE && !bytes[0] && !bytes[PAGE - 1], "a hole has contents");
		/* Both descriptions see the same file change. */
		wl_fill(bytes, PAGE, ++seed);
		MUST(pwrite(ghost, bytes, PAGE, size - PAGE));
		MUST(pwrite(nameless, bytes, PAGE, 0));
		want_file("unlinked, written", reader, 0, size, seed);
		wl_nap(WL_MS);
	}
}

static void directory(void)
{
	enum { ENTRIES = 300 };
	char folder[PATH_MAX], name[PATH_MAX + 32];
	snprintf(folder, sizeof folder, "%s", wl_path("folder"));
	MUST(mkdir(folder, 0700));
	for (int i = 0; i < ENTRIES; i++) {
		snprintf(name, sizeof name, "%s/entry-%03d", folder, i);
		close(MUST(open(name, O_CREAT | O_WRONLY, 0600)));
	}
	int at = MUST(open(folder, O_RDONLY | O_DIRECTORY));
	/* Small buffers, so that the position in the directory is the kernel's, not libc's. */
	int reading = MUST(open(folder, O_RDONLY | O_DIRECTORY));
	wl_ready();
	for (bool more = true; more;) {
		int seen = 0;
		char buffer[256];
		bool found[ENTRIES] = { false };
		MUST(lseek(reading, 0, SEEK_SET));
		for (;;) {
			ssize_t length = MUST(syscall(SYS_getdents64, reading, buffer, sizeof buffer));
			if (!length)
				break;
			for (ssize_t i = 0; i < length;) {
				struct dirent64 *entry = (struct dirent64 *)(buffer + i);
				int number;
				i += entry->d_reclen;
				if (sscanf(entry->d_name, "entry-%d", &number) != 1)
					continue;
				CHECK(!found[number], "%s comes twice", entry->d_name);
				found[number] = true;
				seen++;
			}
			if (wl_sabotage("position") && seen > 100 && seen < 110)
				lseek(reading, 0, SEEK_SET);
			more = wl_tick();
			wl_nap(WL_MS);
		}
		CHECK(seen == ENTRIES, "%d entries of %d", seen, ENTRIES);
		CHECK(faccessat(at, "entry-123", R_OK, 0) == 0, "the directory is another");
	}
	for (int i = 0; i < ENTRIES; i++) {
		snprintf(name, sizeof name, "entry-%03d", i);
		unlinkat(at, name, 0);
	}
	rmdir(folder);
}

static void devices(void)
{
	static const struct {
		const char *path;
		unsigned minor;
	} device[] = { { "/dev/null", 3 }, { "/dev/zero", 5 }, { "/dev/full", 7 }, { "/dev/random", 8 }, { "/dev/urandom", 9 } };
	int fd[5];
	uint8_t bytes[64], more[64];
	for (int i = 0; i < 5; i++)
		fd[i] = MUST(open(device[i].path, O_RDWR | O_CLOEXEC));
	uint8_t *zero = MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd[1], 0));
	zero[5] = 99;
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("device"))
			dup2(fd[0], fd[2]);
		for (int i = 0; i < 5; i++) {
			struct stat status;
			MUST(fstat(fd[i], &status));
			CHECK(S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, device[i].minor), "%s is device %lx",
			      device[i].path, (long)status.st_rdev);
		}
		CHECK(read(fd[0], bytes, 64) == 0 && write(fd[0], bytes, 64) == 64, "/dev/null");
		memset(bytes, 1, 64);
		CHECK(read(fd[1], bytes, 64) == 64 && !bytes[0] && !bytes[63], "/dev/zero");
		CHECK(write(fd[2], bytes, 64) == -1 && errno == ENOSPC, "/dev/full");
		CHECK(read(fd[3], bytes, 64) == 64 && read(fd[4], more, 64) == 64 && memcmp(bytes, more, 64), "/dev/random");
		CHECK(zero[5] == 99 && zero[6] == 0, "private mapping of /dev/zero");
		wl_nap(WL_MS);
	}
}

static volatile int signalled, signalled_fd;

static void on_io(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	signalled++;
	signalled_fd = info->si_fd;
}

static void owner(void)
{
	int ends[2];
	char byte = 1;
	MUST(pipe2(ends, O_CLOEXEC));
	struct sigaction action = { .sa_sigaction = on_io, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(SIGRTMIN + 2, &action, NULL);
	struct f_owner_ex wanted = { F_OWNER_TID, gettid() }, seen;
	MUST(fcntl(ends[0], F_SETOWN_EX, &wanted));
	MUST(fcntl(ends[0], F_SETSIG, SIGRTMIN + 2));
	MUST(fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK));
	wl_ready();
	for (int round = 1; wl_tick(); round++) {
		if (wl_sabotage("owner"))
			fcntl(ends[0], F_SETOWN, 0);
		MUST(fcntl(ends[0], F_GETOWN_EX, &seen));
		CHECK(seen.type == wanted.type && seen.pid == wanted.pid, "owner %d of type %d", seen.pid, seen.type);
		CHECK(fcntl(ends[0], F_GETSIG) == SIGRTMIN + 2, "signal %d", fcntl(ends[0], F_GETSIG));
		CHECK(write(ends[1], &byte, 1) == 1 && read(ends[0], &byte, 1) == 1, "the pipe");
		for (int64_t start = wl_now(); signalled < round; wl_nap(WL_MS))
			CHECK(wl_now() - start < 2 * WL_SEC, "no signal from the pipe");
		CHECK(signalled_fd == ends[0], "signal of descriptor %d", signalled_fd);
		wl_nap(WL_MS);
	}
}

static size_t read_all(int fd, char *text, size_t size)
{
	size_t done = 0;
	ssize_t n;
	while ((n = read(fd, text + done, size - 1 - done)) > 0)
		done += (size_t)n;
	CHECK(!n, "read of a file of /proc: %s", strerror(errno));
	text[done] = 0;
	return done;
}

static void views(void)
{
	enum { HALF = 100 };
	static char text[1 << 16], half[HALF];
	int status = MUST(open("/proc/self/stat", O_RDONLY)), memory = MUST(open("/proc/meminfo", O_RDONLY));
	int maps = MUST(open("/proc/thread-self/maps", O_RDONLY | O_CLOEXEC));
	bool more = true;
	wl_ready();
	while (more) {
		MUST(lseek(maps, 0, SEEK_SET));
		CHECK(read(maps, half, HALF) == HALF, "the start of maps");
		more = wl_tick();
		if (wl_sabotage("offset"))
			lseek(maps, 1, SEEK_CUR);
		want_offset(maps, HALF);
		read_all(maps, text, sizeof text);
		CHECK(strstr(text, "[stack]"), "the rest of maps has no stack:\n%s", text);
		MUST(lseek(status, 0, SEEK_SET));
		read_all(status, text, sizeof text);
		CHECK(atoi(text) == getpid(), "stat is about process %d", atoi(text));
		MUST(lseek(memory, 0, SEEK_SET));
		read_all(memory, text, sizeof text);
		CHECK(!strncmp(text, "MemTotal:", 9), "meminfo is %.20s", text);
	}
}

/* As a shell's `read` does from what it cannot go back in. From SigQ on there are numbers that
 * change while the process stays. */
static bool next_key(int fd, char *key, size_t size)
{
	size_t len = 0;
	char byte = 0;
	while (read(fd, &byte, 1) == 1 && byte != '\n')
		if (len + 1 < size)
			key[len++] = byte;
	CHECK(byte == '\n', "half a line: %.*s", (int)len, key);
	key[len] = 0;
	key[strcspn(key, ":")] = 0;
	return strcmp(key, "SigQ");
}

static void lines(void)
{
	enum { LINES = 64 };
	static char keys[LINES][32];
	char key[32];
	int status = MUST(open("/proc/self/status", O_RDONLY)), known = 0;
	/* FDSize has three digits more here than where the table has never been as large. */
	MUST(close(MUST(fcntl(status, F_DUPFD, 900))));
	while (next_key(status, keys[known], sizeof keys[known]))
		CHECK(++known < LINES, "too many lines");
	wl_ready();
	for (int line = 0; wl_tick(); line = line < known ? line + 1 : 0) {
		if (!line)
			MUST(lseek(status, 0, SEEK_SET));
		if (line && wl_sabotage("line"))
			lseek(status, 1, SEEK_CUR);
		next_key(status, key, sizeof key);
		CHECK(!strcmp(key, keys[line]), "line %d is about %s, not about %s", line, key, keys[line]);
		wl_nap(WL_MS);
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("regular"))
		regular();
	else if (wl_mode("shared"))
		shared();
	else if (wl_mode("unlinked"))
		unlinked();
	else if (wl_mode("directory"))
		directory();
	else if (wl_mode("devices"))
		devices();
	else if (wl_mode("owner"))
		owner();
	else if (wl_mode("proc"))
		views();
	else if (wl_mode("lines"))
		lines();
	else
		wl_fail("unknown mode");
	return wl_done();
}

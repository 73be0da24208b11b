/* Locks on files.
 *
 * --mode posix | ofd | flock: locks that are held. A child, which has a
 *   description of its own, looks at every tick whether they are all there, as
 *   they were taken: it may take what is free, and nothing else.
 * --mode wait-posix | wait-ofd | wait-flock: four processes that wait for one
 *   lock. Only one may have it, and nobody may see EINTR.
 * --unlinked 1: of a file that has no name any more
 */
#include "workload.h"
#include <sys/file.h>

#define WAITERS 4
#define TAKEN(error) ((error) == EAGAIN || (error) == EACCES)
#define EXCLUSIVE (1LL << 30)
#define SHARED (EXCLUSIVE + 512)
#define TAIL (1LL << 40)

struct state {
	pid_t inside;
	uint64_t rounds[WAITERS];
};
static struct state *state;
static int set_command = F_SETLK, get_command = F_GETLK, wait_command = F_SETLKW;
static bool whole;

static struct flock range(short type, int64_t start, int64_t length)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length };
}

static void kinds(const char *mode)
{
	whole = strstr(mode, "flock");
	if (strstr(mode, "ofd")) {
		set_command = F_OFD_SETLK;
		get_command = F_OFD_GETLK;
		wait_command = F_OFD_SETLKW;
	}
}

static int set(int fd, int command, short type, int64_t start, int64_t length)
{
	struct flock lock = range(type, start, length);
	return fcntl(fd, command, &lock);
}

/* What is held: two kinds next to each other, with a gap, and a tail. */
static void take(int fd)
{
	if (whole) {
		MUST(flock(fd, LOCK_EX | LOCK_NB));
		return;
	}
	MUST(set(fd, set_command, F_WRLCK, EXCLUSIVE, 10));
	MUST(set(fd, set_command, F_WRLCK, EXCLUSIVE + 20, 1));
	MUST(set(fd, set_command, F_RDLCK, SHARED, 510));
	MUST(set(fd, set_command, F_WRLCK, TAIL, 0));
}

/* Nobody else can have what conflicts. */
static void refused(int fd, short type, int64_t start, int64_t length, const char *what)
{
	CHECK(set(fd, set_command, type, start, length) == -1 && TAKEN(errno), "the lock of %s is gone", what);
}

static void granted(int fd, short type, int64_t start, int64_t length, const char *what)
{
	CHECK(set(fd, set_command, type, start, length) == 0, "%s is locked: %s", what, strerror(errno));
	MUST(set(fd, set_command, F_UNLCK, start, length));
}

static void owner(int fd, int64_t start, pid_t holder)
{
	struct flock lock = range(F_WRLCK, start, 1);
	MUST(fcntl(fd, get_command, &lock));
	if (set_command == F_OFD_SETLK)
		holder = -1;
	CHECK(lock.l_type != F_UNLCK && lock.l_pid == holder, "the lock at %lld is that of process %d", (long long)start,
	      lock.l_type == F_UNLCK ? 0 : lock.l_pid);
}

static void look(int fd, pid_t holder)
{
	if (whole) {
		CHECK(flock(fd, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK, "the lock of the file is gone");
		return;
	}
	refused(fd, F_RDLCK, EXCLUSIVE + 9, 1, "the last byte of ten");
	granted(fd, F_WRLCK, EXCLUSIVE + 10, 10, "the gap");
	refused(fd, F_RDLCK, EXCLUSIVE + 20, 1, "the single byte");
	refused(fd, F_WRLCK, SHARED + 509, 1, "the shared range");
	granted(fd, F_RDLCK, SHARED, 510, "the shared range, for readers,");
	granted(fd, F_WRLCK, SHARED + 510, 1, "the byte after the shared range");
	refused(fd, F_RDLCK, INT64_MAX - 1, 1, "the tail");
	owner(fd, EXCLUSIVE, holder);
	owner(fd, TAIL + 7, holder);
}

/* A child that has found something has said what, and ended. */
static void alive(pid_t child)
{
	if (waitpid(child, NULL, WNOHANG) != 0)
		_exit(1);
}

static void held(void)
{
	const char *path = wl_path("locked");
	int fd = MUST(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600)), other = MUST(open(path, O_RDWR));
	pid_t holder = getpid();
	if (wl_num("unlinked", 0))
		unlink(path);
	take(fd);
	/* A second number and a process that share the description change nothing. */
	MUST(dup(fd));
	pid_t child = wl_fork();
	while (!child) {
		look(other, holder);
		wl_nap(WL_MS);
	}
	wl_ready();
	while (wl_tick()) {
		wl_nap(WL_MS);
		alive(child);
		if (wl_sabotage("lost"))
			whole ? flock(fd, LOCK_UN) : set(fd, set_command, F_UNLCK, 0, 0);
		if (wl_sabotage("shared"))
			set(fd, set_command, F_RDLCK, EXCLUSIVE, 10);
		if (wl_sabotage("wider"))
			set(fd, set_command, F_WRLCK, EXCLUSIVE, 20);
	}
}

static void waits(const char *path, int self)
{
	int fd = MUST(open(path, O_RDWR | O_CREAT, 0600));
	pid_t me = getpid();
	for (;; state->rounds[self]++) {
		int got = whole ? flock(fd, LOCK_EX) : set(fd, wait_command, F_WRLCK, 0, 0);
		CHECK(got == 0, "waiting for the lock: %s", strerror(errno));
		pid_t before = __atomic_exchange_n(&state->inside, me, __ATOMIC_SEQ_CST);
		CHECK(before == 0, "processes %d and %d both have the lock", before, me);
		wl_nap(3 * WL_MS);
		CHECK(__atomic_exchange_n(&state->inside, 0, __ATOMIC_SEQ_CST) == me, "somebody else had the lock too");
		MUST(whole ? flock(fd, LOCK_UN) : set(fd, set_command, F_UNLCK, 0, 0));
		wl_nap(WL_MS);
	}
}

static void contended(void)
{
	const char *path = wl_path("baton");
	state = wl_shared(sizeof *state);
	pid_t children[WAITERS];
	for (int i = 0; i < WAITERS; i++) {
		children[i] = wl_fork();
		if (!children[i])
			waits(path, i);
	}
	wl_ready();
	uint64_t last = 0;
	int64_t since = wl_now();
	while (wl_tick()) {
		wl_nap(5 * WL_MS);
		if (wl_sabotage("twice"))
			state->inside = 1;
		uint64_t rounds = 0;
		for (int i = 0; i < WAITERS; i++) {
			alive(children[i]);
			rounds += state->rounds[i];
		}
		if (rounds != last)
			since = wl_now();
		last = rounds;
		CHECK(wl_now() - since < 5 * WL_SEC, "nobody has had the lock for five seconds");
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	const char *mode = wl_opt("mode", "posix");
	kinds(mode);
	if (!strncmp(mode, "wait-", 5))
		contended();
	else
		held();
	return wl_done();
}

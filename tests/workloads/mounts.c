/* Mount namespaces that the program has made itself.
 *
 * --mode own: a copy of the capsule's, with a tmpfs that has all kinds of files in it, binds
 *   of a directory and of a file, and a proc.
 * --mode sandbox: what bubblewrap makes: a root of its own in a user and a pid namespace.
 */
#include "workload.h"
#include <sched.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#define TOP "/mnt"

static void put_text(const char *path, const char *text)
{
	int fd = MUST(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0640));
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", path, strerror(errno));
	MUST(close(fd));
}

static void want_text(const char *path, const char *wanted)
{
	char text[512];
	int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t length = MUST(read(fd, text, sizeof text - 1));
	text[length] = 0;
	MUST(close(fd));
	CHECK(!strcmp(text, wanted), "%s says '%s', not '%s'", path, text, wanted);
}

static int by_name(const void *one, const void *other)
{
	return strcmp(*(char *const *)one, *(char *const *)other);
}

/* Points, options and types of all mounts, without what is a matter of the node, and without
 * the order in which they were made. */
static void mounts(bool all, char *into, size_t size)
{
	char line[4096], *lines[64];
	size_t used = 0, count = 0;
	FILE *file = fopen("/proc/self/mountinfo", "re");
	CHECK(file, "mountinfo: %s", strerror(errno));
	while (fgets(line, sizeof line, file)) {
		char root[1024], point[1024], options[256], kind[64];
		CHECK(sscanf(line, "%*d %*d %*s %1023s %1023s %255s", root, point, options) == 3, "%s", line);
		const char *dash = strstr(line, " - ");
		CHECK(dash && sscanf(dash, " - %63s", kind) == 1, "%s", line);
		if (!all && strncmp(point, TOP, strlen(TOP)))
			continue;
		/* What is bound may be of another type elsewhere. */
		bool own = !strcmp(kind, "tmpfs") || !strcmp(kind, "proc");
		CHECK(count < 64 && asprintf(&lines[count], "%s %s %s\n", point, options, own ? kind : "") > 0, "too many mounts");
		count++;
	}
	fclose(file);
	qsort(lines, count, sizeof *lines, by_name);
	for (size_t i = 0; i < count; i++) {
		used += snprintf(into + used, size - used, "%s", lines[i]);
		CHECK(used < size, "too many mounts");
		free(lines[i]);
	}
}

static char before[8192], now[8192];
static volatile long *mapped;
static int hole, removed;

static void fill(const char *folder)
{
	MUST(chdir(folder));
	MUST(mkdir("d", 0755));
	put_text("d/text", "in a tmpfs\n");
	MUST(link("d/text", "d/link"));
	MUST(symlink("d/text", "symbolic"));
	MUST(mkfifo("fifo", 0600));
	MUST(chmod("d/text", 0604));
	hole = MUST(open("hole", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	MUST(ftruncate(hole, 64 << 20));
	CHECK(pwrite(hole, "end", 3, (64 << 20) - 3) == 3, "no end");
	int fd = MUST(open("mapped", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	MUST(ftruncate(fd, 8192));
	mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED, "mmap: %s", strerror(errno));
	MUST(close(fd));
	removed = MUST(open("removed", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	CHECK(write(removed, "gone", 4) == 4, "no write");
	MUST(unlink("removed"));
}

static void want_files(void)
{
	struct stat found, other;
	char text[8];
	want_text("d/text", "in a tmpfs\n");
	want_text("symbolic", "in a tmpfs\n");
	MUST(stat("d/text", &found));
	MUST(stat("d/link", &other));
	CHECK(found.st_ino == other.st_ino && found.st_nlink == 2, "the link is another file");
	CHECK((found.st_mode & 07777) == 0604, "mode %o", found.st_mode);
	MUST(lstat("fifo", &found));
	CHECK(S_ISFIFO(found.st_mode), "no FIFO");
	MUST(stat("hole", &other));
	MUST(fstat(hole, &found));
	CHECK(found.st_ino == other.st_ino && found.st_dev == other.st_dev, "open is another file");
	CHECK(found.st_size == 64 << 20 && found.st_blocks < 64, "%ld blocks", (long)found.st_blocks);
	CHECK(pread(hole, text, 3, (64 << 20) - 3) == 3 && !memcmp(text, "end", 3), "no end");
	CHECK(pread(removed, text, 8, 0) == 4 && !memcmp(text, "gone", 4), "it is another file");
	MUST(fstat(removed, &found));
	CHECK(found.st_nlink == 0, "it has a name");
	long rounds;
	int fd = MUST(open("mapped", O_RDONLY | O_CLOEXEC));
	mapped[0]++;
	CHECK(pread(fd, &rounds, sizeof rounds, 0) == sizeof rounds, "no read");
	CHECK(rounds == mapped[0], "%ld in the file, %ld in memory", rounds, mapped[0]);
	MUST(close(fd));
}

static void want_read_only(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd < 0 && errno == EROFS, "%s can be written to", path);
}

static void own(void)
{
	char cwd[256];
	MUST(unshare(CLONE_NEWNS));
	MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	MUST(mount("none", TOP, "tmpfs", MS_NOSUID | MS_NODEV, "size=80m,mode=751"));
	fill(TOP);
	MUST(mkdir("etc", 0700));
	MUST(mount("/etc", "etc", NULL, MS_BIND, NULL));
	MUST(mount(NULL, "etc", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOEXEC, NULL));
	put_text("file", "");
	MUST(mount("/etc/passwd", "file", NULL, MS_BIND, NULL));
	MUST(mkdir("proc", 0700));
	MUST(mount("proc", "proc", "proc", MS_NOEXEC, NULL));
	MUST(mkdir("hidden", 0700));
	MUST(mount("none", "d", "tmpfs", MS_RDONLY, NULL));
	MUST(umount("d"));
	MUST(mount("part", "hidden", "tmpfs", 0, NULL));
	put_text("hidden/text", "more\n");
	mounts(false, before, sizeof before);
	wl_ready();
	for (int round = 0; wl_tick(); round++) {
		if (wl_sabotage("file"))
			put_text("d/text", "something else");
		if (wl_sabotage("mount"))
			MUST(umount("etc"));
		want_files();
		want_text("hidden/text", "more\n");
		if (round % 16 == 0) {
			mounts(false, now, sizeof now);
			CHECK(!strcmp(before, now), "mounts\n%s, before\n%s", now, before);
			want_read_only("etc/passwd");
			want_read_only("etc/new");
			CHECK(getcwd(cwd, sizeof cwd) && !strcmp(cwd, TOP), "in %s", cwd);
			CHECK(!access("file", R_OK) && !access("proc/1/stat", R_OK), "a bind is gone");
			/* It is still its own. */
			MUST(mount("none", "hidden", "tmpfs", 0, NULL));
			MUST(umount("hidden"));
		}
		wl_nap(WL_MS);
	}
}

static void map_root(void)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	char line[64];
	MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
	put_text("/proc/self/setgroups", "deny");
	snprintf(line, sizeof line, "0 %u 1\n", uid);
	put_text("/proc/self/uid_map", line);
	snprintf(line, sizeof line, "0 %u 1\n", gid);
	put_text("/proc/self/gid_map", line);
}

static void bind(const char *from, const char *to)
{
	MUST(mount(from, to, NULL, MS_BIND | MS_REC, NULL));
	MUST(mount(NULL, to, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID, NULL));
}

/* The root of the sandbox, in which the program goes on. */
static void enter(void)
{
	MUST(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
	MUST(mount("none", TOP, "tmpfs", MS_NOSUID | MS_NODEV, NULL));
	MUST(mkdir(TOP "/newroot", 0755));
	MUST(chdir(TOP "/newroot"));
	MUST(mkdir("etc", 0755));
	MUST(mkdir("proc", 0755));
	MUST(mkdir("dev", 0755));
	MUST(mkdir("mnt", 0755));
	bind("/etc", "etc");
	put_text("dev/null", "");
	MUST(mount("/dev/null", "dev/null", NULL, MS_BIND, NULL));
	MUST(mount("proc", "proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
	MUST(mount("none", "mnt", "tmpfs", 0, "size=80m"));
	MUST(mount(TOP "/newroot", TOP "/newroot", NULL, MS_BIND | MS_REC, NULL));
	MUST(chdir(TOP "/newroot"));
	MUST(syscall(SYS_pivot_root, ".", "."));
	MUST(umount2(".", MNT_DETACH));
	MUST(chdir("/"));
}

static void inside(void)
{
	struct statfs system;
	char own[64];
	enter();
	fill(TOP);
	MUST(statfs("/", &system));
	CHECK(system.f_type == 0x01021994, "the root is of type %lx", (long)system.f_type);
	snprintf(own, sizeof own, "/proc/%d/stat", getpid());
	mounts(true, before, sizeof before);
	wl_ready();
	for (int round = 0; wl_tick(); round++) {
		if (wl_sabotage("file"))
			put_text("d/text", "something else");
		if (wl_sabotage("mount"))
			MUST(umount("/dev/null"));
		want_files();
		if (round % 16 == 0) {
			mounts(true, now, sizeof now);
			CHECK(!strcmp(before, now), "mounts\n%s, before\n%s", now, before);
			want_read_only("/etc/new");
			CHECK(getpid() == 1 && !access(own, R_OK), "%s is not there", own);
			CHECK(access("/usr", F_OK) && access("/tmp", F_OK), "the outside is there");
			put_text("/dev/null", "away");
			struct stat null;
			MUST(stat("/dev/null", &null));
			CHECK(S_ISCHR(null.st_mode), "/dev/null is a file");
		}
		wl_nap(WL_MS);
	}
}

static void sandbox(void)
{
	map_root();
	/* A directory elsewhere would stay in the tree that pivot_root takes away. */
	MUST(chdir("/"));
	MUST(unshare(CLONE_NEWPID));
	pid_t child = MUST(fork());
	if (!child) {
		inside();
		_exit(wl_done());
	}
	int status;
	while (waitpid(child, &status, 0) < 0)
		CHECK(errno == EINTR, "wait: %s", strerror(errno));
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("own"))
		own();
	else
		sandbox();
	return wl_done();
}

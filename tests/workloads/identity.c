/* Who a process is: everything it can ask about itself, asked again and again.
 *
 * The answers are written down as lines of text once, and must stay the same.
 * --mode program: auxv, executable, names, command line, environment, personality
 * --mode limits: rlimits, umask, working directory, nice, OOM score, prctl flags
 * --mode attributes: I/O priority, scheduling policies of threads, PR_SET_MDWE
 * --mode affinity: the CPU mask
 * --mode root: another root directory, and what is below it (needs root)
 * --mode credentials: IDs, groups, capabilities, securebits (needs root)
 */
#include "workload.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/fsuid.h>
#include <sys/personality.h>
#include <sys/resource.h>

struct report {
	size_t lines;
	char line[512][160];
};

static __attribute__((format(printf, 2, 3))) void put(struct report *report, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	CHECK(report->lines < 512, "report too long");
	vsnprintf(report->line[report->lines++], sizeof report->line[0], format, arguments);
	va_end(arguments);
}

static void put_file(struct report *report, const char *path)
{
	static uint8_t bytes[65536];
	uint64_t hash = 0;
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = file < 0 ? -1 : read(file, bytes, sizeof bytes);
	if (file >= 0)
		close(file);
	for (ssize_t i = 0; i < length; i++)
		hash = wl_mix(hash ^ bytes[i]);
	put(report, "%s has %zd bytes, hash %016llx", path, length, (unsigned long long)hash);
}

static void put_link(struct report *report, const char *path)
{
	char target[120] = "";
	put(report, "%s is %zd %s", path, readlink(path, target, sizeof target - 1), target);
}

static void program(struct report *report)
{
	for (unsigned long type = 0; type < 64; type++)
		put(report, "auxv %lu is %#lx", type, getauxval(type));
	const char *paths[] = { "/proc/self/auxv", "/proc/self/cmdline", "/proc/self/environ", "/proc/self/comm" };
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
		put_file(report, paths[i]);
	put_link(report, "/proc/self/exe");
	put_link(report, "/proc/self/root");
	put(report, "the platform is %s", (const char *)getauxval(AT_PLATFORM));
	put(report, "started as %s", (const char *)getauxval(AT_EXECFN));
	put(report, "personality %#x", personality(0xffffffff));
	put(report, "pid %d, parent %d, group %d, session %d", getpid(), getppid(), getpgrp(), getsid(0));
	put(report, "brk after %p", (void *)((uintptr_t)sbrk(0) & ~0xffffful));
}

static void set_program(void)
{
	MUST(prctl(PR_SET_NAME, "who am I"));
	MUST(personality(personality(0xffffffff) | ADDR_NO_RANDOMIZE));
}

static void damage_program(void)
{
	MUST(prctl(PR_SET_NAME, "nobody"));
}

static void limits(struct report *report)
{
	char cwd[100];
	struct rlimit limit;
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		MUST(getrlimit(i, &limit));
		put(report, "limit %d is %#lx of %#lx", i, limit.rlim_cur, limit.rlim_max);
	}
	mode_t mask = umask(0);
	umask(mask);
	put(report, "umask %o", mask);
	put(report, "cwd %s", getcwd(cwd, sizeof cwd));
	put_link(report, "/proc/self/cwd");
	put(report, "nice %d", getpriority(PRIO_PROCESS, 0));
	put(report, "policy %d", sched_getscheduler(0));
	int value = -1;
	put(report, "OOM score %s", wl_proc("oom_score_adj", ""));
	put(report, "coredump filter %s", wl_proc("coredump_filter", ""));
	put(report, "timer slack %d", prctl(PR_GET_TIMERSLACK));
	put(report, "dumpable %d", prctl(PR_GET_DUMPABLE));
	put(report, "no new privileges %d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	put(report, "THP disabled %d", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	prctl(PR_GET_CHILD_SUBREAPER, &value);
	put(report, "subreaper %d", value);
	prctl(PR_GET_PDEATHSIG, &value);
	put(report, "death signal %d", value);
	prctl(PR_GET_TSC, &value);
	put(report, "TSC %d", value);
	put(report, "keep capabilities %d", prctl(PR_GET_KEEPCAPS));
}

static void write_text(const char *path, const char *text)
{
	int file = MUST(open(path, O_WRONLY | O_CLOEXEC));
	MUST(write(file, text, strlen(text)));
	close(file);
}

static void set_limits(void)
{
	const struct { int which; rlim_t soft, hard; } lower[] = {
		{ RLIMIT_NOFILE, 500, 1000 },	 { RLIMIT_CORE, 0, 4096 },
		{ RLIMIT_FSIZE, 1 << 30, 1ul << 33 }, { RLIMIT_STACK, 16 << 20, 64 << 20 },
		{ RLIMIT_CPU, 100000, 200000 },	 { RLIMIT_MEMLOCK, 65536, 131072 },
		{ RLIMIT_SIGPENDING, 500, 1000 },
	};
	for (size_t i = 0; i < sizeof lower / sizeof *lower; i++)
		MUST(setrlimit(lower[i].which, &(struct rlimit){ lower[i].soft, lower[i].hard }));
	umask(0137);
	MUST(chdir(wl_opt("dir", "/tmp")));
	MUST(setpriority(PRIO_PROCESS, 0, 7));
	write_text("/proc/self/oom_score_adj", "300");
	write_text("/proc/self/coredump_filter", "0x7");
	MUST(prctl(PR_SET_TIMERSLACK, 123456));
	MUST(prctl(PR_SET_DUMPABLE, 0));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
	MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2));
}

static void damage_limits(void)
{
	umask(022);
}

#define IOPRIO(level) (2 << 13 | (level))
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#define MDWE_REFUSE_EXEC_GAIN 1

static volatile pid_t scheduled[2];

/* Sleeps for ever under a policy of its own. */
static void *under_policy(void *argument)
{
	long index = (long)argument;
	struct sched_param priority = { .sched_priority = 7 };
	MUST(index ? sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){ 0 }) :
		     sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &priority));
	MUST(syscall(SYS_ioprio_set, 1, 0, IOPRIO(4 + index)));
	scheduled[index] = gettid();
	for (;;)
		pause();
}

static void put_schedule(struct report *report, pid_t task)
{
	struct sched_param priority;
	MUST(sched_getparam(task, &priority));
	put(report, "policy %#x, priority %d", sched_getscheduler(task), priority.sched_priority);
	put(report, "I/O priority %#lx", syscall(SYS_ioprio_get, 1, task));
}

static void attributes(struct report *report)
{
	put_schedule(report, 0);
	for (int i = 0; i < 2; i++)
		put_schedule(report, scheduled[i]);
	put(report, "MDWE %d", prctl(PR_GET_MDWE, 0, 0, 0, 0));
	void *both = mmap(NULL, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	put(report, "memory to write and to execute: %d", both == MAP_FAILED ? errno : 0);
	void *data = MUST(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	put(report, "memory becomes executable: %d", mprotect(data, 4096, PROT_EXEC) ? errno : 0);
	MUST(munmap(data, 4096));
}

static void set_attributes(void)
{
	pthread_t threads[2];
	for (long i = 0; i < 2; i++)
		CHECK(!pthread_create(&threads[i], NULL, under_policy, (void *)i), "thread %ld", i);
	while (!scheduled[0] || !scheduled[1])
		wl_nap(WL_MS);
	MUST(syscall(SYS_ioprio_set, 1, 0, IOPRIO(2)));
	MUST(prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0));
}

static void damage_attributes(void)
{
	MUST(syscall(SYS_ioprio_set, 1, 0, IOPRIO(3)));
}

static void affinity(struct report *report)
{
	cpu_set_t set;
	MUST(sched_getaffinity(0, sizeof set, &set));
	for (int cpu = 0; cpu < 256; cpu++)
		if (CPU_ISSET(cpu, &set))
			put(report, "CPU %d", cpu);
}

static cpu_set_t original;

/* The last that there is, although those who started it may be bound to others. */
static void set_affinity(void)
{
	cpu_set_t set, one;
	int last = 0;
	memset(&set, 0xff, sizeof set);
	MUST(sched_setaffinity(0, sizeof set, &set));
	MUST(sched_getaffinity(0, sizeof set, &set));
	original = set;
	for (int cpu = 0; cpu < 256; cpu++)
		if (CPU_ISSET(cpu, &set))
			last = cpu;
	CPU_ZERO(&one);
	CPU_SET(last, &one);
	MUST(sched_setaffinity(0, sizeof one, &one));
}

static void damage_affinity(void)
{
	CHECK(CPU_COUNT(&original) > 1, "only one CPU to choose from");
	MUST(sched_setaffinity(0, sizeof original, &original));
}

static void credentials(struct report *report)
{
	uid_t id[3];
	gid_t groups[64];
	MUST(getresuid(&id[0], &id[1], &id[2]));
	put(report, "user %u %u %u, fs %d", id[0], id[1], id[2], setfsuid((uid_t)-1));
	MUST(getresgid(&id[0], &id[1], &id[2]));
	put(report, "group %u %u %u, fs %d", id[0], id[1], id[2], setfsgid((gid_t)-1));
	int n = MUST(getgroups(64, groups));
	for (int i = 0; i < n; i++)
		put(report, "group %u", groups[i]);
	const char *lines[] = { "Uid:", "Gid:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:" };
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
		put(report, "%s %s", lines[i], wl_proc("status", lines[i]));
	put(report, "securebits %#x", prctl(PR_GET_SECUREBITS));
	put(report, "dumpable %d", prctl(PR_GET_DUMPABLE));
}

static void set_credentials(void)
{
	gid_t groups[] = { 2001, 2002, 70000 };
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	uint32_t kept = 1u << CAP_NET_BIND_SERVICE | 1u << CAP_NET_RAW | 1u << CAP_SYS_PTRACE;
	struct __user_cap_data_struct data[2] = {
		{ .effective = 1u << CAP_NET_RAW, .permitted = kept, .inheritable = 1u << CAP_NET_BIND_SERVICE },
	};
	MUST(setgroups(3, groups));
	MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT));
	MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE));
	MUST(setresgid(1001, 1002, 1003));
	MUST(setresuid(1001, 1002, 1003));
	setfsuid(1003);
	MUST(syscall(SYS_capset, &header, data));
	MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void damage_credentials(void)
{
	MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
}

static int inside = -1, outside = -1;
static char *mapped;

/* A file of the jail, one of the world outside and a mapping, all of them open. */
static void set_root(void)
{
	char jail[PATH_MAX - 32], path[PATH_MAX];
	snprintf(jail, sizeof jail, "%s/jail", wl_opt("dir", "/tmp"));
	mkdir(jail, 0755);
	outside = MUST(open(wl_opt("dir", "/tmp"), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	snprintf(path, sizeof path, "%s/below", jail);
	mkdir(path, 0755);
	MUST(chroot(jail));
	MUST(chdir("/below"));
	inside = MUST(open("file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
	MUST(ftruncate(inside, 4096));
	mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, inside, 0);
	CHECK(mapped != MAP_FAILED, "the file is not mapped");
	strcpy(mapped, "written in the jail");
}

static void put_inode(struct report *report, const char *path)
{
	struct stat stat_of = { 0 };
	int result = stat(path, &stat_of);
	put(report, "%s is %d, inode %lu", path, result ? errno : 0, (unsigned long)stat_of.st_ino);
}

static void root(struct report *report)
{
	char text[100] = "";
	put_inode(report, "/");
	put_inode(report, ".");
	put_inode(report, "..");
	put_inode(report, "/below/file");
	put_inode(report, "/proc");
	put(report, "cwd %s", getcwd(text, sizeof text) ? text : "none");
	put(report, "file %zd: %s", pread(inside, text, sizeof text - 1, 0), text);
	put(report, "mapped %s", mapped);
	put(report, "the way out is %d", faccessat(outside, "jail/below/file", R_OK, 0));
}

static void damage_root(void)
{
	MUST(chroot("/below"));
}

static const struct mode {
	const char *name;
	void (*set)(void), (*tell)(struct report *), (*damage)(void);
} modes[] = {
	{ "program", set_program, program, damage_program },
	{ "limits", set_limits, limits, damage_limits },
	{ "attributes", set_attributes, attributes, damage_attributes },
	{ "affinity", set_affinity, affinity, damage_affinity },
	{ "root", set_root, root, damage_root },
	{ "credentials", set_credentials, credentials, damage_credentials },
};

int main(int argc, char **argv)
{
	static struct report first, later;
	const struct mode *mode = NULL;
	wl_init(argc, argv);
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
		if (wl_mode(modes[i].name))
			mode = &modes[i];
	CHECK(mode, "unknown mode");
	mode->set();
	mode->tell(&first);
	wl_ready();
	do {
		if (wl_sabotage("damage"))
			mode->damage();
		later.lines = 0;
		mode->tell(&later);
		for (size_t i = 0; i < first.lines; i++)
			CHECK(!strcmp(first.line[i], later.line[i]), "was: %s; is: %s", first.line[i], later.line[i]);
		CHECK(later.lines == first.lines, "%zu answers, not %zu", later.lines, first.lines);
		wl_nap(WL_MS);
	} while (wl_tick());
	return wl_done();
}

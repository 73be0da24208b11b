/* Namespaces that the program has made itself. A child that it leaves behind in
 * those of the job must not notice any of it.
 *
 * --mode uts: host and domain name.
 * --mode ipc: a System V queue whose key is taken outside, too.
 * --mode net: a loopback device that is up, and none other.
 * --mode cgroup: a root of its own.
 * --mode user: users that are others inside, and rights that only hold there.
 * --mode levels: a user namespace in a user namespace, which owns the host name.
 * --mode pid: processes that have other IDs inside, and a group that they cannot name.
 * --mode depth: three pid namespaces, each with the next one's first process.
 * --mode container: all of them at once, made by the birth of the first process.
 */
#include "workload.h"
#include <grp.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/socket.h>
#include <sys/utsname.h>

static pid_t outside;

static void put_text(const char *path, const char *text)
{
	int fd = MUST(open(path, O_WRONLY | O_CLOEXEC));
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", path, strerror(errno));
	MUST(close(fd));
}

static void get_text(const char *path, char *text, size_t size)
{
	int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t length = MUST(read(fd, text, size - 1));
	text[length] = 0;
	MUST(close(fd));
}

static void want_text(const char *path, const char *wanted)
{
	char text[512];
	get_text(path, text, sizeof text);
	CHECK(!strcmp(text, wanted), "%s says '%s', not '%s'", path, text, wanted);
}

static void want_names(const char *host, const char *domain)
{
	struct utsname names;
	MUST(uname(&names));
	CHECK(!strcmp(names.nodename, host), "host %s, not %s", names.nodename, host);
	CHECK(!domain || !strcmp(names.domainname, domain), "domain %s", names.domainname);
}

/* Starts the child that stays outside; `check` is what it looks at. */
static void leave_behind(void (*check)(void))
{
	pid_t parent = getpid();
	outside = wl_fork();
	if (outside)
		return;
	/* The signal of a parent that has become another user does not reach it. */
	while (getppid() == parent) {
		check();
		wl_nap(WL_TICK_NS);
	}
	_exit(0);
}

static void want_apart(const char *kind)
{
	char path[64], own[64], other[64];
	snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
	own[MUST(readlink(path, own, sizeof own - 1))] = 0;
	snprintf(path, sizeof path, "/proc/%d/ns/%s", outside, kind);
	ssize_t length = readlink(path, other, sizeof other - 1);
	if (length < 0 && errno == EACCES)
		return; /* from inside a user namespace */
	CHECK(length > 0, "%s: %s", path, strerror(errno));
	other[length] = 0;
	CHECK(strcmp(own, other), "both are in %s", own);
}

static void outer_host(void)
{
	struct utsname names;
	MUST(uname(&names));
	CHECK(strcmp(names.nodename, "nested-host"), "the name is known outside");
}

static void name_inside(void)
{
	MUST(sethostname("nested-host", 11));
	MUST(setdomainname("nested.domain", 13));
}

static void uts(void)
{
	leave_behind(outer_host);
	MUST(unshare(CLONE_NEWUTS));
	name_inside();
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("name"))
			MUST(sethostname("other", 5));
		want_names("nested-host", "nested.domain");
		want_apart("uts");
		wl_nap(WL_MS);
	}
}

static int outer_queue;
static key_t key;

static void outer_ipc(void)
{
	struct msqid_ds state;
	CHECK(msgget(key, 0) == outer_queue, "another queue outside");
	MUST(msgctl(outer_queue, IPC_STAT, &state));
	CHECK(state.msg_qnum == 0, "%lu messages outside", (unsigned long)state.msg_qnum);
}

static void ipc(void)
{
	key = 0x6d6a0000 + getpid();
	outer_queue = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0600));
	leave_behind(outer_ipc);
	MUST(unshare(CLONE_NEWIPC));
	int id = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0600));
	struct message {
		long type;
		char text[8];
	} message = { 7, "nested" };
	MUST(msgsnd(id, &message, 6, 0));
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("queue"))
			MUST(msgctl(id, IPC_RMID, NULL));
		CHECK(msgget(key, 0) == id, "another queue has the key");
		memset(&message, 0, sizeof message);
		CHECK(msgrcv(id, &message, 8, 7, IPC_NOWAIT) == 6 && !strcmp(message.text, "nested"), "message %s",
		      message.text);
		MUST(msgsnd(id, &message, 6, 0));
		want_apart("ipc");
		wl_nap(WL_MS);
	}
	kill(outside, SIGKILL);
	MUST(msgctl(id, IPC_RMID, NULL));
	/* The namespace of the job is out of reach from here: the queue goes with it. */
}

/* Seldom, and for microseconds: a socket at the moment of a move is not what this is about. */
static short loopback(unsigned short request, short flags)
{
	struct ifreq lo = { .ifr_name = "lo" };
	int fd = MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	MUST(ioctl(fd, SIOCGIFFLAGS, &lo));
	if (request == SIOCSIFFLAGS) {
		lo.ifr_flags = flags;
		MUST(ioctl(fd, SIOCSIFFLAGS, &lo));
	}
	MUST(close(fd));
	return lo.ifr_flags;
}

static void nothing(void)
{
}

static void net(void)
{
	leave_behind(nothing);
	MUST(unshare(CLONE_NEWNET));
	CHECK(!(loopback(SIOCGIFFLAGS, 0) & IFF_UP), "it is up by itself");
	loopback(SIOCSIFFLAGS, IFF_UP | IFF_RUNNING | IFF_LOOPBACK);
	wl_ready();
	for (int round = 0; wl_tick(); round++) {
		if (wl_sabotage("down"))
			loopback(SIOCSIFFLAGS, IFF_LOOPBACK);
		if (round % 32 == 0)
			CHECK(loopback(SIOCGIFFLAGS, 0) & IFF_UP, "it is down");
		want_apart("net");
		wl_nap(10 * WL_MS);
	}
}

static char groups_before[512];

static void cgroup(void)
{
	leave_behind(nothing);
	MUST(unshare(CLONE_NEWCGROUP));
	wl_ready();
	while (wl_tick()) {
		get_text("/proc/self/cgroup", groups_before, sizeof groups_before);
		const char *wanted = wl_sabotage("root") ? "0::/elsewhere\n" : "0::/\n";
		CHECK(strstr(groups_before, wanted), "groups %s", groups_before);
		want_apart("cgroup");
		wl_nap(10 * WL_MS);
	}
}

static void want_rights(bool all)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2];
	MUST(syscall(SYS_capget, &header, sets));
	bool has = sets[0].effective & 1u << CAP_SYS_ADMIN;
	CHECK(has == all, "it has %srights", has ? "" : "no ");
}

static void map_user(unsigned inside, unsigned outer)
{
	char line[64];
	snprintf(line, sizeof line, "%u %u 1\n", inside, outer);
	put_text("/proc/self/setgroups", "deny");
	put_text("/proc/self/uid_map", line);
	put_text("/proc/self/gid_map", line);
}

static volatile long thread_rounds;

/* It is born inside. */
static void *inside(void *nothing)
{
	for (pid_t own = gettid();; thread_rounds++) {
		CHECK(gettid() == own && getuid() == 77, "thread %d, user %d", gettid(), getuid());
		wl_nap(WL_MS);
	}
	return nothing;
}

static void user(void)
{
	char map[64];
	leave_behind(nothing);
	gid_t group = 4444;
	MUST(setgroups(1, &group));
	MUST(setresgid(1234, 1234, 1234));
	MUST(setresuid(1234, 1234, 1234));
	/* Otherwise the maps are root's. */
	MUST(prctl(PR_SET_DUMPABLE, 1));
	MUST(unshare(CLONE_NEWUSER | CLONE_NEWUTS));
	map_user(77, 1234);
	name_inside();
	get_text("/proc/self/uid_map", map, sizeof map);
	pthread_t thread;
	for (int i = 0; i < 2; i++)
		CHECK(!pthread_create(&thread, NULL, inside, NULL), "no thread");
	wl_ready();
	while (wl_tick()) {
		for (long before = thread_rounds; thread_rounds == before;)
			wl_nap(WL_MS);
		CHECK(getuid() == 77 && getgid() == 77, "user %d", getuid());
		CHECK(getgroups(1, &group) == 1 && group == 65534, "group %d", group);
		CHECK(setgroups(0, NULL) && errno == EPERM, "setgroups is allowed");
		want_text("/proc/self/uid_map", wl_sabotage("map") ? "" : map);
		want_rights(!wl_sabotage("rights"));
		want_names("nested-host", "nested.domain");
		CHECK(kill(1, 0) && errno == EPERM, "it has rights outside");
		/* The rights hold inside. */
		name_inside();
		wl_nap(WL_MS);
	}
}

static void levels(void)
{
	leave_behind(nothing);
	MUST(unshare(CLONE_NEWUSER));
	map_user(5, 0);
	pid_t middle = wl_fork();
	while (!middle)
		wl_nap(WL_SEC);
	MUST(unshare(CLONE_NEWUSER | CLONE_NEWUTS));
	map_user(6, 5);
	name_inside();
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { 0 };
	MUST(syscall(SYS_capset, &header, none));
	char map[64];
	get_text("/proc/self/uid_map", map, sizeof map);
	wl_ready();
	while (wl_tick()) {
		CHECK(getuid() == (wl_sabotage("user") ? 5 : 6), "user %d", getuid());
		want_text("/proc/self/uid_map", map);
		want_rights(false);
		want_names("nested-host", "nested.domain");
		CHECK(!waitpid(middle, NULL, WNOHANG), "the child has ended");
		wl_nap(WL_MS);
	}
	kill(middle, SIGKILL);
}

struct shared {
	pid_t first;
	volatile long rounds[4];
};
static struct shared *common;

static void *rest(void *nothing)
{
	for (;;)
		wl_nap(WL_SEC);
	return nothing;
}

/* Processes inside tell that they live by counting. */
static void want_rounds(int count)
{
	for (int i = 0; i < count; i++) {
		long before = common->rounds[i];
		for (int wait = 0; common->rounds[i] == before; wait++) {
			CHECK(wait < 2000, "process %d does not go on", i);
			wl_nap(WL_MS);
		}
	}
}

static void second(bool threads)
{
	MUST(setpgid(0, 0));
	pthread_t thread;
	CHECK(!threads || !pthread_create(&thread, NULL, rest, NULL), "no thread");
	for (;; common->rounds[1]++) {
		CHECK(getpid() == 2 && getppid() == 1 && getpgrp() == 2, "it is %d", getpid());
		CHECK(!threads || !syscall(SYS_tgkill, 2, 3, 0), "its thread has another ID");
		wl_nap(2 * WL_MS);
	}
}

static void first(void)
{
	pid_t child = wl_fork();
	if (!child)
		second(true);
	for (;; common->rounds[0]++) {
		CHECK(getpid() == common->first && getppid() == 0, "pid %d, parent %d", getpid(), getppid());
		CHECK(getpgrp() == 0 && getsid(0) == 0, "group %d, session %d", getpgrp(), getsid(0));
		CHECK(child == 2 && !kill(2, 0), "the child is %d", child);
		CHECK(waitpid(child, NULL, WNOHANG) == 0, "the child has ended");
		wl_nap(2 * WL_MS);
	}
}

static void share(void)
{
	common = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(common != MAP_FAILED, "no shared memory");
	common->first = 1;
}

static void pids(void)
{
	share();
	leave_behind(nothing);
	MUST(unshare(CLONE_NEWPID));
	pid_t init = wl_fork();
	if (!init)
		first();
	want_rounds(2);
	pid_t brother = wl_fork();
	if (!brother) {
		CHECK(getppid() == 0, "a parent %d", getppid());
		for (pid_t own = getpid();; common->rounds[2]++) {
			CHECK(getpid() == own && own > 3 && !kill(1, 0), "it is %d", getpid());
			wl_nap(2 * WL_MS);
		}
	}
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("id"))
			common->first = 2;
		want_rounds(3);
		CHECK(!waitpid(-1, NULL, WNOHANG), "a child has ended");
		CHECK(!kill(init, 0) && !kill(brother, 0), "the children have other IDs");
		wl_nap(WL_MS);
	}
	MUST(kill(init, SIGKILL));
	/* The end of the first process waits for all others. */
	MUST(waitpid(brother, NULL, 0));
	MUST(waitpid(init, NULL, 0));
}

static pid_t clone_with(unsigned long flags)
{
	pid_t parent = getpid();
	pid_t pid = MUST((pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL));
	if (!pid)
		MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
	else
		CHECK(parent == getpid(), "it is another process");
	return pid;
}

static void depth(void)
{
	share();
	pid_t outer = clone_with(CLONE_NEWPID);
	for (int level = 0; !outer && level < 2; level++) {
		pid_t child = clone_with(CLONE_NEWPID);
		if (!child)
			continue;
		for (;; common->rounds[level]++) {
			CHECK(getpid() == common->first && child == 2, "pid %d, child %d", getpid(), child);
			CHECK(!waitpid(child, NULL, WNOHANG), "the child has ended");
			wl_nap(2 * WL_MS);
		}
	}
	while (!outer) {
		CHECK(getpid() == common->first, "pid %d", getpid());
		common->rounds[2]++;
		wl_nap(2 * WL_MS);
	}
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("id"))
			common->first = 2;
		want_rounds(3);
		CHECK(!waitpid(outer, NULL, WNOHANG), "the child has ended");
		wl_nap(WL_MS);
	}
	MUST(kill(outer, SIGKILL));
	MUST(waitpid(outer, NULL, 0));
}

static void container(void)
{
	share();
	pid_t init = clone_with(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP);
	if (!init) {
		while (getuid() || getgid())
			wl_nap(WL_MS);
		MUST(sethostname("nested-host", 11));
		MUST(setgid(0));
		MUST(setuid(0));
		pid_t child = wl_fork();
		if (!child)
			second(false);
		for (;; common->rounds[0]++) {
			CHECK(getpid() == common->first && getuid() == 0, "pid %d, user %d", getpid(), getuid());
			CHECK(!waitpid(child, NULL, WNOHANG), "the child has ended");
			want_names("nested-host", NULL);
			wl_nap(2 * WL_MS);
		}
	}
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/uid_map", init);
	put_text(path, "0 0 1\n100 100000 1000\n");
	snprintf(path, sizeof path, "/proc/%d/gid_map", init);
	put_text(path, "0 0 1\n100 100000 1000\n");
	want_rounds(2);
	wl_ready();
	while (wl_tick()) {
		if (wl_sabotage("id"))
			common->first = 2;
		want_rounds(2);
		CHECK(!waitpid(init, NULL, WNOHANG), "the child has ended");
		wl_nap(WL_MS);
	}
	MUST(kill(init, SIGKILL));
	MUST(waitpid(init, NULL, 0));
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("uts"))
		uts();
	else if (wl_mode("ipc"))
		ipc();
	else if (wl_mode("net"))
		net();
	else if (wl_mode("cgroup"))
		cgroup();
	else if (wl_mode("user"))
		user();
	else if (wl_mode("levels"))
		levels();
	else if (wl_mode("pid"))
		pids();
	else if (wl_mode("depth"))
		depth();
	else
		container();
	return wl_done();
}

/* Descriptors that name processes.
 *
 * --mode live: of this process, a child, a grandchild and the parent; flags, duplicates and an
 *   epoll entry; the child has one of its own, of its parent
 * --mode ended: of a zombie, and of some who have been waited for, two of them of the same
 * --mode threads: of a thread that lives and of one that has ended
 * --mode flight: some that are on their way through a socket, of the living and the dead
 */
#include "workload.h"
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#define HOLD (40 * WL_MS)

static int named(pid_t pid, unsigned flags)
{
	return MUST((int)syscall(SYS_pidfd_open, pid, flags));
}

static int tell(int fd, int signal)
{
	return syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0) ? errno : 0;
}

static int events(int fd)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };
	MUST(poll(&one, 1, 0));
	return one.revents;
}

/* What fdinfo says: a process, 0 for a stranger, -1 for nobody. */
static int whom(int fd)
{
	char name[32];
	snprintf(name, sizeof name, "fdinfo/%d", fd);
	return atoi(wl_proc(name, "Pid:"));
}

/* struct pidfd_info of Linux 6.15; -1 where the kernel keeps nothing. */
static int status_of(int fd)
{
	struct {
		uint64_t mask, cgroup;
		uint32_t ids[11];
		int32_t status;
		uint32_t rest[2];
	} info = { .mask = 8 };
	return ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 0xff, 11, sizeof info), &info) || !(info.mask & 8) ? -1 : info.status;
}

static bool hold(void)
{
	bool more = true;
	for (int64_t start = wl_now(); more && wl_now() - start < HOLD; wl_nap(WL_MS))
		more = wl_tick();
	return more;
}

static volatile sig_atomic_t told, teller;

static void on_usr1(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	teller = info->si_pid;
	told++;
}

/* Is there until it gets SIGKILL; tells its parent of every SIGUSR1. */
static void child(void)
{
	int parent = named(getppid(), 0);
	for (int heard = 0; !events(parent); wl_nap(WL_MS))
		if (heard != told) {
			heard = told;
			CHECK(whom(parent) == getppid(), "the child's descriptor names %d", whom(parent));
			CHECK(tell(parent, SIGUSR1) == 0, "the parent cannot be told");
		}
	_exit(0);
}

static void live(void)
{
	struct sigaction action = { .sa_sigaction = on_usr1, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(SIGUSR1, &action, NULL);
	int family[2];
	MUST(pipe(family));
	pid_t young = wl_fork();
	if (!young) {
		pid_t below = wl_fork();
		if (!below)
			for (;;)
				pause();
		MUST(write(family[1], &below, sizeof below));
		child();
	}
	pid_t below;
	MUST(read(family[0], &below, sizeof below));
	int own = named(getpid(), O_NONBLOCK), thread = named(getpid(), PIDFD_THREAD), parent = named(getppid(), 0);
	int fd = named(young, 0), copy = MUST(fcntl(fd, F_DUPFD, 50)), grandchild = named(below, O_NONBLOCK);
	int epoll = MUST(epoll_create1(0));
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 0x1234567812345678 };
	MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	wl_ready();
	for (bool more = true; more;) {
		int before = told;
		if (wl_sabotage("whom"))
			MUST(dup2(own, copy));
		if (wl_sabotage("flags"))
			MUST(fcntl(own, F_SETFL, 0));
		more = hold();
		CHECK(whom(own) == getpid() && whom(thread) == getpid(), "those of this process name %d, %d", whom(own), whom(thread));
		CHECK(whom(parent) == getppid(), "that of the parent names %d", whom(parent));
		CHECK(whom(fd) == young && whom(copy) == young, "those of the child name %d, %d", whom(fd), whom(copy));
		CHECK(whom(grandchild) == below, "that of the grandchild names %d", whom(grandchild));
		CHECK(fcntl(own, F_GETFL) == (O_RDWR | O_NONBLOCK), "flags %#x", fcntl(own, F_GETFL));
		CHECK((fcntl(thread, F_GETFL) & PIDFD_THREAD) && !(fcntl(fd, F_GETFL) & (PIDFD_THREAD | O_NONBLOCK)), "flags");
		CHECK(fcntl(copy, F_GETFD) == 0 && fcntl(own, F_GETFD) == FD_CLOEXEC, "close-on-exec");
		CHECK(events(fd) == 0 && events(own) == 0, "somebody has ended");
		CHECK(tell(grandchild, 0) == 0 && tell(copy, SIGUSR1) == 0, "signal: %s", strerror(errno));
		for (int64_t start = wl_now(); told == before; wl_nap(WL_MS))
			CHECK(wl_now() - start < 10 * WL_SEC, "the child has not been told");
		CHECK(teller == young, "told by %d", (int)teller);
	}
	CHECK(epoll_wait(epoll, &event, 1, 0) == 0, "an event too early");
	if (wl_sabotage("entry"))
		MUST(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL));
	CHECK(tell(grandchild, SIGKILL) == 0 && tell(fd, SIGKILL) == 0, "signal: %s", strerror(errno));
	CHECK(epoll_wait(epoll, &event, 1, 10000) == 1 && event.data.u64 == 0x1234567812345678, "no event of the child");
	siginfo_t info = { 0 };
	CHECK(waitid(P_PIDFD, copy, &info, WEXITED) == 0 && info.si_pid == young, "waitid: %s", strerror(errno));
	CHECK(whom(fd) == -1 && tell(fd, 0) == ESRCH, "it is still there");
}

/* One that ends with this, by its descriptor. */
static int ending(int code, int signal, pid_t *pid)
{
	*pid = wl_fork();
	if (!*pid) {
		if (signal)
			raise(signal);
		_exit(code);
	}
	return named(*pid, 0);
}

static ino_t inode(int fd)
{
	struct stat stat;
	MUST(fstat(fd, &stat));
	return stat.st_ino;
}

static void ended(void)
{
	pid_t corpse, gone, killed;
	int zombie = ending(5, 0, &corpse), fd = ending(7, 0, &gone), again = named(gone, O_NONBLOCK);
	int shot = ending(0, SIGKILL, &killed);
	siginfo_t info = { 0 };
	MUST(waitid(P_PIDFD, zombie, &info, WEXITED | WNOWAIT));
	MUST(waitpid(gone, NULL, 0));
	MUST(waitpid(killed, NULL, 0));
	int status = status_of(fd), signal = status_of(shot), seen = events(fd);
	bool same = inode(fd) == inode(again), all = inode(fd) == inode(shot);
	CHECK(status == 0x700 || status == -1, "the kernel says %#x", status);
	wl_ready();
	for (bool more = true; more;) {
		if (wl_sabotage("nobody"))
			MUST(dup2(zombie, fd));
		if (wl_sabotage("status"))
			MUST(dup2(shot, fd));
		if (wl_sabotage("zombie"))
			MUST(waitpid(corpse, NULL, 0));
		more = hold();
		CHECK(whom(zombie) == corpse, "that of the zombie names %d", whom(zombie));
		CHECK(events(zombie) & POLLIN, "the zombie lives");
		CHECK(whom(fd) == -1 && whom(again) == -1 && whom(shot) == -1, "one of the dead has a number");
		CHECK(events(fd) == seen && events(shot) == seen, "events %#x, not %#x", events(fd), seen);
		CHECK(tell(fd, 0) == ESRCH && tell(shot, 0) == ESRCH, "signal: %d %d", tell(fd, 0), tell(shot, 0));
		CHECK(status_of(fd) == status && status_of(again) == status, "status %#x, not %#x", status_of(fd), status);
		CHECK(status_of(shot) == signal, "status %#x, not %#x", status_of(shot), signal);
		CHECK(fcntl(again, F_GETFL) & O_NONBLOCK, "flags");
		CHECK((inode(fd) == inode(again)) == same && (inode(fd) == inode(shot)) == all, "which are the same");
		CHECK(waitid(P_PIDFD, fd, &info, WEXITED) == -1 && errno == ECHILD, "somebody to wait for");
	}
	info.si_status = 0;
	CHECK(waitid(P_PIDFD, zombie, &info, WEXITED) == 0 && info.si_status == 5, "the zombie: %s", strerror(errno));
}

static _Atomic pid_t tid;

static void *stay(void *argument)
{
	sigset_t all;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	tid = (pid_t)syscall(SYS_gettid);
	while (!*(volatile bool *)argument)
		wl_nap(WL_MS);
	return NULL;
}

static int of_thread(pthread_t *thread, bool *end)
{
	tid = 0;
	CHECK(pthread_create(thread, NULL, stay, end) == 0, "no thread");
	while (!tid)
		wl_nap(WL_MS);
	return named(tid, PIDFD_THREAD);
}

static void threads(void)
{
	static bool first_ends, second_ends;
	pthread_t first, second;
	int gone = of_thread(&first, &first_ends);
	first_ends = true;
	pthread_join(first, NULL);
	while (!events(gone))
		wl_nap(WL_MS);
	int fd = of_thread(&second, &second_ends), pipes[2];
	pid_t lives = tid, heir = wl_fork();
	if (!heir) {
		for (;; wl_nap(WL_MS))
			CHECK(whom(fd) == lives && events(fd) == 0, "the child's descriptor names %d", whom(fd));
	}
	MUST(pipe(pipes));
	wl_ready();
	for (bool more = true; more;) {
		if (wl_sabotage("whom"))
			MUST(dup2(named(getpid(), PIDFD_THREAD), fd));
		if (wl_sabotage("end"))
			second_ends = true;
		more = hold();
		CHECK(whom(fd) == lives && whom(gone) == -1, "they name %d and %d", whom(fd), whom(gone));
		CHECK(events(fd) == 0 && (events(gone) & POLLIN), "events %#x, %#x", events(fd), events(gone));
		CHECK((fcntl(fd, F_GETFL) & PIDFD_THREAD) && (fcntl(gone, F_GETFL) & PIDFD_THREAD), "flags");
		CHECK(tell(fd, 0) == 0 && tell(gone, 0) == ESRCH, "signal: %d, %d", tell(fd, 0), tell(gone, 0));
	}
	MUST(kill(heir, SIGKILL));
	MUST(waitpid(heir, NULL, 0));
	second_ends = true;
	pthread_join(second, NULL);
	while (!events(fd))
		wl_nap(WL_MS);
}

static void send_one(int socket, int fd)
{
	char space[CMSG_SPACE(sizeof fd)] = { 0 }, byte = 'p';
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	*head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(head), &fd, sizeof fd);
	MUST(sendmsg(socket, &message, 0));
}

static int receive_one(int socket)
{
	char space[CMSG_SPACE(sizeof(int))], byte;
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
	MUST(recvmsg(socket, &message, MSG_DONTWAIT));
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	CHECK(head && head->cmsg_type == SCM_RIGHTS, "nothing came with the message");
	int fd;
	memcpy(&fd, CMSG_DATA(head), sizeof fd);
	return fd;
}

static void flight(void)
{
	int pair[2];
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	pid_t gone;
	int own = named(getpid(), 0), dead = ending(0, 0, &gone);
	MUST(waitpid(gone, NULL, 0));
	wl_ready();
	for (bool more = true; more;) {
		send_one(pair[0], wl_sabotage("whom") ? dead : own);
		send_one(pair[0], dead);
		more = hold();
		int first = receive_one(pair[1]), second = receive_one(pair[1]);
		CHECK(whom(first) == getpid() && whom(second) == -1, "they name %d and %d", whom(first), whom(second));
		MUST(close(first));
		MUST(close(second));
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("live"))
		live();
	else if (wl_mode("ended"))
		ended();
	else if (wl_mode("threads"))
		threads();
	else if (wl_mode("flight"))
		flight();
	else
		wl_fail("which mode?");
	return wl_done();
}

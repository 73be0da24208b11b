/* Pairs of Unix sockets with something in them.
 *
 * --mode stream: bytes both ways, some half read
 * --mode messages: SOCK_DGRAM and SOCK_SEQPACKET keep messages apart
 * --mode closed: one direction shut, or the peer gone, with or without a rest
 * --mode options: options, buffer sizes, flags, and who is at the other end
 * --mode carried: descriptors and senders on their way
 * --mode epoll: an epoll set that watches sockets
 * --mode abstract: a socket that listens at an abstract address, and its connections
 * --mode path: sockets with paths, relative or deleted, their connections, and those whose listener is gone
 * --mode backlog: connections that nobody has accepted yet
 * --mode storm: callers that never rest, of a server that is always behind them
 * --mode datagrams: datagram sockets with addresses, and senders that are known by theirs
 * --mode passed: a ring of processes with words on their way
 */
#include "workload.h"
#include <arpa/inet.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#define HOLD (40 * WL_MS)
enum { PAIRS = 12 };

static bool hold(void)
{
	bool more = true;
	for (int64_t start = wl_now(); more && wl_now() - start < HOLD; wl_nap(WL_MS))
		more = wl_tick();
	return more;
}

static void make(int kind, int ends[2])
{
	MUST(socketpair(AF_UNIX, kind | SOCK_NONBLOCK, 0, ends));
}

static void put(int fd, size_t length, uint64_t seed)
{
	static uint64_t words[1 << 14];
	wl_fill(words, (length + 7) & ~7ul, seed);
	CHECK(send(fd, words, length, 0) == (ssize_t)length, "send of %zu: %s", length, strerror(errno));
}

/* Bytes of a stream from `skip` on, or one whole message. */
static void take(int fd, size_t skip, size_t length, uint64_t seed, bool stream)
{
	static uint64_t words[1 << 14];
	static uint8_t bytes[1 << 17];
	wl_fill(words, (skip + length + 7) & ~7ul, seed);
	ssize_t n = recv(fd, bytes, stream ? length : sizeof bytes, stream ? MSG_WAITALL : 0);
	CHECK(n == (ssize_t)length, "%zd bytes, not %zu: %s", n, length, n < 0 ? strerror(errno) : "");
	CHECK(!memcmp((uint8_t *)words + skip, bytes, length), "contents of a socket");
}

static void want_empty(int fd)
{
	char byte;
	CHECK(recv(fd, &byte, 1, 0) == -1 && errno == EAGAIN, "there is more in the socket");
}

static void stream(void)
{
	int pair[PAIRS][2];
	for (int i = 0; i < PAIRS; i++)
		make(SOCK_STREAM, pair[i]);
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed += 2 * PAIRS) {
		for (int i = 0; i < PAIRS; i++) {
			size_t length = 2 + wl_mix(seed + i) % 30000;
			put(pair[i][0], length, seed + i);
			put(pair[i][1], length + i, ~(seed + i));
			take(pair[i][1], 0, length / 2, seed + i, true);
		}
		if (wl_sabotage("lost"))
			take(pair[7][0], 0, 1, ~(seed + 7), true);
		if (wl_sabotage("more"))
			put(pair[7][1], 1, 1);
		more = hold();
		for (int i = 0; i < PAIRS; i++) {
			size_t length = 2 + wl_mix(seed + i) % 30000;
			int waiting;
			MUST(ioctl(pair[i][0], FIONREAD, &waiting));
			CHECK(waiting == (int)length + i, "%d bytes wait, not %zu", waiting, length + i);
			take(pair[i][1], length / 2, length - length / 2, seed + i, true);
			take(pair[i][0], 0, length + i, ~(seed + i), true);
			want_empty(pair[i][0]);
			want_empty(pair[i][1]);
		}
	}
}

static void messages(void)
{
	int pair[2][2];
	make(SOCK_DGRAM, pair[0]);
	make(SOCK_SEQPACKET, pair[1]);
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		for (int kind = 0; kind < 2; kind++)
			for (int i = 1; i <= 8; i++) {
				put(pair[kind][0], 8 * i * i * i * i, seed + i);
				put(pair[kind][1], i, ~seed + i);
				if (i == 5)
					put(pair[kind][0], 0, 0);
			}
		if (wl_sabotage("merged"))
			take(pair[0][1], 0, 8, seed + 1, false), put(pair[0][0], 8, seed + 1);
		more = hold();
		for (int kind = 0; kind < 2; kind++) {
			for (int i = 1; i <= 8; i++) {
				take(pair[kind][1], 0, 8 * i * i * i * i, seed + i, false);
				take(pair[kind][0], 0, i, ~seed + i, false);
				if (i == 5)
					take(pair[kind][1], 0, 0, 0, false);
			}
			want_empty(pair[kind][0]);
			want_empty(pair[kind][1]);
		}
	}
}

static void closed(void)
{
	char byte;
	static const int kinds[2] = { SOCK_STREAM, SOCK_SEQPACKET };
	signal(SIGPIPE, SIG_IGN);
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		int half[2][2], ended[3][2], reset[2][2];
		for (int k = 0; k < 2; k++) {
			make(kinds[k], half[k]);
			make(kinds[k], ended[k]);
			make(kinds[k], reset[k]);
			put(half[k][0], 300, seed);
			if (!wl_sabotage("open"))
				MUST(shutdown(half[k][0], SHUT_WR));
			put(half[k][1], 200, ~seed);
			put(ended[k][0], 1000, seed);
			close(ended[k][0]);
			put(reset[k][1], 10, seed);
			close(reset[k][0]);
		}
		make(SOCK_DGRAM, ended[2]);
		put(ended[2][0], 50, seed);
		close(ended[2][0]);
		more = hold();
		for (int k = 0; k < 2; k++) {
			take(half[k][1], 0, 300, seed, k == 0);
			CHECK(recv(half[k][1], &byte, 1, 0) == 0, "no end of a direction that was shut");
			CHECK(send(half[k][0], "", 1, 0) == -1 && errno == EPIPE, "a shut direction takes bytes");
			take(half[k][0], 0, 200, ~seed, k == 0);
			put(half[k][1], 8, seed);
			take(half[k][0], 0, 8, seed, k == 0);
			take(ended[k][1], 0, 1000, seed, k == 0);
			CHECK(recv(ended[k][1], &byte, 1, 0) == 0, "no end without a peer");
			CHECK(send(ended[k][1], "", 1, 0) == -1 && errno == EPIPE, "no EPIPE without a peer");
			CHECK(recv(reset[k][1], &byte, 1, 0) == -1 && errno == ECONNRESET, "no ECONNRESET");
			CHECK(recv(reset[k][1], &byte, 1, 0) == 0, "ECONNRESET twice");
			close(half[k][0]), close(half[k][1]), close(ended[k][1]), close(reset[k][1]);
		}
		take(ended[2][1], 0, 50, seed, false);
		CHECK(send(ended[2][1], "", 1, 0) == -1 && errno == ECONNREFUSED, "no ECONNREFUSED");
		close(ended[2][1]);
	}
}

static int number(int fd, int option)
{
	int value = -1;
	socklen_t size = sizeof value;
	MUST(getsockopt(fd, SOL_SOCKET, option, &value, &size));
	return value;
}

static void set(int fd, int option, int value)
{
	MUST(setsockopt(fd, SOL_SOCKET, option, &value, sizeof value));
}

static void options(void)
{
	int pair[2], fresh = MUST(socket(AF_UNIX, SOCK_STREAM, 0)), loose = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
	struct timeval wait = { 12, 340000 }, found;
	struct stat stat;
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	if (wl_num("user", 0)) {
		/* The other end is told who made it, not who has it. */
		MUST(setresgid(-1, 1234, -1));
		MUST(setresuid(-1, 1234, -1));
		close(pair[0]), close(pair[1]);
		MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
		MUST(setresuid(-1, 0, -1));
		MUST(setresgid(-1, 0, -1));
	}
	set(pair[0], SO_SNDBUF, 50000);
	set(pair[1], SO_RCVBUF, 30000);
	set(pair[1], SO_RCVLOWAT, 3);
	set(pair[0], SO_PASSCRED, 1);
	set(pair[0], SO_PRIORITY, 5);
	MUST(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait));
	MUST(fcntl(pair[0], F_SETFL, O_NONBLOCK));
	MUST(fchown(pair[1], 77, 78));
	wl_ready();
	for (bool more = true; more;) {
		struct ucred peer;
		socklen_t size = sizeof found, room = sizeof peer;
		if (wl_sabotage("buffer"))
			set(pair[0], SO_SNDBUF, 60000);
		if (wl_sabotage("timeout"))
			MUST(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &((struct timeval){ 1, 0 }), sizeof wait));
		more = hold();
		CHECK(number(pair[0], SO_SNDBUF) == 100000, "SO_SNDBUF is %d", number(pair[0], SO_SNDBUF));
		CHECK(number(pair[1], SO_RCVBUF) == 60000, "SO_RCVBUF is %d", number(pair[1], SO_RCVBUF));
		CHECK(number(pair[1], SO_RCVLOWAT) == 3, "SO_RCVLOWAT");
		CHECK(number(pair[0], SO_PRIORITY) == 5 && number(pair[1], SO_PRIORITY) == 0, "SO_PRIORITY");
		CHECK(number(pair[0], SO_PASSCRED) == 1 && number(pair[1], SO_PASSCRED) == 0, "SO_PASSCRED");
		CHECK(number(pair[0], SO_PEEK_OFF) == -1, "SO_PEEK_OFF");
		MUST(getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &found, &size));
		CHECK(found.tv_sec == 12 && found.tv_usec == 340000, "SO_RCVTIMEO");
		CHECK(fcntl(pair[0], F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(pair[1], F_GETFL) == O_RDWR, "flags");
		CHECK(fcntl(pair[0], F_GETFD) == FD_CLOEXEC && fcntl(fresh, F_GETFD) == 0, "FD_CLOEXEC");
		MUST(getsockopt(pair[1], SOL_SOCKET, SO_PEERCRED, &peer, &room));
		uid_t wanted = wl_num("user", 0) ? 1234 : geteuid();
		CHECK(peer.pid == getpid() && peer.uid == wanted && (!wanted || peer.gid == wanted), "peer %d, user %u",
		      peer.pid, peer.uid);
		MUST(fstat(pair[1], &stat));
		CHECK(stat.st_uid == 77 && stat.st_gid == 78 && S_ISSOCK(stat.st_mode), "owner of a socket");
		CHECK(send(fresh, "", 1, MSG_NOSIGNAL) == -1 && errno == ENOTCONN, "a socket without a peer");
		CHECK(send(loose, "", 1, 0) == -1 && errno == ENOTCONN, "a datagram without a peer");
		put(pair[1], 8, 1);
		take(pair[0], 0, 8, 1, true);
	}
}

static void carry(int fd, const char *text, size_t length, int descriptor)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} space = { 0 };
	struct iovec piece = { (void *)text, length };
	struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &space, .msg_controllen = sizeof space };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
	CHECK(sendmsg(fd, &message, 0) == (ssize_t)length, "sendmsg: %s", strerror(errno));
}

/* The descriptor that comes with `length` bytes, or -1; and who has sent them. */
static int receive(int fd, const char *text, size_t length, struct ucred *sender)
{
	char bytes[64];
	union {
		char bytes[256];
		struct cmsghdr align;
	} space;
	struct iovec piece = { bytes, length };
	struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &space, .msg_controllen = sizeof space };
	ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	CHECK(n == (ssize_t)length && !memcmp(bytes, text, length), "%zd bytes: %s", n, n < 0 ? strerror(errno) : "");
	int descriptor = -1;
	for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
		if (header->cmsg_type == SCM_RIGHTS)
			memcpy(&descriptor, CMSG_DATA(header), sizeof(int));
		if (header->cmsg_type == SCM_CREDENTIALS && sender)
			memcpy(sender, CMSG_DATA(header), sizeof *sender);
	}
	return descriptor;
}

static void carried(void)
{
	int pair[2], told[2], packets[2], file = MUST(open(wl_path("carried"), O_RDWR | O_CREAT, 0600)), ends[2];
	make(SOCK_STREAM, pair);
	make(SOCK_STREAM, told);
	make(SOCK_SEQPACKET, packets);
	MUST(pipe(ends));
	set(told[1], SO_PASSCRED, 1);
	wl_ready();
	for (bool more = true; more;) {
		struct ucred sender = { 0 };
		char byte = 0;
		carry(pair[0], "f", 1, file);
		put(pair[0], 8, 2);
		put(packets[0], 16, 1);
		carry(packets[0], "pipe", 4, ends[1]);
		carry(packets[0], "socket", 6, pair[1]);
		CHECK(send(told[0], "me", 2, 0) == 2, "send: %s", strerror(errno));
		if (wl_sabotage("plain")) {
			close(receive(pair[1], "f", 1, NULL));
			take(pair[1], 0, 8, 2, true);
			CHECK(send(pair[0], "f", 1, 0) == 1, "send: %s", strerror(errno));
			put(pair[0], 8, 2);
		}
		more = hold();
		uint64_t words[2];
		wl_fill(words, 16, 1);
		CHECK(receive(packets[1], (char *)words, 16, NULL) == -1, "a descriptor comes too early");
		int got = receive(pair[1], "f", 1, NULL);
		CHECK(got >= 0 && lseek(got, 7, SEEK_SET) == 7 && lseek(file, 0, SEEK_CUR) == 7, "not the same file");
		lseek(file, 0, SEEK_SET);
		close(got);
		take(pair[1], 0, 8, 2, true);
		got = receive(packets[1], "pipe", 4, NULL);
		CHECK(write(got, "x", 1) == 1 && read(ends[0], &byte, 1) == 1 && byte == 'x', "not the same pipe");
		close(got);
		got = receive(packets[1], "socket", 6, NULL);
		put(pair[0], 8, 3);
		take(got, 0, 8, 3, true);
		close(got);
		receive(told[1], "me", 2, &sender);
		CHECK(sender.pid == getpid() && sender.uid == geteuid(), "sent by %d, user %u", sender.pid, sender.uid);
	}
}

static void epoll(void)
{
	int pair[PAIRS][2], set = MUST(epoll_create1(0));
	for (int i = 0; i < PAIRS; i++) {
		make(SOCK_STREAM, pair[i]);
		struct epoll_event event = { .events = i % 2 ? EPOLLIN | EPOLLET : EPOLLIN, .data.u64 = i };
		MUST(epoll_ctl(set, EPOLL_CTL_ADD, pair[i][1], &event));
	}
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		struct epoll_event events[PAIRS];
		for (int i = 0; i < PAIRS; i++)
			if ((seed + i) % 3)
				put(pair[i][0], 8, seed);
		if (wl_sabotage("lost"))
			take(pair[seed % 3 ? 0 : 1][1], 0, 8, seed, true);
		more = hold();
		int wanted = 0, n = MUST(epoll_wait(set, events, PAIRS, 1000));
		for (int i = 0; i < PAIRS; i++)
			wanted += (seed + i) % 3 ? 1 : 0;
		CHECK(n == wanted, "%d sockets are ready, not %d", n, wanted);
		for (int i = 0; i < n; i++)
			take(pair[events[i].data.u64][1], 0, 8, seed, true);
		CHECK(epoll_wait(set, events, PAIRS, 0) == 0, "a socket without contents is ready");
	}
}

static socklen_t address(struct sockaddr_un *where)
{
	*where = (struct sockaddr_un){ .sun_family = AF_UNIX };
	int n = snprintf(where->sun_path + 1, sizeof where->sun_path - 1, "%s", wl_path("abstract") + 1);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

static void want_name(int fd, bool peer, const struct sockaddr_un *where, socklen_t length)
{
	struct sockaddr_un found;
	socklen_t size = sizeof found;
	MUST(peer ? getpeername(fd, (void *)&found, &size) : getsockname(fd, (void *)&found, &size));
	CHECK(size == length && !memcmp(&found, where, length), "address of a socket");
}

static void want_peer(int fd, pid_t pid)
{
	struct ucred peer;
	socklen_t room = sizeof peer;
	MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &room));
	CHECK(peer.pid == pid && peer.uid == geteuid(), "peer %d, not %d", peer.pid, pid);
}

/* A child connects once, and answers; the parent also connects to itself. */
static void abstract(void)
{
	struct sockaddr_un where;
	socklen_t length = address(&where);
	int listener = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)), bound = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
	uint64_t word;
	MUST(bind(listener, (void *)&where, length));
	MUST(listen(listener, 5));
	/* Each kind of socket has names of its own. */
	MUST(bind(bound, (void *)&where, length));
	pid_t child = wl_fork();
	if (child == 0) {
		close(listener);
		int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
		MUST(connect(client, (void *)&where, length));
		want_peer(client, getppid());
		while (recv(client, &word, 8, MSG_WAITALL) == 8) {
			want_peer(client, getppid());
			want_name(client, true, &where, length);
			word = wl_mix(word);
			CHECK(send(client, &word, 8, 0) == 8, "send: %s", strerror(errno));
		}
		_exit(0);
	}
	struct pollfd ready = { .fd = listener, .events = POLLIN };
	MUST(poll(&ready, 1, 5000));
	int server = MUST(accept(listener, NULL, NULL));
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		int client = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
		int gone = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
		MUST(connect(client, (void *)&where, length));
		int accepted = MUST(accept4(listener, NULL, NULL, SOCK_NONBLOCK));
		MUST(connect(gone, (void *)&where, length));
		int left = MUST(accept4(listener, NULL, NULL, SOCK_NONBLOCK));
		CHECK(send(server, &seed, 8, 0) == 8, "send: %s", strerror(errno));
		put(client, 800, seed);
		put(accepted, 16, seed);
		put(gone, 24, seed);
		close(gone);
		if (wl_sabotage("name"))
			where.sun_path[1] ^= 1;
		more = hold();
		want_name(listener, false, &where, length);
		want_name(bound, false, &where, length);
		want_name(accepted, false, &where, length);
		want_name(server, false, &where, length);
		want_peer(server, child);
		want_peer(client, getpid());
		want_peer(accepted, getpid());
		take(accepted, 0, 800, seed, true);
		take(client, 0, 16, seed, true);
		take(left, 0, 24, seed, true);
		CHECK(recv(left, &word, 8, 0) == 0, "no end without a peer");
		CHECK(recv(server, &word, 8, MSG_WAITALL) == 8 && word == wl_mix(seed), "the answer of the child");
		close(client), close(accepted), close(left);
	}
	close(server);
	int status;
	CHECK(wait(&status) > 0 && status == 0, "a child ended with %#x", status);
}

static socklen_t at_path(struct sockaddr_un *where, const char *path)
{
	*where = (struct sockaddr_un){ .sun_family = AF_UNIX };
	CHECK(strlen(path) < sizeof where->sun_path, "too long a path");
	strcpy(where->sun_path, path);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
}

static int bound(int kind, const char *path, struct sockaddr_un *where, socklen_t *length)
{
	int fd = MUST(socket(AF_UNIX, kind | SOCK_NONBLOCK, 0));
	*length = at_path(where, path);
	MUST(bind(fd, (void *)where, *length));
	if (kind != SOCK_DGRAM)
		MUST(listen(fd, 5));
	return fd;
}

static int reach(int kind, const struct sockaddr_un *where, socklen_t length)
{
	int fd = MUST(socket(AF_UNIX, kind | SOCK_NONBLOCK, 0));
	CHECK(connect(fd, (void *)where, length) == 0, "connect to %s: %s", where->sun_path, strerror(errno));
	return fd;
}

static void path(void)
{
	static const int kinds[2] = { SOCK_STREAM, SOCK_SEQPACKET };
	int listener[2], orphan[2], orphaned[2], lost;
	struct sockaddr_un where[2], once, gone;
	socklen_t length[2], once_length, gone_length;
	struct stat before, now;
	uint64_t word;
	const char *mine = strrchr(wl_path("relative"), '/') + 1;
	MUST(chdir(wl_opt("dir", "/tmp")));
	listener[0] = bound(SOCK_STREAM, wl_path("absolute"), &where[0], &length[0]);
	listener[1] = bound(SOCK_SEQPACKET, mine, &where[1], &length[1]);
	MUST(chmod(where[0].sun_path, 0640));
	MUST(chown(where[0].sun_path, 77, 78));
	MUST(stat(where[0].sun_path, &before));
	lost = bound(SOCK_STREAM, wl_path("lost"), &gone, &gone_length);
	int kept = reach(SOCK_STREAM, &gone, gone_length), other = MUST(accept(lost, NULL, NULL));
	MUST(unlink(gone.sun_path));
	for (int k = 0; k < 2; k++) {
		int listening = bound(kinds[k], wl_path(k ? "once-packet" : "once"), &once, &once_length);
		orphaned[k] = reach(kinds[k], &once, once_length);
		orphan[k] = MUST(accept4(listening, NULL, NULL, SOCK_NONBLOCK));
		close(listening);
		MUST(unlink(once.sun_path));
	}
	pid_t child = wl_fork();
	if (child == 0) {
		int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
		struct sockaddr_un own;
		socklen_t size = at_path(&own, wl_path("client"));
		MUST(bind(client, (void *)&own, size));
		MUST(connect(client, (void *)&where[0], length[0]));
		for (int i = 0; i < 2; i++)
			close(listener[i]);
		while (recv(client, &word, 8, MSG_WAITALL) == 8) {
			want_name(client, false, &own, size);
			want_name(client, true, &where[0], length[0]);
			word = wl_mix(word);
			CHECK(send(client, &word, 8, 0) == 8, "send: %s", strerror(errno));
		}
		MUST(unlink(own.sun_path));
		_exit(0);
	}
	struct pollfd ready = { .fd = listener[0], .events = POLLIN };
	MUST(poll(&ready, 1, 5000));
	int server = MUST(accept(listener[0], NULL, NULL));
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		CHECK(send(server, &seed, 8, 0) == 8, "send: %s", strerror(errno));
		put(orphaned[0], 800, seed);
		put(orphan[1], 40, seed);
		put(kept, 80, seed);
		if (wl_sabotage("name"))
			MUST(unlink(where[1].sun_path));
		if (wl_sabotage("mode"))
			MUST(chmod(where[0].sun_path, 0600));
		more = hold();
		for (int k = 0; k < 2; k++) {
			want_name(listener[k], false, &where[k], length[k]);
			int client = reach(kinds[k], &where[k], length[k]), accepted = MUST(accept(listener[k], NULL, NULL));
			want_name(accepted, false, &where[k], length[k]);
			want_peer(client, getpid());
			put(client, 16, seed);
			take(accepted, 0, 16, seed, k == 0);
			close(client), close(accepted);
			want_peer(orphan[k], getpid());
		}
		MUST(stat(where[0].sun_path, &now));
		CHECK(now.st_mode == before.st_mode && now.st_uid == 77 && now.st_gid == 78, "mode %o", now.st_mode);
		want_name(orphan[1], false, &once, once_length);
		want_name(orphaned[1], true, &once, once_length);
		want_name(lost, false, &gone, gone_length);
		CHECK(access(gone.sun_path, F_OK) == -1, "a name that was deleted is back");
		take(orphan[0], 0, 800, seed, true);
		take(orphaned[1], 0, 40, seed, false);
		take(other, 0, 80, seed, true);
		want_peer(server, child);
		CHECK(recv(server, &word, 8, MSG_WAITALL) == 8 && word == wl_mix(seed), "the answer of the child");
	}
	close(server);
	MUST(unlink(where[0].sun_path));
	MUST(unlink(where[1].sun_path));
	int status;
	CHECK(wait(&status) > 0 && status == 0, "a child ended with %#x", status);
}

/* Each of the two that listen has four connections that wait: one of a child, one of a bound
 * socket, one that has shut its direction, and one that is blocking. */
static void backlog(void)
{
	enum { WAIT = 4 };
	static const int kinds[2] = { SOCK_STREAM, SOCK_SEQPACKET };
	struct sockaddr_un where[2], own[2], none = { .sun_family = AF_UNIX };
	socklen_t length[2], own_length[2];
	int listener[2], ask[2], set = MUST(epoll_create1(0));
	char byte;
	if (wl_num("abstract", 0)) {
		length[0] = address(&where[0]);
		listener[0] = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
		MUST(bind(listener[0], (void *)&where[0], length[0]));
		MUST(listen(listener[0], 8));
	} else {
		listener[0] = bound(SOCK_STREAM, wl_path("backlog-stream"), &where[0], &length[0]);
	}
	listener[1] = bound(SOCK_SEQPACKET, wl_path("backlog"), &where[1], &length[1]);
	own_length[0] = at_path(&own[0], wl_path("caller"));
	own_length[1] = at_path(&own[1], wl_path("caller-packet"));
	for (int k = 0; k < 2; k++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = (uint32_t)k };
		MUST(epoll_ctl(set, EPOLL_CTL_ADD, listener[k], &event));
	}
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ask));
	pid_t parent = getpid(), child = wl_fork();
	if (child == 0) {
		close(ask[0]);
		while (recv(ask[1], &byte, 1, 0) == 1) {
			int client[2];
			for (int k = 0; k < 2; k++)
				client[k] = reach(kinds[k], &where[k], length[k]);
			CHECK(send(ask[1], "", 1, 0) == 1, "send: %s", strerror(errno));
			CHECK(recv(ask[1], &byte, 1, 0) == 1, "an order");
			for (int k = 0; k < 2; k++) {
				want_peer(client[k], parent);
				pid_t self = getpid();
				CHECK(send(client[k], &self, 4, 0) == 4, "send: %s", strerror(errno));
			}
			CHECK(send(ask[1], "", 1, 0) == 1, "send: %s", strerror(errno));
			CHECK(recv(ask[1], &byte, 1, 0) == 1, "an order");
			close(client[0]), close(client[1]);
		}
		_exit(0);
	}
	close(ask[1]);
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		int client[2][WAIT], server[2][WAIT];
		struct epoll_event events[2];
		CHECK(send(ask[0], "", 1, 0) == 1 && recv(ask[0], &byte, 1, 0) == 1, "the child");
		for (int k = 0; k < 2; k++) {
			client[k][1] = MUST(socket(AF_UNIX, kinds[k], 0));
			MUST(bind(client[k][1], (void *)&own[k], own_length[k]));
			MUST(connect(client[k][1], (void *)&where[k], length[k]));
			client[k][2] = reach(kinds[k], &where[k], length[k]);
			if (!wl_sabotage("shut"))
				MUST(shutdown(client[k][2], SHUT_WR));
			client[k][3] = reach(kinds[k], &where[k], length[k]);
		}
		/* More wait by now than may. */
		MUST(listen(listener[0], 2));
		if (wl_sabotage("order"))
			close(MUST(accept(listener[1], NULL, NULL)));
		more = hold();
		CHECK(MUST(epoll_wait(set, events, 2, 0)) == 2, "nobody is to be accepted");
		for (int k = 0; k < 2; k++) {
			for (int i = 0; i < WAIT; i++) {
				struct sockaddr_un found;
				socklen_t size = sizeof found;
				server[k][i] = accept4(listener[k], (void *)&found, &size, SOCK_NONBLOCK);
				CHECK(server[k][i] >= 0, "connection %d is lost", i);
				CHECK(size == (i == 1 ? own_length[k] : sizeof(sa_family_t)) &&
				      !memcmp(&found, i == 1 ? &own[k] : &none, size), "the address of connection %d", i);
				want_name(server[k][i], false, &where[k], length[k]);
			}
			CHECK(accept(listener[k], NULL, NULL) == -1 && errno == EAGAIN, "a connection too much");
			want_name(client[k][1], false, &own[k], own_length[k]);
			CHECK(recv(server[k][2], &byte, 1, 0) == 0, "no end of a direction that was shut");
			for (int i = 1; i < WAIT; i++) {
				want_peer(client[k][i], parent);
				put(server[k][i], 16, seed + i);
				take(client[k][i], 0, 16, seed + i, k == 0);
				if (i != 2) {
					put(client[k][i], 24, seed + i);
					take(server[k][i], 0, 24, seed + i, k == 0);
				}
			}
		}
		want_peer(server[1][1], parent);
		want_peer(server[1][0], child);
		CHECK(fcntl(client[0][3], F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(client[0][1], F_GETFL) == O_RDWR, "flags");
		CHECK(send(ask[0], "", 1, 0) == 1 && recv(ask[0], &byte, 1, 0) == 1, "the child");
		for (int k = 0; k < 2; k++) {
			pid_t told = 0;
			CHECK(recv(server[k][0], &told, 4, 0) == 4 && told == child, "what the child sends");
			for (int i = 0; i < WAIT; i++) {
				close(server[k][i]);
				if (i)
					close(client[k][i]);
			}
			MUST(unlink(own[k].sun_path));
		}
		MUST(listen(listener[0], 8));
		CHECK(send(ask[0], "", 1, 0) == 1, "the child");
	}
	close(ask[0]);
	int status;
	CHECK(wait(&status) > 0 && status == 0, "a child ended with %#x", status);
	if (where[0].sun_path[0])
		MUST(unlink(where[0].sun_path));
	MUST(unlink(where[1].sun_path));
}

/* Callers send before they are accepted, and somebody always waits. */
static void storm(void)
{
	enum { CALLERS = 4 };
	struct sockaddr_un unix_where;
	struct sockaddr_in inet_where = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	bool inet = wl_num("inet", 0);
	struct sockaddr *where = inet ? (void *)&inet_where : (void *)&unix_where;
	socklen_t length = sizeof inet_where;
	int listener, family = inet ? AF_INET : AF_UNIX;
	uint64_t word;
	pid_t child[CALLERS];
	if (inet) {
		listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
		MUST(bind(listener, where, length));
		MUST(getsockname(listener, where, &length));
		MUST(listen(listener, 8));
	} else {
		listener = bound(SOCK_STREAM, wl_path("storm"), &unix_where, &length);
		MUST(fcntl(listener, F_SETFL, 0));
	}
	for (int i = 0; i < CALLERS; i++) {
		child[i] = wl_fork();
		if (child[i])
			continue;
		signal(SIGTERM, SIG_DFL);
		close(listener);
		for (uint64_t asked = i;; asked += wl_mix(asked) % 1000) {
			int fd = MUST(socket(family, SOCK_STREAM, 0));
			CHECK(connect(fd, where, length) == 0, "connect: %s", strerror(errno));
			CHECK(send(fd, &asked, 8, MSG_NOSIGNAL) == 8, "a question: %s", strerror(errno));
			CHECK(recv(fd, &word, 8, MSG_WAITALL) == 8, "no answer: %s", strerror(errno));
			CHECK(word == wl_mix(asked), "an answer is wrong");
			close(fd);
		}
	}
	wl_ready();
	while (wl_tick()) {
		struct pollfd ready = { .fd = listener, .events = POLLIN };
		wl_nap(WL_MS);
		CHECK(MUST(poll(&ready, 1, 20000)) == 1, "nobody calls");
		int fd = MUST(accept(listener, NULL, NULL));
		CHECK(recv(fd, &word, 8, MSG_WAITALL) == 8, "a question: %s", strerror(errno));
		word = wl_mix(word);
		if (wl_sabotage("answer"))
			word++;
		CHECK(send(fd, &word, 8, 0) == 8, "an answer: %s", strerror(errno));
		close(fd);
	}
	for (int i = 0; i < CALLERS; i++) {
		int status;
		MUST(kill(child[i], SIGTERM));
		CHECK(waitpid(child[i], &status, 0) > 0 && (WIFSIGNALED(status) || status == 0), "a child ended with %#x",
		      status);
	}
	if (!inet)
		MUST(unlink(unix_where.sun_path));
}

/* One datagram of eight bytes, and the address of its sender. */
static void take_from(int fd, uint64_t wanted, const struct sockaddr_un *from, socklen_t length)
{
	struct sockaddr_un found;
	socklen_t size = sizeof found;
	uint64_t word = 0;
	ssize_t n = recvfrom(fd, &word, 8, 0, (void *)&found, &size);
	CHECK(n == 8 && word == wanted, "a datagram: %zd bytes, %s", n, n < 0 ? strerror(errno) : "");
	CHECK(size == length && !memcmp(&found, from, length), "the sender of a datagram");
}

static void send_to(int fd, uint64_t word, const struct sockaddr_un *to, socklen_t length)
{
	CHECK(sendto(fd, &word, 8, 0, (void *)to, length) == 8, "sendto: %s", strerror(errno));
}

static void datagrams(void)
{
	struct sockaddr_un log, one, two, gone, hidden;
	bool named = !wl_num("abstract", 0);
	socklen_t log_length, one_length, two_length, gone_length;
	socklen_t hidden_length = named ? at_path(&hidden, wl_path("hidden")) : address(&hidden);
	int server = bound(SOCK_DGRAM, wl_path("log"), &log, &log_length);
	int client = bound(SOCK_DGRAM, wl_path("one"), &one, &one_length);
	int friend = bound(SOCK_DGRAM, wl_path("two"), &two, &two_length);
	int secret = MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	MUST(bind(secret, (void *)&hidden, hidden_length));
	/* One way, as syslog(3) does it; and both ways. */
	int writer = reach(SOCK_DGRAM, &log, log_length);
	MUST(connect(friend, (void *)&one, one_length));
	MUST(connect(client, (void *)&two, two_length));
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		CHECK(send(writer, &seed, 8, 0) == 8, "send: %s", strerror(errno));
		send_to(friend, seed + 1, &log, log_length);
		send_to(secret, seed + 2, &log, log_length);
		int leaving = bound(SOCK_DGRAM, wl_path("gone"), &gone, &gone_length);
		send_to(leaving, seed + 3, &log, log_length);
		MUST(unlink(gone.sun_path));
		close(leaving);
		send_to(server, seed + 4, &hidden, hidden_length);
		CHECK(send(friend, &seed, 8, 0) == 8 && send(client, &seed, 8, 0) == 8, "send: %s", strerror(errno));
		if (wl_sabotage("order"))
			send_to(secret, seed, &log, log_length);
		if (wl_sabotage("name"))
			MUST(unlink(log.sun_path));
		more = hold();
		uint64_t word = 0;
		CHECK(recv(server, &word, 8, 0) == 8 && word == seed, "a datagram of nobody");
		take_from(server, seed + 1, &two, two_length);
		take_from(server, seed + 2, &hidden, hidden_length);
		take_from(server, seed + 3, &gone, gone_length);
		want_empty(server);
		take_from(secret, seed + 4, &log, log_length);
		take_from(client, seed, &two, two_length);
		take_from(friend, seed, &one, one_length);
		want_name(server, false, &log, log_length);
		want_name(writer, true, &log, log_length);
		want_name(friend, true, &one, one_length);
		send_to(secret, seed, &log, log_length);
		take_from(server, seed, &hidden, hidden_length);
	}
	MUST(unlink(log.sun_path)), MUST(unlink(one.sun_path)), MUST(unlink(two.sun_path));
	if (named)
		MUST(unlink(hidden.sun_path));
}

/* Children in a ring pass words on, each by a pair of its own; the parent is one of them. */
static void passed(void)
{
	enum { LINKS = 4 };
	int link[LINKS][2];
	uint64_t word;
	for (int i = 0; i < LINKS; i++)
		MUST(socketpair(AF_UNIX, i % 2 ? SOCK_SEQPACKET : SOCK_STREAM, 0, link[i]));
	for (int i = 0; i + 1 < LINKS; i++) {
		if (wl_fork())
			continue;
		for (int j = 0; j < LINKS; j++) {
			if (j != i)
				close(link[j][0]);
			if (j != i + 1)
				close(link[j][1]);
		}
		for (uint64_t wanted = 0;; wanted++) {
			ssize_t n = recv(link[i][0], &word, 8, 0);
			if (n == 0)
				_exit(0);
			CHECK(n == 8 && word == wl_mix(wanted), "child %d: word %llu", i, (unsigned long long)wanted);
			if (wanted == 200 && !strcmp(wl_opt("sabotage", ""), "order"))
				word++;
			CHECK(send(link[i + 1][1], &word, 8, 0) == 8, "send: %s", strerror(errno));
		}
	}
	close(link[0][0]);
	for (int i = 1; i < LINKS; i++)
		close(link[i][1]);
	wl_ready();
	uint64_t sent = 0, got = 0;
	while (wl_tick()) {
		for (; sent < got + 20; sent++) {
			word = wl_mix(sent);
			CHECK(send(link[0][1], &word, 8, 0) == 8, "send: %s", strerror(errno));
		}
		CHECK(recv(link[LINKS - 1][0], &word, 8, 0) == 8 && word == wl_mix(got), "word %llu is wrong",
		      (unsigned long long)got);
		got++;
		wl_nap(200000);
	}
	close(link[0][1]);
	for (; recv(link[LINKS - 1][0], &word, 8, 0) == 8; got++)
		CHECK(word == wl_mix(got), "word %llu is wrong", (unsigned long long)got);
	CHECK(got == sent, "%llu words of %llu", (unsigned long long)got, (unsigned long long)sent);
	int status;
	for (int i = 0; i + 1 < LINKS; i++)
		CHECK(wait(&status) > 0 && status == 0, "a child ended with %#x", status);
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("stream"))
		stream();
	else if (wl_mode("messages"))
		messages();
	else if (wl_mode("closed"))
		closed();
	else if (wl_mode("options"))
		options();
	else if (wl_mode("carried"))
		carried();
	else if (wl_mode("epoll"))
		epoll();
	else if (wl_mode("abstract"))
		abstract();
	else if (wl_mode("path"))
		path();
	else if (wl_mode("backlog"))
		backlog();
	else if (wl_mode("storm"))
		storm();
	else if (wl_mode("datagrams"))
		datagrams();
	else if (wl_mode("passed"))
		passed();
	else
		wl_fail("unknown mode");
	return wl_done();
}

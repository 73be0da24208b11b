/* TCP and UDP sockets within a job.
 *
 * --mode tcp: listeners, connections with bytes both ways, half closed; --v6 1 for IPv6
 * --mode options: options of connections and listeners
 * --mode served: a server and its clients, each a process
 * --mode bulk: writers that are ahead of their readers by all that the kernel takes
 * --mode ended: connections with one end, or none, and such as nobody has accepted yet
 * --mode udp: datagram sockets
 * --mode datagrams: datagrams that wait in them, and who has sent them
 */
#include "workload.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define HOLD (40 * WL_MS)
union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static bool hold(void)
{
	bool more = true;
	for (int64_t start = wl_now(); more && wl_now() - start < HOLD; wl_nap(WL_MS))
		more = wl_tick();
	return more;
}

static union address loopback(bool v6)
{
	union address where = { 0 };
	if (v6) {
		where.v6.sin6_family = AF_INET6;
		where.v6.sin6_addr = in6addr_loopback;
	} else {
		where.v4.sin_family = AF_INET;
		where.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	}
	return where;
}

static union address name_of(int fd, bool peer)
{
	union address found = { 0 };
	socklen_t size = sizeof found;
	CHECK((peer ? getpeername(fd, &found.any, &size) : getsockname(fd, &found.any, &size)) == 0, "a name: %s",
	      strerror(errno));
	return found;
}

static int listening(union address *where)
{
	int fd = MUST(socket(where->any.sa_family, SOCK_STREAM, 0));
	MUST(bind(fd, &where->any, sizeof *where));
	MUST(listen(fd, 7));
	*where = name_of(fd, false);
	return fd;
}

static int reach(const union address *where, int kind)
{
	int fd = MUST(socket(where->any.sa_family, kind, 0));
	CHECK(connect(fd, &where->any, sizeof *where) == 0, "connect: %s", strerror(errno));
	return fd;
}

static void put(int fd, size_t length, uint64_t seed)
{
	static uint64_t words[1 << 14];
	wl_fill(words, (length + 7) & ~7ul, seed);
	CHECK(send(fd, words, length, 0) == (ssize_t)length, "send of %zu: %s", length, strerror(errno));
}

static void take(int fd, size_t length, uint64_t seed)
{
	static uint64_t words[1 << 14], bytes[1 << 14];
	wl_fill(words, (length + 7) & ~7ul, seed);
	ssize_t n = 0;
	/* What is lost must not be waited for for ever. */
	for (size_t got = 0; got < length; got += n) {
		struct pollfd one = { fd, POLLIN, 0 };
		CHECK(poll(&one, 1, 15000) == 1, "%zu bytes, not %zu", got, length);
		n = recv(fd, (char *)bytes + got, length - got, 0);
		CHECK(n > 0, "%zu bytes, not %zu: %s", got, length, n < 0 ? strerror(errno) : "the end");
	}
	CHECK(!memcmp(words, bytes, length), "contents of a socket");
}

static void want_nothing(int fd, bool ended)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);
	CHECK(ended ? n == 0 : n == -1 && errno == EAGAIN, "%zd at the end: %s", n, strerror(errno));
}

static int number(int fd, int level, int option);
static void set(int fd, int level, int option, int value);

static void tcp(void)
{
	union address where = loopback(wl_num("v6", 0)), lost;
	int listener = listening(&where), fresh = MUST(socket(AF_INET, SOCK_STREAM, 0));
	lost = loopback(wl_num("v6", 0));
	int gone = listening(&lost), kept = reach(&lost, SOCK_STREAM), other = MUST(accept(gone, NULL, NULL));
	close(gone);
	union address own = name_of(kept, false);
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		int client = reach(&where, SOCK_STREAM), server = MUST(accept(listener, NULL, NULL));
		int half = reach(&where, SOCK_STREAM), closing = MUST(accept(listener, NULL, NULL));
		put(client, 8000 + seed % 8, seed);
		put(server, 30000, ~seed);
		put(half, 500, seed);
		MUST(shutdown(half, SHUT_WR));
		put(closing, 300, ~seed);
		put(kept, 16, seed);
		if (wl_sabotage("lost"))
			take(server, 8, seed);
		if (wl_sabotage("shut"))
			MUST(shutdown(client, SHUT_WR));
		more = hold();
		take(server, 8000 + seed % 8, seed);
		take(client, 30000, ~seed);
		want_nothing(server, false);
		want_nothing(client, false);
		take(closing, 500, seed);
		want_nothing(closing, true);
		take(half, 300, ~seed);
		want_nothing(half, false);
		put(closing, 8, seed);
		take(half, 8, seed);
		take(other, 16, seed);
		union address named = name_of(other, true), local = name_of(kept, false);
		CHECK(!memcmp(&named, &own, sizeof own) && !memcmp(&local, &own, sizeof own), "address of a connection");
		named = name_of(listener, false);
		CHECK(!memcmp(&named, &where, sizeof where), "address of a listener");
		CHECK(send(fresh, "", 1, MSG_NOSIGNAL) == -1, "a fresh socket sends");
		/* Whoever closes last leaves no address in use. */
		struct linger now = { 1, 0 };
		int all[] = { client, server, half, closing };
		for (int i = 0; i < 4; i++) {
			MUST(setsockopt(all[i], SOL_SOCKET, SO_LINGER, &now, sizeof now));
			close(all[i]);
		}
	}
}

/* Words that tell where in the stream they are. */
static uint64_t word_at(uint64_t index)
{
	return wl_mix(index);
}

static void write_on(int fd, long words)
{
	static uint64_t piece[1 << 15];
	for (uint64_t index = 0; words < 0 || index < (uint64_t)words;) {
		size_t n = 0;
		while (n < sizeof piece / 8 && (words < 0 || index < (uint64_t)words))
			piece[n++] = word_at(index++);
		for (size_t put = 0; put < n * 8;) {
			ssize_t now = send(fd, (char *)piece + put, n * 8 - put, MSG_NOSIGNAL);
			if (now < 0 && (errno == EPIPE || errno == ECONNRESET))
				_exit(0);
			CHECK(now > 0, "send: %s", strerror(errno));
			put += now;
		}
	}
}

/* Reads on in a stream that is never empty. */
static void read_on(int fd, size_t words, uint64_t *index)
{
	uint64_t word;
	for (; words; words--) {
		ssize_t n = recv(fd, &word, 8, MSG_WAITALL);
		CHECK(n == 8 && word == word_at(*index), "word %llu of a stream", (unsigned long long)*index);
		++*index;
	}
}

/* Two processes write without a rest; a third stream has ended, and is read to its end. */
static void bulk(void)
{
	enum { STREAMS = 2, WORDS = 120 << 8 };
	union address where = loopback(false);
	int listener = listening(&where), from[STREAMS + 1];
	uint64_t index[STREAMS + 1] = { 0 };
	for (int i = 0; i < STREAMS; i++) {
		int client = reach(&where, SOCK_STREAM);
		from[i] = MUST(accept(listener, NULL, NULL));
		if (wl_fork() == 0) {
			for (int j = 0; j <= i; j++)
				close(from[j]);
			if (i == 1)
				set(client, SOL_SOCKET, SO_SNDBUF, 100000);
			write_on(client, -1);
		}
		close(client);
	}
	int client = reach(&where, SOCK_STREAM);
	from[STREAMS] = MUST(accept(listener, NULL, NULL));
	int room = number(client, SOL_SOCKET, SO_SNDBUF);
	set(client, SOL_SOCKET, SO_SNDBUF, 200000);
	write_on(client, WORDS);
	MUST(shutdown(client, SHUT_WR));
	CHECK(room > 0, "a size of a buffer");
	wl_ready();
	while (wl_tick()) {
		for (int i = 0; i <= STREAMS; i++) {
			if (wl_sabotage("bytes") && i == 0)
				MUST(recv(from[i], &room, 4, 0));
			if (i < STREAMS || index[i] < WORDS)
				read_on(from[i], i == STREAMS ? 8 : i ? 1 << 8 : 1 << 12, &index[i]);
		}
		wl_nap(WL_MS);
	}
	if (index[STREAMS] < WORDS)
		read_on(from[STREAMS], WORDS - index[STREAMS], &index[STREAMS]);
	want_nothing(from[STREAMS], true);
}

static void finish(int fd)
{
	struct linger now = { 1, 0 };
	MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
	close(fd);
}

static void want_events(int fd, short wanted)
{
	struct pollfd one = { fd, POLLIN | POLLRDHUP, 0 };
	CHECK(poll(&one, 1, 0) >= 0 && one.revents == wanted, "events %#x, not %#x", one.revents, wanted);
}

static void ended(void)
{
	union address where = loopback(wl_num("v6", 0));
	int listener = listening(&where);
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		/* Of these the server has closed its end. */
		int left = reach(&where, SOCK_STREAM), server = MUST(accept(listener, NULL, NULL));
		put(server, 30000, seed);
		close(server);
		/* Of this both ends have been closed, one way after the other. */
		int over = reach(&where, SOCK_STREAM);
		server = MUST(accept(listener, NULL, NULL));
		put(server, 700, ~seed);
		MUST(shutdown(over, SHUT_WR));
		close(server);
		/* This was reset, which has been told. */
		int reset = reach(&where, SOCK_STREAM);
		finish(MUST(accept(listener, NULL, NULL)));
		CHECK(number(reset, SOL_SOCKET, SO_ERROR) == ECONNRESET, "no reset");
		int deaf = reach(&where, SOCK_STREAM), speaker = MUST(accept(listener, NULL, NULL));
		MUST(shutdown(deaf, SHUT_RD));
		/* Nobody has accepted these. */
		int waiting = reach(&where, SOCK_STREAM), silent = reach(&where, SOCK_STREAM);
		MUST(shutdown(silent, SHUT_WR));
		union address own = name_of(waiting, false);
		if (wl_sabotage("end"))
			take(left, 8, seed);
		more = hold();
		take(left, 30000, seed);
		want_nothing(left, true);
		want_events(left, POLLIN | POLLRDHUP);
		take(over, 700, ~seed);
		want_nothing(over, true);
		want_events(over, POLLIN | POLLHUP | POLLRDHUP);
		want_nothing(reset, true);
		CHECK(send(reset, "", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "a connection that is over sends");
		want_events(deaf, POLLIN | POLLRDHUP);
		put(deaf, 8, seed);
		take(speaker, 8, seed);
		int first = MUST(accept(listener, NULL, NULL)), second = MUST(accept(listener, NULL, NULL));
		union address named = name_of(first, true);
		if (memcmp(&named, &own, sizeof own)) {
			int other = first;
			first = second;
			second = other;
			named = name_of(first, true);
		}
		CHECK(!memcmp(&named, &own, sizeof own), "who waits");
		want_nothing(second, true);
		put(second, 40, seed);
		take(silent, 40, seed);
		put(waiting, 50, seed);
		take(first, 50, seed);
		CHECK(send(left, "", 1, MSG_NOSIGNAL) == 1 || errno == EPIPE, "an end: %s", strerror(errno));
		int all[] = { left, over, reset, deaf, speaker, waiting, silent, first, second };
		for (int i = 0; i < 9; i++)
			finish(all[i]);
	}
}

static int number(int fd, int level, int option)
{
	int value = -1;
	socklen_t size = sizeof value;
	MUST(getsockopt(fd, level, option, &value, &size));
	return value;
}

static void set(int fd, int level, int option, int value)
{
	MUST(setsockopt(fd, level, option, &value, sizeof value));
}

/* What is an int, and what it is not by default. */
static const struct {
	int level, option, value;
} switches[] = {
	{ SOL_SOCKET, SO_TIMESTAMP, 1 },	{ SOL_SOCKET, SO_RXQ_OVFL, 1 },
	{ SOL_SOCKET, SO_NO_CHECK, 1 },		{ SOL_SOCKET, SO_ZEROCOPY, 1 },
	{ IPPROTO_IP, IP_TOS, 0x10 },		{ IPPROTO_IP, IP_TTL, 33 },
	{ SOL_SOCKET, SO_PRIORITY, 5 },		{ SOL_SOCKET, SO_MARK, 77 },
	{ IPPROTO_IP, IP_PKTINFO, 1 },		{ IPPROTO_IP, IP_MULTICAST_TTL, 7 },
	{ IPPROTO_IP, IP_MULTICAST_LOOP, 0 },	{ IPPROTO_IP, IP_MULTICAST_ALL, 0 },
	{ IPPROTO_IP, IP_MTU_DISCOVER, 2 },	{ IPPROTO_IP, IP_RECVERR, 1 },
	{ IPPROTO_IP, IP_RECVTTL, 1 },		{ IPPROTO_IP, IP_RECVTOS, 1 },
	{ IPPROTO_IP, IP_RECVORIGDSTADDR, 1 },	{ IPPROTO_IP, IP_MINTTL, 2 },
	{ IPPROTO_IP, IP_TRANSPARENT, 1 },	{ IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1 },
	{ IPPROTO_IPV6, IPV6_TCLASS, 0x10 },	{ IPPROTO_IPV6, IPV6_UNICAST_HOPS, 33 },
	{ IPPROTO_IPV6, IPV6_RECVPKTINFO, 1 },	{ IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 7 },
	{ IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0 }, { IPPROTO_IPV6, IPV6_MTU_DISCOVER, 2 },
	{ IPPROTO_IPV6, IPV6_RECVERR, 1 },	{ IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1 },
	{ IPPROTO_IPV6, IPV6_RECVTCLASS, 1 },	{ IPPROTO_IPV6, IPV6_DONTFRAG, 1 },
	{ IPPROTO_IPV6, IPV6_FREEBIND, 1 },	{ IPPROTO_IPV6, IPV6_TRANSPARENT, 1 },
	{ IPPROTO_UDP, UDP_SEGMENT, 1000 },	{ IPPROTO_UDP, UDP_GRO, 1 },
};
enum { SWITCHES = sizeof switches / sizeof *switches };

/* Which of them a socket has: what this kernel, or this kind of socket, does not know is left out. */
static uint64_t switch_all(int fd)
{
	uint64_t has = 0;
	for (int i = 0; i < SWITCHES; i++)
		if (!setsockopt(fd, switches[i].level, switches[i].option, &switches[i].value, sizeof(int))
		    && number(fd, switches[i].level, switches[i].option) == switches[i].value)
			has |= (uint64_t)1 << i;
	CHECK(has, "no option can be set");
	return has;
}

static void want_switches(int fd, uint64_t has)
{
	for (int i = 0; i < SWITCHES; i++)
		CHECK(!(has >> i & 1) || number(fd, switches[i].level, switches[i].option) == switches[i].value,
		      "option %d of level %d", switches[i].option, switches[i].level);
}

static void options(void)
{
	int kinds[4] = { socket(AF_INET, SOCK_DGRAM, 0), socket(AF_INET6, SOCK_DGRAM, 0), socket(AF_INET, SOCK_STREAM, 0),
			 socket(AF_INET6, SOCK_STREAM, 0) };
	uint64_t has[4];
	for (int i = 0; i < 4; i++)
		has[i] = switch_all(kinds[i]);
	union address where = loopback(false);
	int listener = listening(&where), client = reach(&where, SOCK_STREAM), server = MUST(accept(listener, NULL, NULL));
	int six = MUST(socket(AF_INET6, SOCK_STREAM, 0)), reused = number(listener, SOL_SOCKET, SO_REUSEADDR);
	struct linger linger = { 1, 17 }, found;
	socklen_t size = sizeof found;
	set(six, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	set(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5);
	set(client, IPPROTO_TCP, TCP_NODELAY, 1);
	set(client, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(client, IPPROTO_TCP, TCP_KEEPIDLE, 77);
	set(client, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
	set(client, SOL_SOCKET, SO_SNDBUF, 50000);
	set(server, IPPROTO_IP, IP_TOS, 0x10);
	MUST(setsockopt(server, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
	int deferred = number(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT);
	/* Go makes all that listens so; its clients are those of plain TCP. */
	int multi = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
	union address several = loopback(false);
	if (multi >= 0) {
		MUST(bind(multi, &several.any, sizeof several));
		MUST(listen(multi, 5));
		several = name_of(multi, false);
	}
	wl_ready();
	for (bool more = true; more;) {
		if (wl_sabotage("option"))
			set(client, IPPROTO_TCP, TCP_NODELAY, 0);
		if (wl_sabotage("switch"))
			set(kinds[1], IPPROTO_IPV6, IPV6_RECVERR, 0);
		more = hold();
		for (int i = 0; i < 4; i++)
			want_switches(kinds[i], has[i]);
		CHECK(number(client, IPPROTO_TCP, TCP_NODELAY) == 1 && !number(server, IPPROTO_TCP, TCP_NODELAY), "NODELAY");
		CHECK(number(client, SOL_SOCKET, SO_KEEPALIVE) == 1 && number(client, IPPROTO_TCP, TCP_KEEPIDLE) == 77, "KEEP");
		CHECK(number(client, IPPROTO_TCP, TCP_USER_TIMEOUT) == 12345, "TCP_USER_TIMEOUT");
		CHECK(number(client, SOL_SOCKET, SO_SNDBUF) == 100000, "SO_SNDBUF");
		CHECK(number(server, IPPROTO_IP, IP_TOS) == 0x10, "IP_TOS");
		CHECK(number(six, IPPROTO_IPV6, IPV6_V6ONLY) == 1, "IPV6_V6ONLY");
		CHECK(number(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT) == deferred, "TCP_DEFER_ACCEPT");
		CHECK(number(listener, SOL_SOCKET, SO_REUSEADDR) == reused, "SO_REUSEADDR");
		MUST(getsockopt(server, SOL_SOCKET, SO_LINGER, &found, &size));
		CHECK(found.l_onoff == 1 && found.l_linger == 17, "SO_LINGER");
		put(client, 100, 1);
		take(server, 100, 1);
		if (multi >= 0) {
			CHECK(number(multi, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_MPTCP, "Multipath TCP");
			int own = reach(&several, SOCK_STREAM), end = MUST(accept(multi, NULL, NULL));
			put(end, 10, 2);
			take(own, 10, 2);
			finish(end);
			finish(own);
		}
	}
}

/* Children ask, and the parent answers one after the other. */
static void served(void)
{
	enum { CLIENTS = 3 };
	union address where = loopback(false);
	int listener = listening(&where), server[CLIENTS];
	uint64_t word;
	for (int i = 0; i < CLIENTS; i++) {
		if (wl_fork() == 0) {
			close(listener);
			int client = reach(&where, SOCK_STREAM);
			for (uint64_t asked = i;; asked += wl_mix(asked) % 1000) {
				if (send(client, &asked, 8, MSG_NOSIGNAL) != 8 || recv(client, &word, 8, MSG_WAITALL) != 8)
					_exit(asked == (uint64_t)i);
				CHECK(word == wl_mix(asked), "an answer is wrong");
			}
		}
		server[i] = MUST(accept(listener, NULL, NULL));
	}
	wl_ready();
	while (wl_tick()) {
		for (int i = 0; i < CLIENTS; i++) {
			CHECK(recv(server[i], &word, 8, MSG_WAITALL) == 8, "a question: %s", strerror(errno));
			word = wl_mix(word);
			if (wl_sabotage("answer"))
				word++;
			CHECK(send(server[i], &word, 8, 0) == 8, "an answer: %s", strerror(errno));
		}
		wl_nap(WL_MS / 5);
	}
	int status;
	for (int i = 0; i < CLIENTS; i++)
		close(server[i]);
	for (int i = 0; i < CLIENTS; i++)
		CHECK(wait(&status) > 0 && status == 0, "a child ended with %#x", status);
}

static void udp(void)
{
	union address where = loopback(false), found;
	socklen_t size = sizeof found;
	int server = MUST(socket(AF_INET, SOCK_DGRAM, 0)), fresh = MUST(socket(AF_INET6, SOCK_DGRAM, 0));
	MUST(bind(server, &where.any, sizeof where));
	where = name_of(server, false);
	int client = reach(&where, SOCK_DGRAM);
	set(server, SOL_SOCKET, SO_BROADCAST, 1);
	union address own = name_of(client, false);
	uint64_t word = 0;
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		if (wl_sabotage("peer"))
			MUST(connect(client, &own.any, sizeof own));
		more = hold();
		CHECK(send(client, &seed, 8, 0) == 8, "send: %s", strerror(errno));
		CHECK(recvfrom(server, &word, 8, MSG_DONTWAIT, &found.any, &size) == 8 && word == seed, "a datagram");
		CHECK(found.v4.sin_port == own.v4.sin_port, "the sender of a datagram");
		CHECK(number(server, SOL_SOCKET, SO_BROADCAST) == 1, "SO_BROADCAST");
		CHECK(send(fresh, "", 1, 0) == -1 && errno == EDESTADDRREQ, "a fresh socket sends");
	}
}

static int datagram_socket(union address *where, bool shared)
{
	int fd = MUST(socket(where->any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	if (shared)
		set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	MUST(bind(fd, &where->any, sizeof *where));
	*where = name_of(fd, false);
	return fd;
}

static void throw(int fd, const union address *to, size_t length, uint64_t seed)
{
	static uint64_t words[1 << 13];
	wl_fill(words, (length + 7) & ~7ul, seed);
	CHECK(sendto(fd, words, length, 0, &to->any, sizeof *to) == (ssize_t)length, "sendto: %s", strerror(errno));
}

static void catch(int fd, const union address *from, size_t length, uint64_t seed)
{
	static uint64_t words[1 << 13];
	static uint8_t bytes[1 << 16];
	union address found = { 0 };
	socklen_t size = sizeof found;
	wl_fill(words, (length + 7) & ~7ul, seed);
	ssize_t n = recvfrom(fd, bytes, sizeof bytes, 0, &found.any, &size);
	CHECK(n == (ssize_t)length && !memcmp(bytes, words, length), "a datagram of %zd bytes, not %zu", n, length);
	CHECK(found.v4.sin_port == from->v4.sin_port, "the port of a sender");
	CHECK(from->any.sa_family == AF_INET ? found.v4.sin_addr.s_addr == from->v4.sin_addr.s_addr :
	      !memcmp(&found.v6.sin6_addr, &from->v6.sin6_addr, 16), "the address of a sender");
}

static void datagrams(void)
{
	bool v6 = wl_num("v6", 0);
	union address at[2] = { loopback(v6), loopback(v6) }, own = loopback(v6), any = { 0 }, group = loopback(v6), gone;
	char byte;
	any.any.sa_family = own.any.sa_family;
	int server = datagram_socket(&any, false), client = datagram_socket(&own, false), shared[2];
	union address reach_any = own;
	reach_any.v4.sin_port = any.v4.sin_port;
	/* Of two that share a port, the kernel chooses by the sender: each is found by trying. */
	shared[0] = datagram_socket(&group, true);
	shared[1] = datagram_socket(&group, true);
	int towards = datagram_socket(&at[0], false);
	MUST(connect(towards, &own.any, sizeof own));
	wl_ready();
	for (uint64_t seed = 0, more = true; more; seed++) {
		gone = loopback(v6);
		int leaving = datagram_socket(&gone, false);
		throw(client, &reach_any, 8, seed);
		throw(leaving, &reach_any, 0, seed);
		throw(leaving, &reach_any, 30001, seed + 1);
		throw(client, &reach_any, 16, seed + 2);
		throw(client, &at[0], 24, seed + 3);
		throw(client, &at[0], 32, seed + 4);
		throw(leaving, &group, 40, seed + 5);
		struct pollfd who[2] = { { shared[0], POLLIN, 0 }, { shared[1], POLLIN, 0 } };
		CHECK(poll(who, 2, 1000) == 1, "nobody of two has a datagram");
		int taker = who[0].revents ? 0 : 1;
		close(leaving);
		if (wl_sabotage("lost"))
			catch(server, &own, 8, seed);
		if (wl_sabotage("sender")) {
			catch(server, &own, 8, seed), catch(server, &gone, 0, seed);
			catch(server, &gone, 30001, seed + 1), catch(server, &own, 16, seed + 2);
			throw(towards, &own, 8, seed), throw(client, &reach_any, 8, seed), throw(client, &reach_any, 0, seed);
		}
		more = hold();
		catch(server, &own, 8, seed);
		catch(server, &gone, 0, seed);
		catch(server, &gone, 30001, seed + 1);
		catch(server, &own, 16, seed + 2);
		catch(towards, &own, 24, seed + 3);
		catch(towards, &own, 32, seed + 4);
		catch(shared[taker], &gone, 40, seed + 5);
		int all[] = { server, towards, shared[0], shared[1] };
		for (int i = 0; i < 4; i++)
			CHECK(recv(all[i], &byte, 1, 0) == -1 && errno == EAGAIN, "a datagram too much in %d", i);
		CHECK(getpeername(server, &gone.any, &(socklen_t){ sizeof gone }) == -1, "it is connected");
		throw(client, &reach_any, 8, seed);
		catch(server, &own, 8, seed);
		throw(client, &at[0], 8, seed);
		catch(towards, &own, 8, seed);
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	if (wl_mode("tcp"))
		tcp();
	else if (wl_mode("options"))
		options();
	else if (wl_mode("served"))
		served();
	else if (wl_mode("bulk"))
		bulk();
	else if (wl_mode("ended"))
		ended();
	else if (wl_mode("datagrams"))
		datagrams();
	else if (wl_mode("udp"))
		udp();
	else
		wl_fail("unknown mode");
	return wl_done();
}

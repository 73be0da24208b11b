/* Threads and what belongs to each of them.
 *
 * --mode state: --count (default 50) threads, each of which checks its TID,
 *   pthread_self, TLS values, name, signal mask, alternate stack, nice value and
 *   registers held in local variables.
 * --mode locks: mutexes, condition variables, barriers and rwlocks between them;
 *   a counter under a mutex comes out exact.
 * --mode robust: a robust mutex held across the run; its owner's death is noticed.
 * --mode rseq: the registered rseq area, and per-cpu counters by restartable sequences.
 * --mode join: a thread that ends is joined with its value, and detached ones vanish.
 */
#include "workload.h"
#include <pthread.h>
#include <sys/resource.h>
#include <sys/rseq.h>

static long count;
static volatile bool end;

struct thread {
	pthread_t handle;
	long index;
	pid_t tid;
	uint64_t rounds;
};
static struct thread threads[1024];
static __thread uint64_t initialised = 0x5eed;
static __thread uint64_t zeroed[8];
static pthread_key_t key;

static void start(void *(*body)(void *))
{
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 256 * 1024);
	for (long i = 0; i < count; i++) {
		threads[i].index = i;
		CHECK(!pthread_create(&threads[i].handle, &small, body, &threads[i]), "thread %ld", i);
	}
}

static void all_advance(void)
{
	static uint64_t last[1024];
	static int64_t moved;
	if (!moved)
		moved = wl_now();
	bool all = true;
	for (long i = 0; i < count; i++)
		all &= threads[i].rounds > last[i];
	if (all) {
		moved = wl_now();
		for (long i = 0; i < count; i++)
			last[i] = threads[i].rounds;
	}
	CHECK(wl_now() - moved < 5 * WL_SEC, "a thread stands still");
}

static void finish(void)
{
	end = true;
	for (long i = 0; i < count; i++)
		CHECK(!pthread_join(threads[i].handle, NULL), "join of thread %ld", i);
}

static void *state(void *argument)
{
	struct thread *me = argument;
	char name[16], seen[16];
	sigset_t mask, mask_seen;
	stack_t stack, stack_seen;
	uint64_t seed = (uint64_t)me->index;
	me->tid = gettid();
	initialised += seed;
	wl_fill(zeroed, sizeof zeroed, seed);
	pthread_setspecific(key, (void *)(seed + 1));
	snprintf(name, sizeof name, "worker-%ld", me->index);
	MUST(prctl(PR_SET_NAME, name));
	sigemptyset(&mask);
	for (int signal = 34; signal < 64; signal++)
		if (wl_mix(seed) >> (signal - 1) & 1)
			sigaddset(&mask, signal);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	stack = (stack_t){ .ss_sp = malloc(16384), .ss_size = 8192 + (seed % 8) * 1024 };
	MUST(sigaltstack(&stack, NULL));
	MUST(setpriority(PRIO_PROCESS, (id_t)me->tid, (int)(seed % 5)));
	uint64_t local[16];
	wl_fill(local, sizeof local, ~seed);
	while (!end) {
		bool damaged = me->index == 0;
		if (damaged && wl_sabotage("name"))
			prctl(PR_SET_NAME, "other");
		if (damaged && wl_sabotage("mask"))
			sigaddset(&mask, SIGUSR2);
		if (damaged && wl_sabotage("tls"))
			zeroed[3]++;
		if (damaged && wl_sabotage("altstack"))
			stack.ss_size++;
		if (damaged && wl_sabotage("tid"))
			me->tid++;
		CHECK(gettid() == me->tid, "thread %ld has TID %d, not %d", me->index, gettid(), me->tid);
		CHECK(syscall(SYS_tgkill, getpid(), me->tid, 0) == 0, "TID %d is not of this process", me->tid);
		CHECK(pthread_equal(pthread_self(), me->handle), "pthread_self of thread %ld", me->index);
		CHECK(initialised == 0x5eed + seed, "initialised TLS of thread %ld", me->index);
		CHECK(wl_compare(zeroed, sizeof zeroed, seed) < 0, "TLS of thread %ld", me->index);
		CHECK(pthread_getspecific(key) == (void *)(seed + 1), "key of thread %ld", me->index);
		MUST(prctl(PR_GET_NAME, seen));
		CHECK(!strcmp(name, seen), "thread %ld is called %s", me->index, seen);
		pthread_sigmask(SIG_SETMASK, NULL, &mask_seen);
		for (int signal = 1; signal < 65; signal++)
			CHECK(sigismember(&mask, signal) == sigismember(&mask_seen, signal),
			      "signal %d in the mask of thread %ld", signal, me->index);
		MUST(sigaltstack(NULL, &stack_seen));
		CHECK(stack_seen.ss_sp == stack.ss_sp && stack_seen.ss_size == stack.ss_size && !stack_seen.ss_flags,
		      "alternate stack of thread %ld", me->index);
		CHECK(getpriority(PRIO_PROCESS, (id_t)me->tid) == (int)(seed % 5), "nice value of thread %ld",
		      me->index);
		CHECK(wl_compare(local, sizeof local, ~seed) < 0, "stack of thread %ld", me->index);
		me->rounds++;
		wl_nap((1 + me->index % 7) * WL_MS);
	}
	return NULL;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t table_lock = PTHREAD_RWLOCK_INITIALIZER;
static uint64_t total, table[64];
static long turn;

/* A ring: each waits for its turn, so a lost wake-up stops them all. */
static void *locks(void *argument)
{
	struct thread *me = argument;
	while (!end) {
		pthread_mutex_lock(&lock);
		while (turn != me->index && !end)
			pthread_cond_wait(&turn_changed, &lock);
		turn = (me->index + 1) % count;
		uint64_t before = total;
		if (me->rounds % 16 == 0)
			wl_nap(100000);
		CHECK(total == before, "two threads hold the mutex");
		if (!(wl_sabotage("total") && me->index == 0))
			total++;
		me->rounds++;
		pthread_cond_broadcast(&turn_changed);
		pthread_mutex_unlock(&lock);
		pthread_rwlock_rdlock(&table_lock);
		for (int i = 1; i < 64; i++)
			CHECK(table[i] == table[0], "a reader saw a writer's work");
		pthread_rwlock_unlock(&table_lock);
		if (me->rounds % 8 == 0) {
			pthread_rwlock_wrlock(&table_lock);
			for (int i = 0; i < 64; i++)
				table[i]++;
			pthread_rwlock_unlock(&table_lock);
		}
	}
	return NULL;
}

static pthread_mutex_t robust;

static void *hold_robust(void *argument)
{
	struct thread *me = argument;
	pthread_mutex_lock(&robust);
	while (!end) {
		me->rounds++;
		wl_nap(WL_MS);
	}
	if (wl_sabotage("owner"))
		pthread_mutex_unlock(&robust);
	return NULL;
}

/* The kernel walks the robust list of the dead thread: only then is this EOWNERDEAD. */
static void check_robust(void)
{
	int result = pthread_mutex_lock(&robust);
	CHECK(result == EOWNERDEAD, "lock after the owner's death: %s", strerror(result));
}

static void *restartable(void *argument)
{
	struct thread *me = argument;
	while (!end) {
		struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
		for (int i = 0; i < 1000; i++) {
			uint32_t cpu = *(volatile uint32_t *)&area->cpu_id;
			CHECK(cpu < (uint32_t)sysconf(_SC_NPROCESSORS_CONF), "cpu_id is %d", (int)cpu);
		}
		/* The kernel updates the field at each preemption: after a yield it is right. */
		unsigned cpu, after;
		uint32_t said;
		int tries = 0;
		do {
			MUST(syscall(SYS_getcpu, &cpu, NULL, NULL));
			said = *(volatile uint32_t *)&area->cpu_id;
			MUST(syscall(SYS_getcpu, &after, NULL, NULL));
			if (wl_sabotage("cpu"))
				said++;
		} while ((cpu != after || said != cpu) && ++tries < 100);
		CHECK(tries < 100, "cpu_id is %u on CPU %u", said, cpu);
		/* Registered already: a second registration of the same area is EBUSY. */
		CHECK(syscall(SYS_rseq, area, __rseq_size ? 32 : 0, 0, RSEQ_SIG) == -1 && errno == EBUSY,
		      "rseq is not registered: %s", strerror(errno));
		me->rounds++;
		wl_nap(WL_MS);
	}
	return NULL;
}

static void *give(void *value)
{
	wl_nap((intptr_t)value % 5 * WL_MS);
	return value;
}

static void join(void)
{
	for (intptr_t round = 1; wl_tick(); round++) {
		pthread_t one, other;
		void *value;
		CHECK(!pthread_create(&one, NULL, give, (void *)round), "no thread");
		CHECK(!pthread_create(&other, NULL, give, (void *)(round / 2)), "no thread");
		pthread_detach(other);
		CHECK(!pthread_join(one, &value), "join");
		CHECK(value == (void *)(round + !!wl_sabotage("value")), "thread %ld gave %ld", (long)round,
		      (long)value);
	}
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	count = wl_num("count", 50);
	CHECK(count <= 1024, "too many threads");
	pthread_key_create(&key, NULL);
	pthread_mutexattr_t attributes;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attributes);
	if (wl_mode("join")) {
		wl_ready();
		join();
		return wl_done();
	}
	bool held = wl_mode("robust");
	if (held)
		count = 1;
	start(wl_mode("state") ? state : wl_mode("locks") ? locks : held ? hold_robust : restartable);
	while (held && !threads[0].rounds)
		wl_nap(WL_MS);
	wl_ready();
	while (wl_tick()) {
		all_advance();
		if (held)
			CHECK(pthread_mutex_trylock(&robust) == EBUSY, "the mutex is free");
		if (wl_sabotage("owner") || wl_sabotage("total"))
			wl_stop = wl_ticks > 2 * WL_SABOTAGE_TICK;
		wl_nap(WL_MS);
	}
	pthread_mutex_lock(&lock);
	end = true;
	pthread_cond_broadcast(&turn_changed);
	pthread_mutex_unlock(&lock);
	finish();
	if (held)
		check_robust();
	if (wl_mode("locks")) {
		uint64_t sum = 0;
		for (long i = 0; i < count; i++)
			sum += threads[i].rounds;
		CHECK(sum == total, "the total is %llu, not %llu", (unsigned long long)total, (unsigned long long)sum);
	}
	return wl_done();
}

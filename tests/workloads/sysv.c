/* Semaphores and message queues of System V.
 *
 * --mode semaphores: a set with which a child and its parent take turns, and whose
 *   other values stay.
 * --mode threads: the same in a program with threads, which has used SEM_UNDO and given back what it took.
 * --mode undo: a child has used SEM_UNDO both ways; when it ends, all is given back.
 * --mode queue: messages of several types that wait in a queue of a size of its own.
 */
#include "workload.h"
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

static int id;
static key_t key;

static void operate(unsigned short number, short by)
{
	struct sembuf one = { number, by, 0 };
	while (semop(id, &one, 1))
		CHECK(errno == EINTR, "semop: %s", strerror(errno));
}

static void *rest(void *nothing)
{
	for (;;)
		pause();
	return nothing;
}

/* Takes by SEM_UNDO, and gives back. */
static void borrow(unsigned short number)
{
	struct sembuf take = { number, -3, SEM_UNDO }, give = { number, 3, SEM_UNDO };
	MUST(semop(id, &take, 1));
	MUST(semop(id, &give, 1));
}

static void semaphores(void)
{
	id = MUST(semget(key, 4, IPC_CREAT | IPC_EXCL | 0640));
	MUST(semctl(id, 2, SETVAL, 7));
	if (wl_mode("threads")) {
		pthread_t thread;
		CHECK(!pthread_create(&thread, NULL, rest, NULL), "pthread_create");
		borrow(2);
	}
	MUST(semctl(id, 3, SETVAL, 32767));
	pid_t child = wl_fork();
	if (!child)
		for (;;) {
			operate(0, -1);
			operate(1, 1);
		}
	wl_ready();
	struct semid_ds state;
	while (wl_tick()) {
		CHECK(semget(key, 4, 0) == id, "another set has the key");
		if (wl_sabotage("value"))
			MUST(semctl(id, 2, SETVAL, 8));
		operate(0, 1);
		operate(1, -1);
		CHECK(semctl(id, 2, GETVAL) == 7 && semctl(id, 3, GETVAL) == 32767, "values have changed");
		MUST(semctl(id, 0, IPC_STAT, &state));
		CHECK(state.sem_perm.mode == 0640 && state.sem_otime, "mode %o", state.sem_perm.mode);
		wl_nap(WL_MS);
	}
	MUST(kill(child, SIGKILL));
	MUST(waitpid(child, NULL, 0));
	MUST(semctl(id, 0, IPC_RMID));
}

static volatile sig_atomic_t forget;

static void on_usr1(int signal)
{
	(void)signal;
	forget = 1;
}

static void change(unsigned short number, short by, short flags)
{
	struct sembuf one = { number, by, flags };
	MUST(semop(id, &one, 1));
}

/* Has taken, or given, by SEM_UNDO; at SIGUSR1 it gives back in such a way that nothing is left to be undone. */
static void undoer(int ready)
{
	signal(SIGUSR1, on_usr1);
	change(0, -3, SEM_UNDO);
	change(1, 5, SEM_UNDO);
	change(2, -32767, SEM_UNDO);
	change(3, 32767, SEM_UNDO);
	change(3, -1, 0);
	change(3, 1, SEM_UNDO);
	pthread_t thread;
	CHECK(!pthread_create(&thread, NULL, rest, NULL), "pthread_create");
	MUST(write(ready, "r", 1));
	while (!forget)
		wl_nap(WL_MS);
	change(0, 3, SEM_UNDO);
	change(0, -3, 0);
	MUST(write(ready, "f", 1));
	for (;;)
		pause();
}

static void undo(void)
{
	const unsigned short before[] = { 10, 0, 32767, 1, 4 }, taken[] = { 7, 5, 0, 32767, 4 };
	unsigned short values[5];
	int ready[2];
	char byte;
	bool more = true;
	id = MUST(semget(key, 5, IPC_CREAT | IPC_EXCL | 0600));
	MUST(pipe(ready));
	wl_ready();
	while (more) {
		MUST(semctl(id, 0, SETALL, before));
		pid_t child = wl_fork();
		if (!child) {
			change(3, -1, 0);
			undoer(ready[1]);
		}
		MUST(read(ready[0], &byte, 1));
		for (int64_t start = wl_now(); more && wl_now() - start < 60 * WL_MS; wl_nap(WL_MS))
			more = wl_tick();
		if (wl_sabotage("forgotten")) {
			MUST(kill(child, SIGUSR1));
			MUST(read(ready[0], &byte, 1));
		}
		MUST(semctl(id, 0, GETALL, values));
		CHECK(!memcmp(values, taken, sizeof taken), "values %d %d %d %d", values[0], values[1], values[2], values[3]);
		MUST(kill(child, SIGKILL));
		MUST(waitpid(child, NULL, 0));
		MUST(semctl(id, 0, GETALL, values));
		CHECK(values[0] == 10 && values[1] == 0 && values[2] == 32767 && values[4] == 4, "given back: %d %d %d %d",
		      values[0], values[1], values[2], values[3]);
		CHECK(values[3] == 0, "the lowest adjustment gives %d", values[3]);
	}
	MUST(semctl(id, 0, IPC_RMID));
}

struct message {
	long type;
	char text[100];
};

static void put(long type, const char *text)
{
	struct message message = { .type = type };
	strcpy(message.text, text);
	MUST(msgsnd(id, &message, strlen(text), 0));
}

static void want(long type, const char *text)
{
	struct message message = { 0 };
	ssize_t length = MUST(msgrcv(id, &message, sizeof message.text, type, IPC_NOWAIT));
	CHECK((size_t)length == strlen(text) && !memcmp(message.text, text, (size_t)length), "%.*s instead of %s",
	      (int)length, message.text, text);
}

static void queue(void)
{
	id = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0600));
	struct msqid_ds state;
	MUST(msgctl(id, IPC_STAT, &state));
	state.msg_qbytes = 5000;
	MUST(msgctl(id, IPC_SET, &state));
	put(3, "first");
	put(5, "second");
	put(3, "");
	wl_ready();
	while (wl_tick()) {
		CHECK(msgget(key, 0) == id, "another queue has the key");
		MUST(msgctl(id, IPC_STAT, &state));
		CHECK(state.msg_qnum == 3 && state.msg_qbytes == 5000, "%lu messages", (unsigned long)state.msg_qnum);
		want(3, "first");
		want(wl_sabotage("order") ? 3 : 5, "second");
		want(0, "");
		put(3, "first");
		put(5, "second");
		put(3, "");
		wl_nap(5 * WL_MS);
	}
	MUST(msgctl(id, IPC_RMID, NULL));
}

int main(int argc, char **argv)
{
	wl_init(argc, argv);
	key = 0x6d690000 + getpid();
	if (wl_mode("semaphores") || wl_mode("threads"))
		semaphores();
	else if (wl_mode("undo"))
		undo();
	else
		queue();
	return wl_done();
}

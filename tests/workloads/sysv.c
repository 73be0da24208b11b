/* Semaphores and message queues of System V.
 *
 * --mode semaphores: a set with which a child and its parent take turns, and whose
 *   other values stay.
 * --mode threads: the same in a program with threads, which has used SEM_UNDO and given back what it took.
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
	else
		queue();
	return wl_done();
}

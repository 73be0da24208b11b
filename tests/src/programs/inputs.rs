//! What the real programs work on. Generated, so that the repository stays small; seeded, so that it is the same everywhere.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The session typed at the interactive shell: jobs in the background, a pipe, a loop, history of its own variables.
pub(super) const TYPED: &str = "\
total=0
for i in 1 2 3 4 5 6 7 8 9 10; do total=$((total + i)); sleep 0.4; done
echo sum-$total
sleep 1 & wait $!; echo waited-$?
seq 1 1000 | sort -rn | head -1 | sed s/^/top-/
count() { local n=$1; while [ $n -gt 0 ]; do n=$((n - 1)); done; echo counted-$1; }
count 100000
exit 7
";

/// splitmix64: small, and good enough for text that compresses like text.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

pub(super) fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

pub(super) fn nothing(_: &Path) -> Result<()> {
    Ok(())
}

/// Threads that hand work to each other through a queue, and a digest of all that they did.
pub(super) fn python_threads(directory: &Path) -> Result<()> {
    let program = "\
import hashlib, queue, threading
todo, done = queue.Queue(8), queue.Queue()
def work():
    while True:
        item = todo.get()
        if item is None:
            return
        value = str(item).encode()
        for _ in range(9000):
            value = hashlib.sha256(value).digest()
        done.put((item, value.hex()))
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for item in range(500):
    todo.put(item)
    if item % 50 == 0:
        print('item', item)
for _ in threads:
    todo.put(None)
for thread in threads:
    thread.join()
results = dict(done.get() for _ in range(500))
print(hashlib.sha256(repr(sorted(results.items())).encode()).hexdigest())
";
    write(directory, "threads.py", program)
}

/// Processes that share memory, semaphores and queues: POSIX semaphores without a name, and
/// shared memory with one.
pub(super) fn python_multiprocessing(directory: &Path) -> Result<()> {
    let program = "\
import hashlib, multiprocessing
from multiprocessing import shared_memory
def work(item):
    value = str(item).encode()
    for _ in range(9000):
        value = hashlib.sha256(value).digest()
    return value.hex()
def count(queue, turn, total, name):
    memory = shared_memory.SharedMemory(name=name)
    for item in range(300):
        with turn:
            memory.buf[item] = (memory.buf[item] + item) % 251
            queue.put(item)
        with total.get_lock():
            total.value += item
    memory.close()
context = multiprocessing.get_context('fork')
memory = shared_memory.SharedMemory(create=True, size=4096)
queue, turn, total = context.Queue(), context.Semaphore(1), context.Value('q', 0)
counters = [context.Process(target=count, args=(queue, turn, total, memory.name)) for _ in range(2)]
with context.Pool(3) as pool:
    for counter in counters:
        counter.start()
    digest = hashlib.sha256()
    for item, value in enumerate(pool.imap(work, range(500))):
        digest.update(value.encode())
        if item % 50 == 0:
            print('item', item)
said = sorted(queue.get() for _ in range(600))
for counter in counters:
    counter.join()
again = shared_memory.SharedMemory(name=memory.name)
digest.update(bytes(again.buf[:300]) + repr((said, total.value)).encode())
again.close()
memory.close()
memory.unlink()
print(digest.hexdigest())
";
    write(directory, "processes.py", program)
}

/// Matrices in BLAS, and two threads that sort beside it. Integers, so that the order of additions does not matter.
pub(super) fn python_numpy(directory: &Path) -> Result<()> {
    let program = "\
import hashlib, threading
import numpy
random = numpy.random.default_rng(7)
digest = hashlib.sha256()
parts = {}
def sort(me):
    own = numpy.random.default_rng(me)
    total = 0
    for _ in range(11):
        total += int(numpy.sort(own.integers(0, 1 << 40, 400000))[::1000].sum())
    parts[me] = total
threads = [threading.Thread(target=sort, args=(me,)) for me in range(2)]
for thread in threads:
    thread.start()
matrix = random.integers(0, 100, (300, 300)).astype(numpy.float64)
for step in range(110):
    matrix = numpy.mod(matrix @ matrix, 97.0)
    digest.update(matrix.astype(numpy.int64).tobytes())
    if step % 20 == 0:
        print('step', step)
    numpy.sort(random.integers(0, 1 << 40, 200000))
for thread in threads:
    thread.join()
digest.update(repr(sorted(parts.items())).encode())
print(digest.hexdigest())
";
    write(directory, "matrices.py", program)
}

/// Pipelines of several programs, one after the other and side by side, with a subshell and a trap.
pub(super) fn bash_pipelines(directory: &Path) -> Result<()> {
    let script = "\
set -u -o pipefail
trap 'echo trapped' USR1
: > pipelines.out
for round in $(seq 1 60); do
    seq 1 40000 | awk -v r=$round '{ print ($1 * r) % 9973 }' | sort -n | uniq -c | md5sum >> pipelines.out
    ( seq 1 20000 | tr 0-9 a-j | sort -r | sha1sum ) >> pipelines.out
    tee >(wc -l > count.$round) < <(seq 1 $((round * 1000))) | tail -1 >> pipelines.out
    until [ -s count.$round ]; do sleep 0.01; done
    seq $round | while read -r n; do :; done
    echo round $round
done
kill -USR1 $$
wait
cat count.* | sort -n >> pipelines.out
echo end >> pipelines.out
";
    write(directory, "pipelines.sh", script)
}

/// Lines of words with repetitions, as in a log.
fn text(seed: u64, bytes: usize) -> String {
    let mut random = Random(seed);
    let words: Vec<String> = (0..2000)
        .map(|_| format!("{:x}", random.next() >> random.below(48)))
        .collect();
    let mut text = String::with_capacity(bytes + 64);
    while text.len() < bytes {
        // Skewed, so that some words are common.
        let word = random.below(2000) * random.below(2000) / 2000;
        text.push_str(&words[usize::try_from(word).expect("below 2000")]);
        text.push(if random.below(12) == 0 { '\n' } else { ' ' });
    }
    text
}

pub(super) fn xz(directory: &Path) -> Result<()> {
    write(directory, "text", &text(1, 5 << 20))
}

/// Many small transactions with an index, updates and deletions, on the disk's own terms.
pub(super) fn sqlite(directory: &Path) -> Result<()> {
    let mut random = Random(2);
    let mut sql = String::from("PRAGMA journal_mode=DELETE;\nPRAGMA synchronous=OFF;\n");
    sql.push_str("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, value INTEGER);\n");
    sql.push_str("CREATE INDEX by_value ON item(value);\n");
    for batch in 0..400_u64 {
        sql.push_str("BEGIN;\n");
        for _ in 0..300 {
            let (name, value) = (random.next(), random.below(100_000));
            writeln!(
                sql,
                "INSERT INTO item(name, value) VALUES('{name:x}', {value});"
            )?;
        }
        writeln!(
            sql,
            "UPDATE item SET value = value + 1 WHERE value % 400 = {batch};"
        )?;
        writeln!(
            sql,
            "DELETE FROM item WHERE value BETWEEN {batch} AND {batch} + 3;\nCOMMIT;"
        )?;
    }
    write(directory, "statements.sql", &sql)
}

/// Functions with loops and branches enough to keep the optimiser busy.
pub(super) fn gcc(directory: &Path) -> Result<()> {
    let mut random = Random(3);
    let mut source = String::from("extern int sink[256];\n");
    for function in 0..100 {
        writeln!(
            source,
            "int f{function}(int a, int b) {{\n\tint s = {};",
            random.below(1000)
        )?;
        for statement in 0..6 {
            let (x, y, z) = (
                random.below(100) + 1,
                random.below(30) + 1,
                random.below(256),
            );
            writeln!(
                source,
                "\tfor (int i = 0; i < {y}; i++) {{ s += (a ^ {x}) * i; if (s & {z}) s -= b; }}"
            )?;
            writeln!(
                source,
                "\tswitch ((s >> {statement}) & 3) {{ case 0: a += {x}; break; case 1: b ^= s;"
            )?;
            writeln!(
                source,
                "\tcase 2: sink[{z}] = a; break; default: s = -s; }}"
            )?;
        }
        source.push_str("\treturn s + a - b;\n}\n");
    }
    write(directory, "large.c", &source)
}

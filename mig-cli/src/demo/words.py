"""Counts the words and the pairs of letters of a text with several threads.

Usage: words.py TEXT THREADS. Prints how far it is every tenth of a second, and at the end one line
that depends on every byte of the text and not on which thread read it.
"""

import collections
import hashlib
import itertools
import os
import sys
import threading

BLOCK = 64 << 10

text = open(sys.argv[1], "rb", buffering=0)
blocks = os.fstat(text.fileno()).st_size // BLOCK
digests = [b""] * blocks
counts = collections.Counter()
lock = threading.Lock()
numbers = itertools.count()
done = 0


def work():
    global done
    while (number := next(numbers)) < blocks:
        block = os.pread(text.fileno(), BLOCK, number * BLOCK)
        letters = block.decode()
        words = collections.Counter(letters.split())
        words.update(zip(letters, letters[1:]))
        with lock:
            digests[number] = hashlib.sha256(block).digest()
            counts.update(words)
            done += 1


threads = [threading.Thread(target=work) for _ in range(int(sys.argv[2]))]
for thread in threads:
    thread.start()
for thread in threads:
    while thread.is_alive():
        thread.join(0.1)
        print(f"progress {done} {blocks}", flush=True)

words = {word: times for word, times in counts.items() if isinstance(word, str)}
most = max(words, key=words.get)
digest = hashlib.sha256(b"".join(digests) + repr(sorted(counts.items(), key=repr)).encode()).hexdigest()
print(f"result {sum(words.values())} words, {words[most]} times {most!r}, digest {digest[:16]}")

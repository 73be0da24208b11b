"""One process writes to a database with a write-ahead log, another one reads what is consistent at any time."""
import os
import sqlite3
import time


def connect():
    return sqlite3.connect("loop.db", timeout=60, isolation_level=None)


def write(database):
    number = 0
    while number < 100 or not os.path.exists("enough"):
        database.execute("BEGIN IMMEDIATE")
        for _ in range(5):
            number += 1
            database.execute("INSERT INTO item VALUES (?, ?)", (number, os.urandom(number % 3000)))
        database.execute("UPDATE total SET count = ?, sum = sum + ?", (number, 5 * number - 10))
        database.execute("COMMIT")


def read(database):
    while not os.path.exists("done"):
        database.execute("BEGIN")
        count, total = database.execute("SELECT count, sum FROM total").fetchone()
        seen = database.execute("SELECT count(*), coalesce(sum(number), 0) FROM item").fetchone()
        assert seen == (count, total) == (count, count * (count + 1) // 2), (seen, count, total)
        database.execute("COMMIT")
        time.sleep(0.001)


setup = connect()
setup.execute("PRAGMA journal_mode = WAL")
setup.execute("PRAGMA wal_autocheckpoint = 50")
setup.execute("CREATE TABLE item (number INTEGER PRIMARY KEY, contents BLOB)")
setup.execute("CREATE TABLE total (count INTEGER, sum INTEGER)")
setup.execute("INSERT INTO total VALUES (0, 0)")
setup.close()
reader = os.fork()
if not reader:
    read(connect())
    os._exit(0)
writer = connect()
write(writer)
open("done", "w").close()
assert os.waitpid(reader, 0)[1] == 0
print(writer.execute("PRAGMA integrity_check").fetchone()[0])

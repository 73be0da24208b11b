"""Counts and reads back until `enough` is there; says at the end how far it came."""
import os
import socket
import sys

kind = sys.argv[1]
if kind == "tcp":
    peer = socket.create_connection(("127.0.0.1", 6399))
else:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect("redis.sock")
stream = peer.makefile("rwb")


def ask(*words):
    words = [str(word).encode() for word in words]
    stream.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
    stream.flush()
    line = stream.readline().decode().strip()
    if line[:1] != "$":
        return line
    return stream.read(int(line[1:]) + 2)[:-2].decode()


count = 0
while count < 200 or not os.path.exists("enough"):
    count += 1
    value = f"{kind}-{count} " * (count % 700)
    assert ask("INCR", f"count-{kind}") == f":{count}"
    assert ask("SET", f"{kind}-{count % 50}", value) == "+OK"
    assert ask("GET", f"{kind}-{count % 50}") == value
with open(f"count-{kind}", "w") as file:
    file.write(str(count))

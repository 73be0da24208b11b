//! Programs that do one job with many parts: threads, processes, terminals.

use std::path::Path;

use anyhow::Result;

use super::inputs::write;

/// A shell and Python in a sandbox of an ordinary user, with files in a tmpfs that only the sandbox has.
pub(super) fn bubblewrap(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let outside = r#"
exec setpriv --reuid 65534 --regid 65534 --clear-groups bwrap --unshare-all     --ro-bind /usr /usr --symlink usr/lib /lib --symlink usr/lib64 /lib64 --symlink usr/bin /bin     --ro-bind /etc /etc --bind "$PWD" /work --tmpfs /tmp --proc /proc --dev /dev --chdir /work     sh inside.sh
"#;
    let inside = r#"
set -eu
: > sandbox.out
echo kept > /tmp/kept
for round in $(seq 1 80); do
    seq 1 5000 > /tmp/numbers
    sort -r /tmp/numbers | sha1sum >> sandbox.out
    ln -f /tmp/numbers /tmp/link
    python3 - $round <<'END' >> sandbox.out
import os, sys, time
with open("/tmp/link") as numbers:
    first = numbers.readline()
    time.sleep(0.02)
    print(int(first) + sum(map(int, numbers)), sys.argv[1], os.stat("/tmp/numbers").st_nlink, os.getuid())
END
    cat /tmp/kept >> sandbox.out
    ! touch /usr/new 2> /dev/null
    test -c /dev/null -a -r /proc/1/stat -a ! -e /root
done
echo end >> sandbox.out
"#;
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o777))?;
    write(directory, "outside.sh", outside)?;
    write(directory, "inside.sh", inside)
}

/// Threads that make garbage faster than one collector removes it, and check what they keep.
pub(super) fn java(directory: &Path) -> Result<()> {
    let program = r#"
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;

public class Work {
    static long collections() {
        long count = 0;
        for (var collector : java.lang.management.ManagementFactory.getGarbageCollectorMXBeans())
            count += collector.getCollectionCount();
        return count;
    }

    static String work(int me) throws Exception {
        var kept = new HashMap<Integer, byte[]>();
        var digest = MessageDigest.getInstance("SHA-256");
        var random = new Random(me);
        for (int round = 0; round < 90000; round++) {
            int key = random.nextInt(4000);
            byte[] value = kept.get(key);
            if (value != null)
                for (byte one : value)
                    if (one != (byte) (key + value.length))
                        throw new IllegalStateException("damaged: " + key);
            value = new byte[100 + random.nextInt(8000)];
            Arrays.fill(value, (byte) (key + value.length));
            kept.put(key, value);
            if (round % 100 == 0) {
                digest.update(value);
                digest.update(Integer.toString(kept.size()).getBytes());
                Thread.sleep(10);
            }
        }
        var text = new StringBuilder();
        for (byte one : digest.digest())
            text.append(String.format("%02x", one));
        return text.toString();
    }

    public static void main(String[] arguments) throws Exception {
        var pool = Executors.newFixedThreadPool(4);
        var results = new ArrayList<Future<String>>();
        for (int me = 0; me < 4; me++) {
            int number = me;
            results.add(pool.submit(() -> work(number)));
        }
        for (var result : results)
            System.out.println(result.get());
        pool.shutdown();
        if (collections() < 10)
            throw new IllegalStateException("only " + collections() + " collections");
        System.out.println("collected");
    }
}
"#;
    write(directory, "Work.java", program)
}

/// Every file that is made is told, in order.
pub(super) fn inotifywait(directory: &Path) -> Result<()> {
    let script = "\
mkdir watched && mkfifo told
inotifywait -q -m -e create --format %f watched > told &
( sleep 0.5; for n in $(seq 1 250); do : > watched/$n; sleep 0.03; done ) &
for n in $(seq 1 250); do
    read -r -t 30 name || { echo nothing after $n; exit 1; }
    echo $name
done < told | sha256sum
kill %1
rm -r watched told
";
    write(directory, "watch.sh", script)
}

/// Lines that are read as they are written, by a watch of inotify.
pub(super) fn tail(directory: &Path) -> Result<()> {
    let script = "\
: > log
( for n in $(seq 1 300); do echo line-$n >> log; sleep 0.03; done; echo last >> log ) &
tail -n +1 --sleep-interval=60 --pid=$! -f log | while read -r line; do
    echo \"$line\"
    [ \"$line\" != last ] || break
done | sha256sum
";
    write(directory, "follow.sh", script)
}

/// A program of many files, built by four compilers at a time, which hand their work on in /tmp.
pub(super) fn make(directory: &Path) -> Result<()> {
    let script = "\
mkdir source && cd source
for n in $(seq 1 60); do
    { echo '#include <stdio.h>'; echo '#include <stdlib.h>'
      for f in $(seq 1 40); do
        echo \"int f${n}_$f(int a) { int s = $n; for (int i = 0; i < $f; i++) s += (a ^ i) * $f + rand(); return s; }\"
      done; } > part$n.c
done
{ for n in $(seq 1 60); do echo \"int f${n}_1(int);\"; done
  echo '#include <stdio.h>'; echo 'int main(void) { int s = 0;'
  for n in $(seq 1 60); do echo \"s += f${n}_1($n);\"; done
  echo 'printf(\"%d\\n\", s != 0); return 0; }'; } > main.c
printf '%s\n' 'parts := $(patsubst %.c,%.o,$(wildcard *.c))' 'all: program' \\
    'program: $(parts)' '\tgcc -o $@ $^' '%.o: %.c' '\tgcc -O2 -pipe -c -o $@ $<' | sed 's/\\\\t/\\t/' > Makefile
sed -i 's/^\\t/\t/' Makefile
make -j4 --silent && ./program && sha256sum part*.o | sha256sum
cd .. && rm -r source
";
    write(directory, "build.sh", script)
}

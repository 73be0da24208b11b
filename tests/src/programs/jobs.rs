//! Programs that do one job with many parts: threads, processes, terminals.

use std::path::Path;

use anyhow::Result;

use super::inputs::write;

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

# A PostgreSQL of its own under two loads, until the file `enough` is there: clients that keep their TCP
# connections all the time, and one that connects anew by the Unix socket.
set -eu
if [ "$(id -u)" = 0 ]; then
	# It does not run as root.
	chown -R nobody .
	exec setpriv --reuid=nobody --regid=nogroup --clear-groups bash "$0"
fi
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
export PGHOST=$PWD PGPORT=5499 PGUSER=me PGDATABASE=postgres

"$bin/initdb" -D data -U me -A trust -E UTF8 --locale=C >initdb.log
# Segments of System V instead of mmap(2) and shm_open(3), and parallel queries that make some.
"$bin/postgres" -D data -k "$PWD" -c listen_addresses=127.0.0.1 -c port=$PGPORT -c shared_buffers=4MB \
	-c shared_memory_type=sysv -c dynamic_shared_memory_type=sysv \
	-c min_parallel_table_scan_size=0 -c parallel_setup_cost=0 -c parallel_tuple_cost=0 >server.log 2>&1 &
server=$!
until "$bin/pg_isready" -q; do sleep 0.05; done
"$bin/pgbench" -q -i >init.log 2>&1
"$bin/pgbench" -n -h 127.0.0.1 -M prepared -c 4 -j 2 -T 3600 >load.log 2>&1 &
load=$!

sums_agree() {
	"$bin/psql" -Atc "begin isolation level repeatable read;
		select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history)
		and (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches)" | tail -1
}
done_some() { [ "$("$bin/psql" -Atc 'select count(*) > 100 from pgbench_history')" = t ]; }
until done_some && [ -e enough ]; do
	[ "$(sums_agree)" = t ] || { echo "the sums differ"; exit 1; }
	kill -0 $load || { cat load.log; exit 1; }
	sleep 0.3
done
kill -TERM $load
wait $load || :
if grep -iE 'error|fatal|aborted' load.log; then exit 1; fi
echo "sums agree: $(sums_agree)"
kill -INT $server
wait $server
if grep -E 'ERROR|PANIC|WARNING' server.log; then exit 1; fi

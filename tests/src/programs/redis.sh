# A Redis that writes all down, under load, until the file `enough` is there: two clients that check each
# answer, by TCP and by the Unix socket, and redis-benchmark. Then it is started again from its file.
set -eu
port=6399
ask() { redis-cli -s redis.sock "$@"; }
start() {
	redis-server --bind 127.0.0.1 --port $port --unixsocket "$PWD/redis.sock" --dir "$PWD" --logfile "$PWD/redis.log" \
		--appendonly yes --appendfsync always --save '' &
	server=$!
	until [ "$(ask ping 2>&1)" = PONG ]; do sleep 0.05; done
}
start
python3 redis.py tcp & tcp=$!
python3 redis.py unix & unix=$!
redis-benchmark -p $port -c 20 -n 100000000 -q -t set,get,incr,lpush >benchmark.log 2>&1 & load=$!
until [ "$(ask exists key:__rand_int__)" = 1 ] && [ -e enough ]; do
	ask bgrewriteaof >/dev/null || :
	sleep 0.2
	kill -0 $load || { cat benchmark.log; exit 1; }
done
wait $tcp
wait $unix
kill -TERM $load
wait $load || :
if grep -iE 'error|closed' benchmark.log; then exit 1; fi
ask shutdown nosave
wait $server
start
for kind in tcp unix; do
	[ "$(ask get "count-$kind")" = "$(cat "count-$kind")" ] && echo "$kind: all is there"
done
ask shutdown nosave
wait $server

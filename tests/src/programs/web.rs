//! Servers with their clients, in one job: whatever is under way between the two must arrive.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// nginx with a master and two workers of another user, under load by wrk.
pub(super) fn nginx(directory: &Path) -> Result<()> {
    let configuration = "\
daemon off;
master_process on;
worker_processes 2;
user www-data;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 256; }
http {
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    sendfile on;
    server { listen 127.0.0.1:8080; root html; }
}
";
    let script = "\
mkdir -p html && chmod 755 . html
head -c 20000 /dev/zero | tr '\\0' x > html/page
nginx -p \"$PWD\" -c nginx.conf &
server=$!
until [ -s nginx.pid ] && curl -sf -o first http://127.0.0.1:8080/page; do sleep 0.05; done
cmp first html/page && echo first
while true; do
    wrk -t2 -c8 -d3s http://127.0.0.1:8080/page >> wrk.out
    if [ -e enough ]; then break; fi
done
curl -sf -o last http://127.0.0.1:8080/page
cmp last html/page && echo last
kill -QUIT $server
wait $server
echo ended $?
";
    write(directory, "nginx.conf", configuration)?;
    write(directory, "serve.sh", script)
}

/// Nothing that wrk noticed: it tells of errors only if there were any.
pub(super) fn wrk(directory: &Path, stdout: &[u8]) -> Result<Vec<u8>> {
    let said = fs::read_to_string(directory.join("wrk.out")).context("wrk.out")?;
    ensure!(said.contains("requests in"), "wrk did not end: {said}");
    for word in ["Socket errors", "Non-2xx"] {
        ensure!(!said.contains(word), "{said}");
    }
    let errors = fs::read_to_string(directory.join("error.log")).unwrap_or_default();
    ensure!(errors.is_empty(), "{errors}");
    Ok(stdout.to_vec())
}

/// An HTTP server of Node.js and a client that is a process of its own: kept connections, bodies both ways.
pub(super) fn node(directory: &Path) -> Result<()> {
    let server = "\
const http = require('http'), crypto = require('crypto');
const server = http.createServer((request, response) => {
    const hash = crypto.createHash('sha256');
    request.on('data', (piece) => hash.update(piece));
    request.on('end', () => {
        response.write(hash.digest('hex') + '\\n');
        response.end(Buffer.alloc(100000, request.url));
    });
});
server.listen(8081, '127.0.0.1', () => process.send('ready'));
process.on('disconnect', () => process.exit(0));
";
    let client = "\
const http = require('http'), crypto = require('crypto'), fs = require('fs'), { fork } = require('child_process');
const server = fork('server.js'), agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
const results = [], ROUNDS = 500;
let next = 0, done = 0, first = '';
function ask() {
    const round = next++;
    if (round >= ROUNDS) return;
    const body = Buffer.alloc(50000 + round, String(round));
    const path = '/' + round;
    const request = http.request({ port: 8081, host: '127.0.0.1', agent, path, method: 'POST' }, (response) => {
        const hash = crypto.createHash('sha256');
        response.on('data', (piece) => hash.update(piece));
        response.on('end', () => {
            results[round] = hash.digest('hex');
            if (++done == ROUNDS) return end();
            setTimeout(ask, 10);
        });
    });
    request.on('error', (error) => { console.log('error', error.message); process.exit(1); });
    request.end(body);
}
function end() {
    const sum = crypto.createHash('sha256');
    results.forEach((one) => sum.update(one));
    const digest = sum.digest('hex');
    if (first && digest != first) { console.log('another', digest); process.exit(1); }
    first = digest;
    if (!fs.existsSync('enough')) {
        next = done = 0;
        for (let i = 0; i < 4; i++) ask();
        return;
    }
    console.log(digest);
    server.disconnect();
    agent.destroy();
}
server.on('message', () => { for (let i = 0; i < 4; i++) ask(); });
";
    write(directory, "server.js", server)?;
    write(directory, "client.js", client)
}

/// A large file from Python's HTTP server, which closes each connection: curl takes it slowly, then fast and often.
pub(super) fn download(directory: &Path) -> Result<()> {
    let script = "\
mkdir -p files
seq 1 6000000 > files/large
wanted=$(sha256sum < files/large)
python3 -u -m http.server --bind 127.0.0.1 --directory files 8082 2> server.log &
server=$!
until curl -sf -o /dev/null http://127.0.0.1:8082/; do sleep 0.05; done
[ \"$(curl -sSf --limit-rate 8M http://127.0.0.1:8082/large | sha256sum)\" = \"$wanted\" ] && echo slowly
for round in 1 2 3 4 5 6 7 8 9 10; do
    [ \"$(curl -sSf http://127.0.0.1:8082/large | sha256sum)\" = \"$wanted\" ] && echo round $round
done
kill $server
wait $server
echo ended $?
";
    write(directory, "download.sh", script)
}

/// An asyncio server and clients in one event loop, and clients in another process.
pub(super) fn asyncio(directory: &Path) -> Result<()> {
    let program = "\
import asyncio, hashlib, os, sys
async def serve(reader, writer):
    while (line := await reader.readline()):
        writer.write(line.upper())
        await writer.drain()
    writer.close()
async def ask(me, rounds):
    reader, writer = await asyncio.open_connection('127.0.0.1', 8083, limit=1 << 20)
    digest = hashlib.sha256()
    for round in range(rounds):
        line = (f'{me}-{round}-' + 'abcdefgh' * (round * 37 % 20000) + '\\n').encode()
        writer.write(line)
        answer = await asyncio.wait_for(reader.readuntil(b'\\n'), 60)
        assert answer == line.upper(), 'another answer'
        digest.update(answer)
        if round % 20 == 0:
            await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()
    return digest.hexdigest()
async def clients(first):
    return await asyncio.gather(*(ask(first + me, 400) for me in range(3)))
async def main():
    limit = 1 << 20
    server = await asyncio.start_server(serve, '127.0.0.1', 8083, limit=limit)
    other = await asyncio.create_subprocess_exec(sys.executable, sys.argv[0], 'client', stdout=asyncio.subprocess.PIPE)
    print(*await clients(0), sep='\\n')
    print((await other.communicate())[0].decode(), other.returncode)
    server.close()
if sys.argv[1:] == ['client']:
    print(*asyncio.run(clients(10)), sep='\\n')
else:
    asyncio.run(main())
";
    write(directory, "echo.py", program)
}

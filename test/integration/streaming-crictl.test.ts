/** The streaming server with its real client, crictl, over both transports. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer, connect as dial, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { selfSigned } from '../../src/workers/stdio/self-signed.ts';
import { built, Unavailable } from '../rig/build.ts';
import { Rig } from './streaming-rig.ts';

let crictl = '';
let missing: string | false = false;
try {
  crictl = await built('crictl');
} catch (error) {
  if (!(error instanceof Unavailable)) throw error;
  missing = error.message;
}

let rig: Rig;
before(async () => {
  rig = await Rig.open();
});
after(() => rig[Symbol.asyncDispose]());

const flags = (of = rig) => ['--config', '/dev/null', '-r', of.endpoint, '-i', of.endpoint];

/** A client that outlives this is killed, and its test fails: each takes less than a second on a quiet machine. */
const LIMIT_MS = 60_000;
const limit = { timeout: LIMIT_MS, killSignal: 'SIGKILL' } as const;
const start = (args: string[]) => spawn(crictl, [...flags(), ...args], limit);

interface Ended {
  code: number | null;
  stdout: Buffer;
  stderr: string;
}

function ended(child: ChildProcess, input: string | Buffer | null = ''): Promise<Ended> {
  const out: Buffer[] = [];
  let stderr = '';
  child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr?.on('data', (chunk) => {
    stderr += chunk;
  });
  child.stdin?.on('error', () => {});
  if (input !== null) child.stdin?.end(input);
  return new Promise((resolve) => {
    child.on('close', (code) => resolve({ code, stdout: Buffer.concat(out), stderr }));
  });
}

const run = (args: string[], input: string | Buffer = '') => ended(start(args), input);
const sha = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

async function until(what: string, check: () => boolean | Promise<boolean>) {
  for (let waited = 0; !(await check()); waited += 10) {
    assert.ok(waited < 8000, what);
    await sleep(10);
  }
}

for (const transport of ['spdy', 'websocket']) {
  const exec = (...args: string[]) => ['exec', '--transport', transport, ...args];

  test(`${transport}: exec separates stdout and stderr and returns the exit code`, {
    skip: missing,
  }, async () => {
    const good = await run(exec('c', 'sh', '-c', 'echo out; echo err >&2'));
    assert.deepEqual([good.code, `${good.stdout}`, good.stderr], [0, 'out\n', 'err\n']);
    const bad = await run(exec('c', 'sh', '-c', 'exit 42'));
    assert.notEqual(bad.code, 0);
    assert.match(bad.stderr, /exit code 42/);
    const none = await run(exec('c', 'no-such-program'));
    assert.match(none.stderr, /executable file not found in \$PATH/);
  });

  test(`${transport}: the end of stdin reaches the process, and its whole output comes back`, {
    skip: missing,
  }, async () => {
    const input = randomBytes(8 << 20);
    const { code, stdout } = await run(exec('-i', 'c', 'cat'), input);
    assert.equal(code, 0);
    assert.equal(sha(stdout), sha(input));
    const counted = await run(exec('-i', 'c', 'wc', '-c'), input);
    assert.equal(`${counted.stdout}`.trim(), String(input.length));
  });

  test(`${transport}: a background child with the output open does not delay the end`, {
    skip: missing,
  }, async () => {
    const began = performance.now();
    const { code, stdout } = await run(exec('c', 'sh', '-c', 'sleep 5 & echo done'));
    assert.deepEqual([code, `${stdout}`], [0, 'done\n']);
    assert.ok(performance.now() - began < 4000);
  });

  test(`${transport}: a terminal has its size, and echoes`, { skip: missing }, async () => {
    rig.backend.sizes.length = 0;
    const line = [crictl, ...flags(), ...exec('-it', 'c', 'cat')].map((word) => `'${word}'`).join(' ');
    const child = spawn('script', ['-qec', `stty rows 33 cols 99; ${line}`, '/dev/null'], limit);
    const over = ended(child, null);
    await until('the size arrives', () => rig.backend.sizes.length > 0);
    child.stdin.write('typed\r');
    await sleep(300);
    child.stdin.write('\x04');
    const { code, stdout } = await over;
    child.stdin.end();
    assert.equal(code, 0);
    assert.match(`${stdout}`, /typed\r\n/);
    const [size] = rig.backend.sizes;
    assert.deepEqual([size?.width, size?.height], [99, 33]);
    assert.match(size?.execId ?? '', /^[0-9a-f]{64}$/);
  });

  test(`${transport}: an exec dies with its client, and leaves nothing`, { skip: missing }, async () => {
    rig.backend.asked.length = 0;
    const child = start(exec('-i', 'c', 'sh', '-c', 'echo up; sleep 1000 | cat'));
    const over = ended(child, null);
    let up = false;
    child.stdout.on('data', () => {
      up = true;
    });
    await until('the exec runs', () => up);
    child.kill('SIGKILL');
    await over;
    await until('the exec is forgotten', () => rig.backend.asked.includes('end'));
    assert.deepEqual(rig.backend.asked, ['start', 'kill', 'end']);
    const { sessions } = await rig.stdio.stats();
    assert.equal(sessions.exec, 0);
  });

  test(`${transport}: attach reads output, writes stdin, detaches and attaches again; the log has all output`, {
    skip: missing,
  }, async () => {
    const id = `attach-${transport}`;
    const io = await rig.container(id, ['cat']);
    const attach = ['attach', '--transport', transport, '-i', id];
    const attached = async () => (await rig.stdio.stats()).sessions.attach;
    await until('earlier sessions end', async () => (await attached()) === 0);
    const watcher = start(['attach', '--transport', transport, id]);
    const watched = ended(watcher, null);
    await until('the watcher is attached', async () => (await attached()) > 0);
    const first = await run(attach, 'one\n');
    assert.deepEqual([first.code, `${first.stdout}`], [0, 'one\n']);
    const second = await run(attach, 'two\n');
    assert.deepEqual([second.code, `${second.stdout}`], [0, 'two\n']);
    watcher.kill('SIGKILL');
    assert.match(`${(await watched).stdout}`, /one\ntwo\n$/);
    const log = readFileSync(io.logPath, 'latin1').trim().split('\n');
    assert.deepEqual(
      log.map((line) => line.slice(31)),
      ['stdout F one', 'stdout F two'],
    );
  });

  test(`${transport}: with stdin-once the end of the first client closes the container’s stdin, and attach ends with the container`, {
    skip: missing,
  }, async () => {
    const id = `once-${transport}`;
    rig.backend.asked.length = 0;
    await rig.container(id, ['sh', '-c', 'cat; echo bye'], { stdinOnce: true });
    const { code, stdout } = await run(['attach', '--transport', transport, '-i', id], 'hi\n');
    assert.deepEqual([code, `${stdout}`], [0, 'hi\nbye\n']);
    assert.deepEqual(rig.backend.asked, ['close container stdin']);
    const late = await run(['attach', '--transport', transport, id]);
    assert.deepEqual([late.code, `${late.stdout}`], [0, '']);
    const unknown = await run(['attach', '--transport', transport, 'nobody']);
    assert.match(unknown.stderr, /has no open input and output/);
  });

  test(`${transport}: port-forward carries many connections at once, with half-close`, {
    skip: missing,
  }, async () => {
    // This server responds only after the client has closed its side.
    await using server = await listen((socket) => {
      const chunks: Buffer[] = [];
      socket.on('data', (chunk) => chunks.push(chunk));
      socket.on('end', () => socket.end(sha(Buffer.concat(chunks))));
    });
    await using client = await forward(transport, server.port);
    const inputs = Array.from({ length: 20 }, (_, at) => randomBytes(1000 + at * 50_000));
    const answers = await Promise.all(inputs.map((input) => talk(client.port, input)));
    assert.deepEqual(answers.map(String), inputs.map(sha));
    const { sessions } = await rig.stdio.stats();
    assert.equal(sessions.portforward, 1);
  });

  test(`${transport}: a closed port is an error of that connection`, { skip: missing }, async () => {
    const closed = await listen(() => {});
    await closed[Symbol.asyncDispose]();
    await using client = await forward(transport, closed.port);
    assert.equal(`${await talk(client.port, Buffer.from('x'))}`, '');
    await until('crictl prints the error', () => /ECONNREFUSED|Connection refused/i.test(client.printed()));
  });
}

for (const transport of ['spdy', 'websocket']) {
  test(`${transport}: TLS with given certificates`, { skip: missing }, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'sluice-tls-'));
    try {
      const pem = selfSigned('127.0.0.1');
      const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
      writeFileSync(cert, pem.cert);
      writeFileSync(key, pem.key);
      await using own = await Rig.open({ tls: { cert, key } });
      assert.match(own.url, /^https:/);
      // crictl requires a client certificate beside the authority's; the server does not request it.
      const tls = ['--tls-cert', cert, '--tls-key', key, '--tls-ca'];
      const input = randomBytes(1 << 20);
      const args = ['exec', '--transport', transport, ...tls, cert, '-i', 'c', 'cat'];
      const { stdout, stderr } = await ended(spawn(crictl, [...flags(own), ...args], limit), input);
      assert.equal(sha(stdout), sha(input), stderr);
      const other = join(folder, 'other.pem');
      writeFileSync(other, selfSigned('127.0.0.1').cert);
      const wrong = ['exec', '--transport', transport, ...tls, other, 'c', 'true'];
      assert.match((await ended(spawn(crictl, [...flags(own), ...wrong], limit))).stderr, /x509|certificate/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

async function listen(serve: (socket: Socket) => void): Promise<{ port: number } & AsyncDisposable> {
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    serve(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}

/** Starts `crictl port-forward` from a local port to another port of this machine. */
async function forward(transport: string, port: number) {
  const child = start(['port-forward', '--transport', transport, 'pod', `:${port}`]);
  let printed = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      printed += chunk;
    });
  }
  const over = ended(child, null);
  await until('crictl listens', () => /Forwarding from 127.0.0.1:\d+/.test(printed));
  return {
    port: Number(/Forwarding from 127.0.0.1:(\d+)/.exec(printed)?.[1]),
    printed: () => printed,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await over;
    },
  };
}

/** Sends everything, half-closes, and reads to the end. */
function talk(port: number, input: Buffer): Promise<Buffer> {
  return new Promise((resolve) => {
    const socket = dial({ port, host: '127.0.0.1', allowHalfOpen: true });
    const chunks: Buffer[] = [];
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('error', () => {});
    socket.on('close', () => resolve(Buffer.concat(chunks)));
    socket.on('end', () => socket.end());
    socket.end(input);
  });
}

/** The streaming server with clients that are faulty or slow, or that use the rarer protocols. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { runExecSync } from '../../src/node/streaming/exec-sync.ts';
import { createNetns, unpinNamespace } from '../../src/sys/netns.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { Rig } from './streaming-rig.ts';

const HANDSHAKE_MS = 500;
let rig: Rig;
before(async () => {
  rig = await Rig.open({ handshakeTimeoutMs: HANDSHAKE_MS });
});
after(() => rig[Symbol.asyncDispose]());

interface Answer {
  status: number;
  headers: IncomingMessage['headers'];
  body: string;
  socket?: Socket;
}

function ask(url: string, headers: Record<string, string> = {}, method = 'POST'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(url, { method, headers });
    request.on('error', reject);
    request.on('upgrade', ({ statusCode = 0, headers }, socket) => {
      socket.on('error', () => {});
      resolve({ status: statusCode, headers, body: '', socket: socket as Socket });
    });
    request.on('response', (response) => {
      let body = '';
      response.on('data', (chunk) => {
        body += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
    });
    request.end();
  });
}

const SPDY = { Connection: 'Upgrade', Upgrade: 'SPDY/3.1', 'X-Stream-Protocol-Version': 'v4.channel.k8s.io' };

async function until(what: string, check: () => boolean | Promise<boolean>) {
  for (let waited = 0; !(await check()); waited += 10) {
    assert.ok(waited < 8000, what);
    await sleep(10);
  }
}

test('a token is valid for one connection; forged and used ones get 404 and run nothing', async () => {
  rig.backend.asked.length = 0;
  const url = await rig.exec(['true']);
  const forged = `${url.slice(0, -4)}AAAA`;
  assert.equal((await ask(forged, SPDY)).status, 404);
  assert.equal((await ask(url.replace('/exec/', '/attach/'), SPDY)).status, 404);
  assert.equal((await ask(`${rig.url}/`, SPDY)).status, 404);
  assert.equal((await ask(`${rig.url}/exec/`, SPDY)).status, 404);
  assert.equal((await ask(`${url}/more`, SPDY)).status, 404);
  assert.equal((await ask(`${rig.url}/exec/../exec/x`)).status, 404);
  const good = await ask(url, SPDY);
  assert.equal(good.status, 101);
  assert.equal(good.headers['x-stream-protocol-version'], 'v4.channel.k8s.io');
  assert.equal((await ask(url, SPDY)).status, 404);
  good.socket?.destroy();
  assert.deepEqual(rig.backend.asked, []);
});

test('an unknown protocol gets 403 with the list of supported ones, and the URL stays valid', async () => {
  const url = await rig.exec(['true']);
  const refused = await ask(url, { ...SPDY, 'X-Stream-Protocol-Version': 'v9.channel.k8s.io' });
  assert.equal(refused.status, 403);
  assert.equal(
    refused.headers['x-accepted-stream-protocol-versions'],
    'v4.channel.k8s.io, v3.channel.k8s.io, v2.channel.k8s.io, channel.k8s.io',
  );
  assert.match(refused.body, /client supports \[v9.channel.k8s.io\]/);
  const headers = { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Protocol': 'v9.channel.k8s.io' };
  assert.equal((await ask(url, headers, 'GET')).status, 403);
  assert.equal((await ask(url, { Connection: 'Upgrade', Upgrade: 'SPDY/3.1' })).status, 400);
  assert.equal((await ask(url, { Connection: 'Upgrade', Upgrade: 'h2c' })).status, 400);
  assert.equal((await ask(url)).status, 400);
  assert.equal((await ask(url, SPDY, 'PUT')).status, 405);
  const both = { ...SPDY, 'X-Stream-Protocol-Version': 'v9.channel.k8s.io, v2.channel.k8s.io,v4.channel.k8s.io' };
  const good = await ask(url, both, 'GET');
  assert.equal(good.headers['x-stream-protocol-version'], 'v2.channel.k8s.io');
  good.socket?.destroy();
});

test('a thousand unused URLs are the limit', async () => {
  await using own = await Rig.open();
  await Promise.all(Array.from({ length: 1000 }, () => own.exec(['true'])));
  await assert.rejects(own.exec(['true']), { code: 'QUEUE_FULL' });
  assert.equal((await own.stdio.stats()).tokens, 1000);
});

test('invalid ports are refused before a URL is issued', async () => {
  for (const port of [0, -1, 65536]) {
    const request = { kind: 'portforward', sandboxId: 'p', netns: '', ports: [80, port] } as const;
    await assert.rejects(rig.issue({ ...request, ports: [...request.ports] }), { code: 'INVALID_REQUEST' });
  }
});

test('a silent client has a time limit: before the request, inside it, and after the upgrade', async () => {
  rig.backend.asked.length = 0;
  const { port, hostname } = new URL(rig.url);
  const closed = async (socket: Socket) => {
    const began = performance.now();
    socket.resume();
    socket.on('error', () => {});
    await new Promise<void>((resolve) => socket.on('close', () => resolve()));
    return performance.now() - began;
  };
  const silent = connect(Number(port), hostname);
  const half = connect(Number(port), hostname);
  half.write('POST /exec/x HTTP/1.1\r\nHost:');
  const upgraded = (await ask(await rig.exec(['true']), SPDY)).socket;
  assert.ok(upgraded);
  for (const waited of await Promise.all([silent, half, upgraded].map(closed))) {
    assert.ok(waited < HANDSHAKE_MS + 2500, `closed after ${waited} ms`);
  }
  assert.deepEqual(rig.backend.asked, []);
  await until('the session is gone', async () => (await rig.stdio.stats()).sessions.exec === 0);
});

test('invalid SPDY data closes that connection only', async () => {
  for (const garbage of [Buffer.alloc(1000, 0xff), Buffer.alloc(100_000), Buffer.from('GET / HTTP/1.1\r\n\r\n')]) {
    const { socket } = await ask(await rig.exec(['true']), SPDY);
    assert.ok(socket);
    socket.write(garbage);
    socket.resume();
    await new Promise<void>((resolve) => socket.on('close', () => resolve()));
  }
  const messages = await channels(await rig.exec(['echo', 'alive']), ['v4.channel.k8s.io']);
  assert.equal(messages.text(1), 'alive\n');
});

/** Runs a WebSocket session to its end. */
async function channels(url: string, protocols: string[], act: (ws: WebSocket) => void = () => {}) {
  const ws = new WebSocket(url.replace('http', 'ws'), protocols);
  const frames: { channel: number; body: Buffer; isBinary: boolean }[] = [];
  let code = 0;
  ws.on('message', (message: Buffer, isBinary) => {
    const base64 = !isBinary;
    frames.push({
      channel: (message[0] ?? 0) - (base64 ? 48 : 0),
      body: base64 ? Buffer.from(message.toString('latin1', 1), 'base64') : message.subarray(1),
      isBinary,
    });
  });
  ws.on('open', () => act(ws));
  await new Promise<void>((resolve, reject) => {
    ws.on('error', reject);
    ws.on('close', (reason) => {
      code = reason;
      resolve();
    });
  });
  const bytes = (channel: number) => Buffer.concat(frames.flatMap((f) => (f.channel === channel ? [f.body] : [])));
  return { code, protocol: ws.protocol, frames, bytes, text: (channel: number) => `${bytes(channel)}` };
}

test('WebSocket v5: stdin can be closed separately; the status is JSON', async () => {
  const url = await rig.exec(['sh', '-c', 'cat; echo err >&2; exit 7'], { stdin: true });
  const ended = await channels(url, ['v5.channel.k8s.io', 'v4.channel.k8s.io'], (ws) => {
    ws.send(Buffer.from('\0hel'));
    ws.send(Buffer.from('\0lo\n'));
    ws.send(Buffer.from([255, 0]));
    ws.send(Buffer.from([9, 9])); // a channel that does not exist
    ws.send(Buffer.alloc(0));
  });
  assert.equal(ended.protocol, 'v5.channel.k8s.io');
  assert.equal(ended.code, 1000);
  assert.deepEqual([ended.frames[0]?.channel, ended.frames[0]?.body.length], [1, 0], 'the first message is empty');
  assert.equal(ended.text(1), 'hello\n');
  assert.equal(ended.text(2), 'err\n');
  assert.deepEqual(JSON.parse(ended.text(3)), {
    metadata: {},
    status: 'Failure',
    message: 'command terminated with non-zero exit code: exit status 7',
    reason: 'NonZeroExitCode',
    details: { causes: [{ reason: 'ExitCode', message: '7' }] },
  });
});

test('WebSocket base64: text messages, the channel as a digit', async () => {
  const url = await rig.exec(['head', '-n', '1'], { stdin: true });
  const ended = await channels(url, ['v4.base64.channel.k8s.io'], (ws) =>
    ws.send(`0${Buffer.from('täxt\n').toString('base64')}`),
  );
  assert.ok(ended.frames.every(({ isBinary }) => !isBinary));
  assert.equal(ended.text(1), 'täxt\n');
  assert.deepEqual(JSON.parse(ended.text(3)), { metadata: {}, status: 'Success' });
});

test('WebSocket without a protocol is the oldest one: the status is text, empty on success', async () => {
  const good = await channels(await rig.exec(['echo', 'x']), []);
  assert.deepEqual([good.protocol, good.text(1), good.text(3)], ['', 'x\n', '']);
  const bad = await channels(await rig.exec(['false']), ['channel.k8s.io']);
  assert.equal(bad.text(3), 'command terminated with non-zero exit code: exit status 1');
});

test('WebSocket: resizes are parsed across messages; invalid ones are ignored', async () => {
  rig.backend.sizes.length = 0;
  const url = await rig.exec(['sh', '-c', 'read line; echo got $line'], { stdin: true, tty: true });
  const resize = (text: string) => Buffer.from(`\x04${text}`);
  const ended = await channels(url, ['v5.channel.k8s.io'], (ws) => {
    ws.send(resize('{"Width":80,"Hei'));
    ws.send(resize('ght":24}\n{"Width":0,"Height":5}{"Width":100,"Height":50}'));
    ws.send(resize('nonsense}'));
    setTimeout(() => ws.send(Buffer.from('\0go\n')), 200);
  });
  assert.match(ended.text(1), /got go/);
  assert.deepEqual(
    rig.backend.sizes.map(({ width, height }) => [width, height]),
    [
      [80, 24],
      [100, 50],
    ],
  );
});

test('WebSocket messages have a size limit, and must have the negotiated type', async () => {
  rig.backend.asked.length = 0;
  const big = await channels(await rig.exec(['cat'], { stdin: true }), ['v4.channel.k8s.io'], (ws) =>
    ws.send(Buffer.alloc((4 << 20) + 1)),
  );
  assert.equal(big.code, 1009);
  const text = await channels(await rig.exec(['cat'], { stdin: true }), ['v4.channel.k8s.io'], (ws) => ws.send('0hi'));
  assert.equal(text.code, 1003);
  const signal = await channels(await rig.exec(['cat'], { stdin: true }), ['v5.channel.k8s.io'], (ws) =>
    ws.send(Buffer.from([255])),
  );
  assert.equal(signal.code, 1002);
  await until('all are ended', () => rig.backend.asked.filter((what) => what === 'end').length === 3);
});

test('WebSocket port-forward: two channels per port, each named by its first message', async () => {
  const echo = createServer((socket) => socket.pipe(socket));
  await new Promise<void>((resolve) => echo.listen(0, '127.0.0.1', resolve));
  const { port } = echo.address() as AddressInfo;
  const url = await rig.issue({ kind: 'portforward', sandboxId: 'p', netns: '', ports: [port, 1] });
  const ended = await channels(url, ['v4.channel.k8s.io'], (ws) => {
    ws.send(Buffer.from('\0hello'));
    ws.on('message', (message: Buffer) => {
      if (message[0] === 0 && message.length > 3) ws.close(1000);
    });
  });
  echo.close();
  assert.equal(ended.bytes(0).readUInt16LE(0), port);
  assert.equal(ended.bytes(1).readUInt16LE(0), port);
  assert.equal(ended.bytes(2).readUInt16LE(0), 1);
  assert.equal(`${ended.bytes(0).subarray(2)}`, 'hello');
  assert.match(`${ended.bytes(3).subarray(2)}`, /error forwarding port 1 to pod p: .*refused/i);
});

test('port-forward reaches into a network namespace: IPv4 first, then IPv6', {
  skip: skipUnlessRoot(),
}, async () => {
  const netns = join(rig.folder, 'netns');
  createNetns(netns, { loopback: true });
  const serve = `
    const serve = (host, port) => require('net').createServer((s) => s.end(host)).listen(port, host, () => console.log('up'));
    serve('127.0.0.1', 7001); serve('::1', 7001); serve('::1', 7002);`;
  const server = spawn('nsenter', [`--net=${netns}`, process.execPath, '-e', serve]);
  try {
    let up = '';
    server.stdout.on('data', (chunk) => {
      up += chunk;
    });
    await until('the servers listen', () => up.match(/up/g)?.length === 3);
    const forward = async (port: number, where = netns) => {
      const url = await rig.issue({ kind: 'portforward', sandboxId: 'p', netns: where, ports: [port] });
      return channels(url, ['v4.channel.k8s.io']);
    };
    assert.equal(`${(await forward(7001)).bytes(0).subarray(2)}`, '127.0.0.1');
    assert.equal(`${(await forward(7002)).bytes(0).subarray(2)}`, '::1');
    assert.match(`${(await forward(7003)).bytes(1).subarray(2)}`, /connection refused/);
    assert.match(`${(await forward(7001, '')).bytes(1).subarray(2)}`, /refused/i, 'the host has no such port');
    assert.match(`${(await forward(7001, '/nowhere')).bytes(1).subarray(2)}`, /no such file/);
  } finally {
    server.kill();
    unpinNamespace(netns);
  }
});

test('an attached client that does not read is dropped; the log and the other clients get everything', async () => {
  const io = await rig.container('flood', ['sh', '-c', 'read go; yes 0123456789 | head -c 33000000; sleep 1000']);
  const attach = async () => {
    const url = await rig.issue({
      kind: 'attach',
      containerId: 'flood',
      tty: false,
      stdin: false,
      stdout: true,
      stderr: true,
    });
    const ws = new WebSocket(url.replace('http', 'ws'), ['v5.channel.k8s.io']);
    ws.on('error', () => {});
    await new Promise((resolve) => ws.on('open', resolve));
    return ws;
  };
  const slow = await attach();
  slow.pause();
  const quick = await attach();
  let got = 0;
  quick.on('message', (message: Buffer) => {
    got += message.length - 1;
  });
  spawn('sh', ['-c', `echo go > ${io.fifos.stdin}`]);
  await until('the quick client has all of it', () => got >= 33_000_000);
  const perLine = 31 + 'stdout F 0123456789\n'.length;
  await until('the log has all of it', () => statSync(io.logPath).size >= 3_000_000 * perLine);
  assert.equal(got, 33_000_000);
  const dropped = rig.events.filter(({ kind }) => kind === 'client-dropped');
  assert.equal(dropped.length, 1);
  assert.ok(readFileSync(io.logPath, 'latin1').endsWith('stdout F 0123456789\n'));
  slow.terminate();
  quick.terminate();
});

test('ExecSync: output, exit code, a limit on what is kept, no waiting for children in the background', async () => {
  const { stdio, backend } = rig;
  const run = (...cmd: string[]) => runExecSync(stdio, backend, { containerId: 'c', cmd, timeoutSeconds: 0 });
  const { stdout, stderr, exitCode, dropped } = await run('sh', '-c', 'echo out; echo err >&2; exit 3');
  assert.deepEqual([`${Buffer.from(stdout)}`, `${Buffer.from(stderr)}`, exitCode, dropped], ['out\n', 'err\n', 3, 0]);
  const big = await run('head', '-c', '20000000', '/dev/zero');
  assert.deepEqual([big.stdout.length, big.dropped, big.exitCode], [16 << 20, 20_000_000 - (16 << 20), 0]);
  const began = performance.now();
  assert.equal(`${Buffer.from((await run('sh', '-c', 'sleep 20 & echo x')).stdout)}`, 'x\n');
  assert.ok(performance.now() - began < 5000);
  await assert.rejects(run(), { code: 'INVALID_REQUEST' });
  await assert.rejects(run('no-such-program'), /executable file not found/);
  assert.deepEqual(statSync(join(rig.folder, 'execs')).isDirectory(), true);
});

test('ExecSync: one capture is open for the next call, is used once, and is made anew after the worker has died', async () => {
  await using own = await Rig.open();
  const { stdio, backend } = own;
  const started: string[] = [];
  const { startExec } = backend;
  backend.startExec = (start) => {
    started.push(start.fifos.stdout);
    return startExec.call(backend, start);
  };
  const echo = async (text: string) => {
    const request = { containerId: 'c', cmd: ['echo', text], timeoutSeconds: 10 };
    return `${Buffer.from((await runExecSync(stdio, backend, request)).stdout)}`;
  };
  const open = () => readdirSync(join(own.folder, 'execs')).map((name) => join(own.folder, 'execs', name));
  assert.equal(await echo('first'), 'first\n');
  await until('the next one’s FIFOs are there', () => open().length === 2);
  const spare = open();
  assert.ok(!spare.includes(started[0] ?? ''));
  assert.deepEqual(await Promise.all([echo('a'), echo('b')]), ['a\n', 'b\n']);
  assert.equal(started.filter((path) => spare.includes(path)).length, 1);
  await until('only the next one’s are there', () => open().length === 2);
  await stdio.restart();
  assert.deepEqual(open(), []);
  assert.equal(await echo('after'), 'after\n');
});

test('ExecSync: output that ends before its process is complete, and the exit code is still waited for', async () => {
  const { stdio, backend } = rig;
  const cmd = ['sh', '-c', 'echo early; exec >&- 2>&-; sleep 0.3; exit 7'];
  const { stdout, exitCode } = await runExecSync(stdio, backend, { containerId: 'c', cmd, timeoutSeconds: 10 });
  assert.deepEqual([`${Buffer.from(stdout)}`, exitCode], ['early\n', 7]);
});

test('ExecSync: at the time limit the whole process group dies, and the error says so', async () => {
  const { stdio, backend } = rig;
  const began = performance.now();
  const cmd = ['sh', '-c', 'sleep 30 | sleep 31'];
  await assert.rejects(runExecSync(stdio, backend, { containerId: 'c', cmd, timeoutSeconds: 1 }), {
    code: 'TIMED_OUT',
  });
  assert.ok(performance.now() - began < 5000);
  const gone = new AbortController();
  setTimeout(() => gone.abort(), 100);
  const request = { containerId: 'c', cmd, timeoutSeconds: 0, signal: gone.signal };
  await assert.rejects(runExecSync(stdio, backend, request), { code: 'CALLER_GONE' });
  assert.equal(backend.execs.size, 0);
});

test('fifty ExecSyncs at once each get their own output', async () => {
  const { stdio, backend } = rig;
  const results = await Promise.all(
    Array.from({ length: 50 }, (_, at) =>
      runExecSync(stdio, backend, { containerId: 'c', cmd: ['echo', String(at)], timeoutSeconds: 10 }),
    ),
  );
  assert.deepEqual(
    results.map(({ stdout }) => `${Buffer.from(stdout)}`),
    results.map((_, at) => `${at}\n`),
  );
});

test('when the worker ends, its execs are killed, and the server listens on the same port again', async () => {
  await using own = await Rig.open();
  const ws = new WebSocket((await own.exec(['sleep', '1000'], { stdin: true })).replace('http', 'ws'), [
    'v4.channel.k8s.io',
  ]);
  ws.on('error', () => {});
  const gone = new Promise((resolve) => ws.on('close', resolve));
  await until('the exec runs', () => own.backend.execs.size === 1);
  const [running] = own.backend.execs.values();
  await own.stdio.restart();
  assert.equal(own.deaths.length, 1);
  await gone;
  assert.equal(await running?.ended, 137);
  await until('the exec is forgotten', () => own.backend.execs.size === 0);
  assert.equal((await channels(await own.exec(['echo', 'back']), ['v4.channel.k8s.io'])).text(1), 'back\n');
  assert.ok((await own.exec(['true'])).startsWith(own.url));
});

/** Answers that undici does not take: the reader for them, and the way to it, through proxies too. */
import assert from 'node:assert/strict';
import { connect, createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { createServer as createTlsServer } from 'node:tls';
import fc from 'fast-check';
import { explain } from '../../src/errors.ts';
import { AnswerReader } from '../../src/workers/http/answer-reader.ts';
import { ask } from '../../src/workers/http/ask.ts';
import { selfSigned } from '../../src/workers/stdio/self-signed.ts';

async function* pieces(text: string, at: readonly number[] = []): AsyncGenerator<Buffer> {
  const all = Buffer.from(text, 'latin1');
  let from = 0;
  for (const to of [...at].sort((a, b) => a - b)) {
    if (to <= from || to >= all.length) continue;
    yield all.subarray(from, to);
    from = to;
  }
  yield all.subarray(from);
}

async function read(text: string, method = 'GET', at: readonly number[] = []) {
  const reader = new AnswerReader(pieces(text, at));
  const head = await reader.head();
  const body: Buffer[] = [];
  for await (const piece of reader.body(method, head)) body.push(piece);
  return { ...head, body: Buffer.concat(body).toString('latin1') };
}

const ODD = [
  'HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200',
  'X Odd: 1',
  'X-Long: one\r\n\t two',
  'X-Long: three',
  'Content-Length: 9',
  'Content-Length:  9 ',
  'Transfer-Encoding: chunked',
  '',
  '004;a="b;c"\nwik\xfc\r\n5 \r\npedia\r\n0\r\nX-Sum: 1\r\n\r\n',
].join('\r\n');

test('an answer of all oddities reads alike in pieces of any size', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 1, max: ODD.length })), async (at) => {
      assert.deepEqual(await read(ODD, 'GET', at), {
        status: 200,
        headers: {
          'x odd': '1',
          'x-long': 'one two, three',
          'content-length': '9',
          'transfer-encoding': 'chunked',
        },
        body: 'wik\xfcpedia',
      });
    }),
    { numRuns: 50 },
  );
  assert.equal((await read(ODD, 'HEAD')).body, '');
  assert.equal((await read('HTTP/1.0 200 OK\n\nto the end')).body, 'to the end');
  assert.equal((await read('HTTP/1.1 204 None\r\nContent-Length: 4\r\n\r\n')).body, '');
});

test('what is not HTTP, or two answers in one, is refused', async () => {
  const answer = (...lines: string[]) => ['HTTP/1.1 200 OK', ...lines].join('\r\n');
  for (const [text, words] of [
    ['SSH-2.0-OpenSSH\r\n', /begins with "SSH-2.0/],
    ['HTTP/1.1 20 OK\r\n\r\n', /begins with/],
    [answer('Content-Length: 3', 'Content-Length: 4', '', 'abcd'), /the length "3, 4"/],
    [answer('Content-Length: -1', '', ''), /the length "-1"/],
    [answer('no colon', '', ''), /the header "no colon"/],
    [answer('a\x01: b', '', ''), /the header/],
    [answer('Transfer-Encoding: gzip, chunked', '', ''), /transfer encoding "gzip, chunked"/],
    [answer('Transfer-Encoding: chunked', '', 'xyz\r\n'), /a chunk has the size "xyz"/],
    [answer('Transfer-Encoding: chunked', '', '1\r\nab\r\n0\r\n\r\n'), /a chunk is longer/],
    [answer('Transfer-Encoding: chunked', '', `1${';'.repeat(5000)}\r\n`), /too long/],
    [answer('Content-Length: 5', '', 'abc'), /ends 2 bytes early/],
    [answer('X: y'), /ends in its head/],
    [`HTTP/1.1 200 OK\r\nX: ${'x'.repeat(11 << 20)}`, /too long/],
    ['HTTP/1.1 100 Continue\r\n\r\n'.repeat(20), /more than 10 informational/],
  ] as const)
    await assert.rejects(read(text), words, text.slice(0, 80));
});

async function listen(t: TestContext, server: Server): Promise<number> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => sockets.add(socket));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  const address = server.address();
  return typeof address === 'object' && address ? address.port : 0;
}

/** Answers each request so; the first lines of the requests are kept. */
function odd(seen: string[]) {
  return (socket: Socket) => {
    socket.on('error', () => {});
    socket.once('data', (data) => {
      seen.push(String(data).split('\r\n', 1)[0] ?? '');
      socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok');
    });
  };
}

const asked = (url: string) =>
  ask({
    ...{ method: 'GET', url, headers: {}, authorizations: {}, limit: 100, dialTimeoutMs: 3000 },
    tls: { rejectUnauthorized: false },
  });

/** With these variables, in place of those that the tests were started with. */
async function inEnvironment<T>(env: Record<string, string>, work: () => Promise<T>): Promise<T> {
  const before = { ...process.env };
  Object.assign(process.env, { NO_PROXY: '', no_proxy: '' }, env);
  try {
    return await work();
  } finally {
    for (const key of Object.keys(process.env)) if (!(key in before)) delete process.env[key];
    Object.assign(process.env, before);
  }
}

test('the second request goes through the proxy as the first did: as a whole URL, and through a tunnel', async (t) => {
  const seen: string[] = [];
  const plain = await listen(t, createTcpServer(odd(seen)));
  const { body } = await inEnvironment({ HTTP_PROXY: `http://127.0.0.1:${plain}` }, () =>
    asked('http://reg.invalid/v2/'),
  );
  assert.equal(Buffer.from(body).toString(), 'ok');
  assert.equal(seen.at(-1), 'GET http://reg.invalid/v2/ HTTP/1.1', seen.join(', '));

  const behind: string[] = [];
  const { cert, key } = selfSigned('127.0.0.1');
  const tls = createTlsServer({ cert, key }, odd(behind));
  const target = await listen(t, tls);
  let tunnels = 0;
  const proxy = createTcpServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (data) => {
      assert.match(String(data), /^CONNECT reg\.invalid:443 HTTP\/1\.1\r\n/);
      tunnels++;
      const through = connect(target, '127.0.0.1');
      through.on('error', () => socket.destroy());
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      socket.pipe(through).pipe(socket);
    });
  });
  const port = await listen(t, proxy);
  const answer = await inEnvironment({ HTTPS_PROXY: `http://127.0.0.1:${port}` }, () =>
    asked('https://reg.invalid/v2/'),
  ).catch((error: unknown) => assert.fail(explain(error)));
  assert.equal(Buffer.from(answer.body).toString(), 'ok');
  assert.equal(tunnels, 2);
  assert.deepEqual(behind, ['GET /v2/ HTTP/1.1', 'GET /v2/ HTTP/1.1']);
});

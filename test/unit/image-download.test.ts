/** Downloads of blobs from a server that limits, breaks, drips, lies, redirects and refuses. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createNetServer } from 'node:net';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { SluiceError } from '../../src/errors.ts';
import { Download, type DownloadOptions } from '../../src/workers/image/download.ts';

type Serve = (request: IncomingMessage, response: ServerResponse) => unknown;

const BLOB = randomBytes(3 << 20);
const PART = 256 << 10;
/** Parts as large as the blob are none: one connection at a time, however slow the machine is. */
const ALONE = { partBytes: BLOB.length };

async function server(t: TestContext, serve: Serve) {
  const seen: { url: string; range?: string; authorization?: string; socket: unknown }[] = [];
  const http = createServer((request, response) => {
    const { range, authorization } = request.headers;
    seen.push({ url: request.url ?? '', range, authorization, socket: request.socket });
    serve(request, response);
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    http.closeAllConnections();
    http.close();
  });
  return { origin: `http://127.0.0.1:${(http.address() as AddressInfo).port}`, seen };
}

/** The range of a request: first byte, and the one behind the last. */
function span({ headers }: IncomingMessage, size = BLOB.length): [from: number, to: number] {
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '') ?? [];
  return [Number(from ?? 0), to ? Number(to) + 1 : size];
}

function answer(request: IncomingMessage, response: ServerResponse, data = BLOB): Buffer {
  const [from, to] = span(request, data.length);
  const headers = { 'content-length': to - from };
  const range = { 'content-range': `bytes ${from}-${to - 1}/${data.length}` };
  if (request.headers.range === undefined) response.writeHead(200, headers);
  else response.writeHead(206, { ...headers, ...range });
  return data.subarray(from, to);
}

/** 128 KiB at once, each 50 ms: a registry that limits every connection. */
async function slowly(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const body = answer(request, response);
  for (let at = 0; at < body.length && !response.destroyed; at += 64 << 10) {
    response.write(body.subarray(at, at + (64 << 10)));
    await sleep(25);
  }
  response.end();
}

async function read(
  origin: string,
  change: Partial<DownloadOptions> = {},
): Promise<{ data: Buffer; download: Download }> {
  const download = new Download({
    source: { url: `${origin}/blob`, headers: {}, authorizations: {}, tls: {}, dialTimeoutMs: 2000 },
    size: BLOB.length,
    progressTimeoutMs: 15_000,
    signal: new AbortController().signal,
    retryDelayMs: 5,
    partBytes: PART,
    ...change,
  });
  const chunks: Buffer[] = [];
  for await (const chunk of download) chunks.push(chunk);
  return { data: Buffer.concat(chunks), download };
}

const fails = (code: string, words: RegExp) => (error: unknown) => {
  assert.ok(error instanceof SluiceError, String(error));
  assert.equal(error.code, code, error.message);
  assert.match(error.message, words);
  return true;
};

test('connections serve one blob after the other', async (t) => {
  const { origin, seen } = await server(t, (request, response) => response.end(answer(request, response)));
  for (let i = 0; i < 6; i++) assert.ok((await read(origin, ALONE)).data.equals(BLOB));
  assert.ok(seen.every(({ range }) => range === undefined));
  // A request that follows at once may come before the pool has its connection back, and gets another one.
  assert.ok(new Set(seen.map(({ socket }) => socket)).size < 6);
});

test('a registry that limits each connection is asked for parts over several', async (t) => {
  let open = 0;
  let most = 0;
  const { origin, seen } = await server(t, (request, response) => {
    most = Math.max(most, ++open);
    response.on('close', () => open--);
    return slowly(request, response);
  });
  assert.ok((await read(origin)).data.equals(BLOB));
  assert.ok(most >= 3, `${most} connections at once`);
  assert.ok(seen.filter(({ range }) => range !== undefined).length > 4);
});

test('a server that ignores ranges goes on over its one connection', async (t) => {
  const { origin, seen } = await server(t, (request, response) => {
    delete request.headers.range;
    return slowly(request, response);
  });
  const { data, download } = await read(origin);
  assert.ok(data.equals(BLOB));
  assert.equal(download.blob.noRanges, true);
  assert.ok(seen.length <= 2, `${seen.length} requests`);
});

test('one of several servers behind a name ignores ranges', async (t) => {
  let parts = 0;
  const { origin } = await server(t, (request, response) => {
    if (request.headers.range !== undefined && ++parts === 4) delete request.headers.range;
    return slowly(request, response);
  });
  assert.ok((await read(origin)).data.equals(BLOB));
});

test('parts that break are resumed where they broke', async (t) => {
  let broken = 0;
  const { origin } = await server(t, async (request, response) => {
    const isPart = /-\d+$/.test(request.headers.range ?? '');
    if (!isPart || ++broken > 3) return slowly(request, response);
    response.write(answer(request, response).subarray(0, 1000));
    await sleep(20);
    response.destroy();
  });
  assert.ok((await read(origin)).data.equals(BLOB));
  assert.ok(broken > 0);
});

test('a range that begins elsewhere, and a blob of another size, are refused', async (t) => {
  const wrong = await server(t, (_, response) => {
    response.writeHead(206, { 'content-range': `bytes 5-9/${BLOB.length}` }).end('wrong');
  });
  await assert.rejects(read(wrong.origin), fails('IMAGE_INVALID', /asked for bytes from 0 and answers bytes 5-9/));
  const short = await server(t, (request, response) => response.end(answer(request, response, BLOB.subarray(0, 100))));
  await assert.rejects(read(short.origin), fails('IMAGE_INVALID', /has 100 bytes, its descriptor says 3145728/));
  const long = await server(t, (_, response) => {
    response.write(BLOB);
    response.end('more');
  });
  await assert.rejects(read(long.origin), fails('IMAGE_INVALID', /more than the 3145728 bytes/));
});

test('a layer that drips is given up, although a byte comes now and then', async (t) => {
  const { origin } = await server(t, async (request, response) => {
    const body = answer(request, response);
    for (let at = 0; at < body.length && !response.destroyed; at++) {
      response.write(body.subarray(at, at + 1));
      await sleep(20);
    }
  });
  await assert.rejects(
    read(origin, { progressTimeoutMs: 500 }),
    fails('TIMED_OUT', /has sent only \d+ bytes in 0.5 s/),
  );
});

test('429 for ever, with the registry’s words', async (t) => {
  const { origin, seen } = await server(t, (_, response) => {
    response.writeHead(429, { 'retry-after': '0' });
    response.end('{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}');
  });
  await assert.rejects(
    read(origin),
    fails('REGISTRY_UNAVAILABLE', /answers 429: TOOMANYREQUESTS: slow down, after 6 tries/),
  );
  assert.equal(seen.length, 6);
});

test('a page of HTML in place of words is cut down to its title', async (t) => {
  const { origin } = await server(t, (_, response) => {
    response.writeHead(400, { 'content-type': 'text/html' });
    response.end(`<html><head><title>Blocked by policy</title></head>${'<p>x</p>'.repeat(1000)}</html>`);
  });
  await assert.rejects(read(origin), fails('REGISTRY_UNAVAILABLE', /answers 400: Blocked by policy$/));
});

test('a redirect is remembered for the next request, without secrets, until its address expires', async (t) => {
  let valid = 1;
  const store = await server(t, async (request, response) => {
    if (request.url !== `/signed/${valid}`) return response.writeHead(403).end('expired');
    response.write(answer(request, response).subarray(0, 1 << 20));
    await sleep(20);
    if (span(request)[0] > 1 << 20) valid = 2; // the third answer will need a new address
    response.destroy();
  });
  const registry = await server(t, (_, response) =>
    response.writeHead(307, { location: `${store.origin}/signed/${valid}` }).end(),
  );
  const source = {
    url: `${registry.origin}/blob`,
    headers: { 'x-secret': 's' },
    authorizations: { [registry.origin]: 'Bearer t' },
    ...{ tls: {}, dialTimeoutMs: 2000 },
  };
  const { data } = await read('', { source, ...ALONE });
  assert.ok(data.equals(BLOB));
  assert.ok(registry.seen.every(({ authorization }) => authorization === 'Bearer t'));
  assert.ok(store.seen.every(({ authorization }) => authorization === undefined));
  assert.ok(registry.seen.length < store.seen.length);
});

test('a token that expires half-way is renewed, and the download goes on', async (t) => {
  let token = 'one';
  const { origin, seen } = await server(t, async (request, response) => {
    if (request.headers.authorization !== `Bearer ${token}`)
      return response.writeHead(401, { 'www-authenticate': 'Bearer realm="x"' }).end();
    response.write(answer(request, response).subarray(0, 2 << 20));
    await sleep(20);
    token = 'two';
    response.destroy();
  });
  const renew = async () => ({ [origin]: `Bearer ${token}` });
  const authorizations = { [origin]: 'Bearer one' };
  const source = { url: `${origin}/blob`, headers: {}, authorizations, tls: {}, dialTimeoutMs: 2000 };
  assert.ok((await read('', { source, renew, ...ALONE })).data.equals(BLOB));
  assert.deepEqual(
    seen.map(({ authorization }) => authorization),
    ['Bearer one', 'Bearer one', 'Bearer two'],
  );
});

test('a proxy that compresses what it passes on, and a server that labels a file it sends as it is', async (t) => {
  const compressing = await server(t, (_, response) => {
    response.setHeader('content-encoding', 'gzip');
    response.end(gzipSync(BLOB));
  });
  assert.ok((await read(compressing.origin)).data.equals(BLOB));
  const labelling = await server(t, (request, response) => {
    response.setHeader('content-encoding', 'x-gzip');
    response.end(answer(request, response));
  });
  assert.ok((await read(labelling.origin)).data.equals(BLOB));
});

test('answers that undici refuses and Go takes: a length beside chunks, lines that end with LF alone', async (t) => {
  const chunks = (data: Buffer) => [Buffer.from(`${data.length.toString(16)}\r\n`), data, Buffer.from('\r\n0\r\n\r\n')];
  const odd: ((data: Buffer) => Buffer[])[] = [
    (data) => [
      Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${data.length}\r\nTransfer-Encoding: chunked\r\n\r\n`),
      ...chunks(data),
    ],
    (data) => [
      Buffer.from('HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n'),
      ...chunks(data),
    ],
    (data) => [Buffer.from(`HTTP/1.1 200 OK\nContent-Length: ${data.length}\n\n`), data],
    (data) => [Buffer.from(`HTTP/1.1 200\r\nContent-Length: ${data.length}\r\nX: \xe9\r\nY:\r\n\r\n`, 'latin1'), data],
    (data) => [Buffer.from('HTTP/1.0 200 OK\r\n\r\n'), data],
  ];
  for (const [index, form] of odd.entries()) {
    const raw = createNetServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.end(Buffer.concat(form(BLOB))));
    });
    await new Promise<void>((resolve) => raw.listen(0, '127.0.0.1', resolve));
    t.after(() => raw.close());
    const origin = `http://127.0.0.1:${(raw.address() as AddressInfo).port}`;
    assert.ok((await read(origin)).data.equals(BLOB), `form ${index}`);
  }
});

test('a cancelled download ends at once, and its connections too', async (t) => {
  let open = 0;
  const { origin } = await server(t, (request, response) => {
    open++;
    response.on('close', () => open--);
    return slowly(request, response);
  });
  const abort = new AbortController();
  const work = read(origin, { signal: abort.signal });
  await sleep(150);
  abort.abort(new Error('enough'));
  await assert.rejects(work, /enough/);
  for (let i = 0; i < 50 && open > 0; i++) await sleep(20);
  assert.equal(open, 0);
});

/** Connections that read into slabs: what they read stays as it came. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { exchange } from '../../src/workers/http/exchange.ts';
import { ReadSlab } from '../../src/workers/http/read-slab.ts';

const request = (url: string) => ({
  method: 'GET' as const,
  url,
  headers: {},
  authorizations: {},
  tls: {},
  dialTimeoutMs: 5000,
  silenceMs: 5000,
});

test('pieces of several bodies that are read at once are not overwritten', async () => {
  const bodies = Array.from({ length: 5 }, (_, at) => randomBytes(3_000_000 + at * 777_777));
  await using server = createServer(({ url = '' }, response) => response.end(bodies[Number(url.slice(1))]));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const read = async (at: number) => {
    const { body } = await exchange(request(`http://127.0.0.1:${port}/${at}`));
    const pieces: Buffer[] = [];
    for await (const piece of body as AsyncIterable<Buffer>) {
      pieces.push(piece);
      if (pieces.length % 7 === at) await sleep(1); // the connection reads on meanwhile, or waits
    }
    return pieces;
  };
  const all = await Promise.all(bodies.map((_, at) => read(at)));
  const digest = (pieces: readonly Buffer[]) => createHash('sha256').update(Buffer.concat(pieces)).digest('hex');
  for (const [at, pieces] of all.entries()) assert.equal(digest(pieces), digest([bodies[at] ?? Buffer.alloc(0)]));
  assert.ok(
    all.some((pieces) => pieces.some(({ length }) => length > 65_536)),
    'more is read at once than Node does by itself',
  );
});

test('a server that nobody is at is an error of the connection', async () => {
  const taken = createTcpServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const { port } = taken.address() as AddressInfo;
  taken.close();
  await once(taken, 'close');
  await assert.rejects(
    exchange(request(`http://127.0.0.1:${port}/`)),
    (error: Error) => (error.cause as NodeJS.ErrnoException).code === 'ECONNREFUSED',
  );
});

test('small reads share a slab, and a read has 64 KiB at least', () => {
  const pieces: Buffer[] = [];
  const slab = new ReadSlab((piece) => pieces.push(piece) > 0);
  for (let at = 0; at < 1000; at++) {
    const room = slab.buffer();
    assert.ok(room.length >= 65_536);
    room.fill(at % 251, 0, 1000);
    assert.equal(slab.callback(1000), true);
  }
  for (const [at, piece] of pieces.entries()) assert.ok(piece.length === 1000 && piece.every((b) => b === at % 251));
  assert.ok(new Set(pieces.map(({ buffer }) => buffer)).size < 8);
});

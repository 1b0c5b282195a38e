import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { DeleteRequest, DeleteResponse } from '../../proto/gen/task.ts';
import { Request, Response } from '../../proto/gen/ttrpc.ts';
import { GRPC } from '../../src/errors.ts';
import { TtrpcClient, TtrpcClosed, TtrpcError } from '../../src/node/shims/ttrpc-client.ts';
import {
  encodeFrame,
  FRAME,
  type Frame,
  FrameReader,
  HEADER_SIZE,
  MAX_PAYLOAD,
} from '../../src/node/shims/ttrpc-frame.ts';
import { TtrpcServer } from '../../src/node/shims/ttrpc-server.ts';

const METHOD = { name: 'Delete', request: DeleteRequest, response: DeleteResponse };

function ask(id: string): DeleteRequest {
  return { id, execId: '' };
}

function frames(...chunks: Buffer[]): Frame[] {
  const found: Frame[] = [];
  const reader = new FrameReader((frame) => found.push({ ...frame, payload: Buffer.from(frame.payload) }));
  for (const chunk of chunks) reader.push(chunk);
  return found;
}

test('frames are found wherever the chunks of the stream end', () => {
  const payloads = ['', 'a', 'bc'.repeat(1000), 'd'].map((text) => Buffer.from(text));
  const stream = Buffer.concat(payloads.map((payload, i) => encodeFrame(2 * i + 1, FRAME.RESPONSE, payload)));
  for (const size of [1, 2, 7, 10, 11, 100, stream.length]) {
    const chunks: Buffer[] = [];
    for (let at = 0; at < stream.length; at += size) chunks.push(stream.subarray(at, at + size));
    assert.deepEqual(
      frames(...chunks).map(({ stream, type, payload }) => [stream, type, payload.toString()]),
      payloads.map((payload, i) => [2 * i + 1, FRAME.RESPONSE, payload.toString()]),
      `in pieces of ${size}`,
    );
  }
});

test('a header is ten bytes, big endian', () => {
  const frame = encodeFrame(0x01020305, FRAME.REQUEST, Buffer.from('xyz'));
  assert.equal(frame.toString('hex'), '00000003' + '01020305' + '01' + '00' + '78797a');
});

test('an oversize payload is skipped, whole or in pieces, and what follows is read', () => {
  const big = encodeFrame(1, FRAME.RESPONSE, Buffer.alloc(MAX_PAYLOAD + 1));
  const next = encodeFrame(3, FRAME.RESPONSE, Buffer.from('next'));
  const largest = encodeFrame(5, FRAME.RESPONSE, Buffer.alloc(MAX_PAYLOAD, 1));
  const stream = Buffer.concat([big, next, largest]);
  for (const cut of [5, HEADER_SIZE, 1000, MAX_PAYLOAD, big.length, big.length + 4]) {
    const found = frames(stream.subarray(0, cut), stream.subarray(cut));
    assert.deepEqual(
      found.map((frame) => [frame.stream, frame.oversize, frame.payload.length]),
      [
        [1, true, 0],
        [3, false, 4],
        [5, false, MAX_PAYLOAD],
      ],
      `cut at ${cut}`,
    );
  }
});

let dir: string;
let server: Server | undefined;
let sockets: Socket[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'sluice-ttrpc-'));
  sockets = [];
});

afterEach(() => {
  for (const socket of sockets) socket.destroy();
  server?.close();
  server = undefined;
  rmSync(dir, { recursive: true });
});

/** A server that passes each request to `onRequest`. */
async function peer(onRequest: (stream: number, request: Request, socket: Socket) => void): Promise<string> {
  const path = join(dir, 's');
  server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => socket.destroy());
    const reader = new FrameReader((frame) => onRequest(frame.stream, Request.decode(frame.payload), socket));
    socket.on('data', (chunk: Buffer) => reader.push(chunk));
  }).listen(path);
  await new Promise((resolve) => server?.once('listening', resolve));
  return path;
}

function answer(exitStatus: number): Uint8Array {
  const payload = Buffer.from(DeleteResponse.encode({ pid: 1, exitStatus, exitedAt: undefined }).finish());
  return Response.encode({ status: undefined, payload }).finish();
}

test('calls run at once, with odd rising stream ids, and answers may come in any order', async () => {
  const seen: { stream: number; id: string; request: Request }[] = [];
  const path = await peer((stream, request, socket) => {
    const { id } = DeleteRequest.decode(request.payload);
    seen.push({ stream, id, request });
    if (seen.length < 5) return;
    // The last request gets its response first, in two chunks; then one chunk has two responses.
    const replies = seen.toReversed().map(({ stream, id }) => encodeFrame(stream, FRAME.RESPONSE, answer(Number(id))));
    const all = Buffer.concat(replies);
    socket.write(all.subarray(0, 7));
    setTimeout(() => socket.write(all.subarray(7)), 5);
  });
  const client = await TtrpcClient.connect(path, 1000);
  const asked = [10, 11, 12, 13, 14];
  const answers = await Promise.all(asked.map((id) => client.call('svc', METHOD, ask(String(id)), 5000)));
  assert.deepEqual(
    answers.map(({ exitStatus }) => exitStatus),
    asked,
  );
  assert.deepEqual(
    seen.map(({ stream }) => stream),
    [1, 3, 5, 7, 9],
  );
  assert.equal(seen[0]?.request.service, 'svc');
  assert.equal(seen[0]?.request.method, 'Delete');
  assert.equal(seen[0]?.request.timeoutNano, 5_000_000_000n);
  assert.equal(client.pending, 0);
  client.close();
});

test('a status of the peer becomes an error with its code and message', async () => {
  const path = await peer((stream, _request, socket) => {
    const status = { code: GRPC.NOT_FOUND, message: 'container not created', details: [] };
    const response = Response.encode({ status, payload: Buffer.alloc(0) }).finish();
    socket.write(encodeFrame(stream, FRAME.RESPONSE, response));
  });
  const client = await TtrpcClient.connect(path, 1000);
  await assert.rejects(
    client.call('svc', METHOD, ask('x')),
    (error) =>
      error instanceof TtrpcError && error.code === GRPC.NOT_FOUND && error.message === 'container not created',
  );
  client.close();
});

test('a call without a response fails at its time limit, others go on, and a late response is ignored', async () => {
  let answerSlow = (): void => assert.fail('the slow call has not come');
  const path = await peer((stream, request, socket) => {
    const { id } = DeleteRequest.decode(request.payload);
    const send = () => socket.write(encodeFrame(stream, FRAME.RESPONSE, answer(7)));
    if (id === 'slow')
      answerSlow = () => {
        send();
      };
    else send();
  });
  const client = await TtrpcClient.connect(path, 1000);
  await assert.rejects(
    client.call('svc', METHOD, ask('slow'), 20),
    (error) => error instanceof TtrpcError && error.code === GRPC.DEADLINE_EXCEEDED,
  );
  assert.equal((await client.call('svc', METHOD, ask('fast'))).exitStatus, 7);
  answerSlow(); // comes before the next answer, on the same connection
  assert.equal((await client.call('svc', METHOD, ask('again'))).exitStatus, 7);
  client.close();
});

test('the end of the connection rejects every call in flight and every later one', async () => {
  const path = await peer(() => {
    if (++requests === 3) for (const socket of sockets) socket.end();
  });
  let requests = 0;
  const client = await TtrpcClient.connect(path, 1000);
  const calls = ['a', 'b', 'c'].map((id) => client.call('svc', METHOD, ask(id)));
  const results = await Promise.allSettled(calls);
  for (const result of results) assert.ok(result.status === 'rejected' && result.reason instanceof TtrpcClosed);
  assert.ok((await client.closed) instanceof TtrpcClosed);
  assert.equal(client.open, false);
  await assert.rejects(client.call('svc', METHOD, ask('d')), TtrpcClosed);
});

test('close() rejects the calls in flight', async () => {
  const path = await peer(() => {});
  const client = await TtrpcClient.connect(path, 1000);
  const call = client.call('svc', METHOD, ask('a'));
  client.close();
  await assert.rejects(call, TtrpcClosed);
  await client.closed;
});

test('a response that is not protobuf closes the connection', async () => {
  const path = await peer((stream, _request, socket) => {
    socket.write(encodeFrame(stream, FRAME.RESPONSE, Buffer.from([0x0a, 0xff, 0xff, 0xff])));
  });
  const client = await TtrpcClient.connect(path, 1000);
  await assert.rejects(client.call('svc', METHOD, ask('a')), TtrpcClosed);
  assert.equal(client.open, false);
});

test('messages above 4 MiB are refused in both directions, and the connection stays open', async () => {
  const path = await peer((stream, request, socket) => {
    const { id } = DeleteRequest.decode(request.payload);
    const response = id === 'big' ? Buffer.alloc(MAX_PAYLOAD + 1) : answer(3);
    socket.write(encodeFrame(stream, FRAME.RESPONSE, response));
  });
  const client = await TtrpcClient.connect(path, 1000);
  const exhausted = (error: unknown) => error instanceof TtrpcError && error.code === GRPC.RESOURCE_EXHAUSTED;
  await assert.rejects(client.call('svc', METHOD, ask('x'.repeat(MAX_PAYLOAD))), exhausted);
  await assert.rejects(client.call('svc', METHOD, ask('big')), exhausted);
  assert.equal((await client.call('svc', METHOD, ask('small'))).exitStatus, 3);
  client.close();
});

test('connecting without a listener fails with the socket’s error', async () => {
  await assert.rejects(TtrpcClient.connect(join(dir, 'nothing'), 1000), { code: 'ENOENT' });
  const path = await peer(() => {});
  // A socket file without a listener, as a killed shim leaves it.
  const stale = join(dir, 'stale');
  const { renameSync } = await import('node:fs');
  renameSync(path, stale);
  await new Promise((resolve) => server?.close(resolve));
  server = undefined;
  await assert.rejects(TtrpcClient.connect(stale, 1000), { code: 'ECONNREFUSED' });
});

test('the server responds, refuses unknown methods, and survives malformed input', async () => {
  const errors: Error[] = [];
  await using served = await TtrpcServer.listen({
    path: join(dir, 's'),
    methods: {
      'svc/Delete': (payload) => {
        const { id } = DeleteRequest.decode(payload);
        if (id === 'throw') throw new Error('handler broke');
        return DeleteResponse.encode({ pid: 0, exitStatus: Number(id), exitedAt: undefined }).finish();
      },
    },
    onError: (error) => errors.push(error),
  });
  const client = await TtrpcClient.connect(served.path, 1000);
  assert.equal((await client.call('svc', METHOD, ask('42'))).exitStatus, 42);
  const code = (wanted: number) => (error: unknown) => error instanceof TtrpcError && error.code === wanted;
  await assert.rejects(client.call('svc', { ...METHOD, name: 'Nothing' }, ask('1')), code(12));
  await assert.rejects(client.call('toString', { ...METHOD, name: '' }, ask('1')), code(12));
  await assert.rejects(client.call('svc', METHOD, ask('throw')), code(13));

  const { createConnection } = await import('node:net');
  const garbage = createConnection(served.path);
  await new Promise((resolve) => garbage.once('connect', resolve));
  garbage.on('error', () => {});
  const closed = new Promise((resolve) => garbage.once('close', resolve));
  garbage.write(encodeFrame(1, FRAME.REQUEST, Buffer.from([0x0a, 0x7f, 1, 2])));
  await closed;
  assert.equal((await client.call('svc', METHOD, ask('43'))).exitStatus, 43);
  assert.deepEqual(
    errors.map(({ message }) => message),
    ['svc/Delete failed', 'a ttrpc request cannot be decoded; its connection is closed'],
  );
  client.close();
});

test('a server replaces an existing socket file', async () => {
  const { writeFileSync, statSync } = await import('node:fs');
  const path = join(dir, 's');
  writeFileSync(path, '');
  await using served = await TtrpcServer.listen({ path, methods: {}, onError: assert.ifError });
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const client = await TtrpcClient.connect(served.path, 1000);
  client.close();
});

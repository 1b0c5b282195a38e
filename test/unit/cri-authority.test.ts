/** Clients that send another `:authority` than "localhost" over the unix socket, by hand and with grpc-js. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { ImageServiceDefinition } from '../../proto/gen/cri.ts';
import { AuthorityRewriter } from '../../src/main/cri/authority.ts';
import { CriServer } from '../../src/main/cri/server.ts';
import { grpcService } from '../../src/node/grpc/service.ts';

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const PATH = '/runtime.v1.ImageService/ListImages';
const folder = mkdtempSync(join(tmpdir(), 'cri-'));
const socket = join(folder, 'cri.sock');
const server = new CriServer({
  socket,
  services: [{ definition: ImageServiceDefinition, verbs: { listImages: () => ({ images: [] }) } }],
});
before(() => server.listen());
after(async () => {
  await server.close(0);
  rmSync(folder, { recursive: true, force: true });
});

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(9);
  header.writeUIntBE(payload.length, 0, 3);
  header.writeUInt8(type, 3);
  header.writeUInt8(flags, 4);
  header.writeUInt32BE(stream, 5);
  return Buffer.concat([header, payload]);
}

const text = (value: string) => Buffer.concat([Buffer.from([value.length]), Buffer.from(value)]);
/** A literal that enters no table, with its name spelt out. */
const literal = (name: string, value: string) => Buffer.concat([Buffer.from([0]), text(name), text(value)]);
const request = (...authority: Buffer[]) =>
  Buffer.concat([
    literal(':method', 'POST'),
    literal(':scheme', 'http'),
    ...authority,
    literal(':path', PATH),
    literal('content-type', 'application/grpc'),
    literal('te', 'trailers'),
  ]);
/** The frames of a call whose message is empty. */
const call = (stream: number, block: Buffer) => [frame(1, 4, stream, block), frame(0, 1, stream, Buffer.alloc(5))];

/** Sends frames on a new connection, a byte at a time when `slowly`, and resolves to what became of the streams. */
function send(frames: Buffer[], streams: number[], slowly = false): Promise<string[]> {
  return new Promise((resolve, reject) => {
    const client = connect(socket);
    const ends = new Map<number, string>();
    let got: Buffer = Buffer.alloc(0);
    const done = () => {
      client.destroy();
      resolve(streams.map((stream) => ends.get(stream) ?? 'nothing'));
    };
    client.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') reject(error);
    });
    client.on('close', done);
    client.on('data', (chunk) => {
      got = Buffer.concat([got, chunk]);
      while (got.length >= 9 && got.length >= 9 + got.readUIntBE(0, 3)) {
        if (got[3] === 4 && !((got[4] ?? 0) & 1)) client.write(frame(4, 1, 0, Buffer.alloc(0)));
        const [type, flags, stream] = [got[3], got[4] ?? 0, got.readUInt32BE(5)];
        if (type === 0) ends.set(stream, 'answered');
        if (type === 3) ends.set(stream, 'reset');
        if (type === 7) ends.set(0, 'goaway');
        if ((type === 3 || ((type === 0 || type === 1) && flags & 1)) && streams.every((each) => ends.has(each)))
          done();
        got = got.subarray(9 + got.readUIntBE(0, 3));
      }
    });
    const bytes = Buffer.concat([PREFACE, frame(4, 0, 0, Buffer.alloc(0)), ...frames]);
    if (!slowly) client.write(bytes);
    else for (const byte of bytes) client.write(Buffer.from([byte]));
  });
}

for (const [name, authority] of Object.entries({
  localhost: 'localhost',
  'the path of the socket': '/run/sluice/sluice.sock',
  'the path, escaped': '%2Frun%2Fsluice%2Fsluice.sock',
  empty: '',
  'with a scheme': 'unix:/run/x.sock',
  'an address': '[::1]:1',
  'a space': 'a b',
})) {
  test(`authority: ${name}`, async () => {
    const block = request(literal(':authority', authority));
    assert.deepEqual(await send(call(1, block), [1]), ['answered']);
    assert.deepEqual(await send([...call(1, block), ...call(3, block)], [1, 3], true), ['answered', 'answered']);
  });
}

test('no authority at all, in every request', async () => {
  assert.deepEqual(await send([...call(1, request()), ...call(3, request())], [1, 3]), ['answered', 'answered']);
  // An update of the table's size may stand at the beginning of a block alone.
  const sized = Buffer.concat([Buffer.from([0x20 | 30]), request()]);
  assert.deepEqual(await send(call(1, sized), [1]), ['answered']);
});

test('an authority in the dynamic table is found there by later requests, between other entries', async () => {
  const incremental = (index: number, value: string) => Buffer.concat([Buffer.from([0x40 | index]), text(value)]);
  const own = Buffer.concat([Buffer.from([0x40]), text('x-a'), text('1')]);
  for (const authority of ['/run/x.sock', 'a/b', '/', '']) {
    const first = Buffer.concat([request(incremental(1, authority)), own]);
    // The newest entry is 62, the one before it 63.
    const later = Buffer.concat([request(Buffer.from([0x80 | 63])), Buffer.from([0x80 | 62])]);
    const frames = [...call(1, first), ...call(3, later), ...call(5, later)];
    assert.deepEqual(await send(frames, [1, 3, 5]), ['answered', 'answered', 'answered'], authority);
  }
  assert.deepEqual(await send(call(1, request(Buffer.from([0x81]))), [1]), ['answered'], 'static, with an empty value');
});

test('header blocks in several frames, with padding and priority', async () => {
  const block = request(literal(':authority', '/x'));
  const half = block.subarray(0, 40);
  const padded = Buffer.concat([Buffer.from([3, 0, 0, 0, 0, 15]), half, Buffer.alloc(3)]);
  const frames = [frame(1, 0x28, 1, padded), frame(9, 4, 1, block.subarray(40)), frame(0, 1, 1, Buffer.alloc(5))];
  assert.deepEqual(await send(frames, [1]), ['answered']);
});

test('what is no HTTP/2, and headers without bounds, are refused, and others are served on', async () => {
  await new Promise<void>((resolve) => {
    const client = connect(socket, () => client.write('GET / HTTP/1.1\r\n\r\n'.repeat(10)));
    client.on('close', () => resolve());
    client.on('data', () => client.destroy());
    client.on('error', () => client.destroy());
  });
  const endless = Array.from({ length: 20 }, () => frame(9, 0, 1, Buffer.alloc(16_000)));
  assert.deepEqual(await send([frame(1, 0, 1, request(literal(':authority', '/x'))), ...endless], [1]), ['nothing']);
  assert.deepEqual(await send(call(1, request(literal(':authority', '/x'))), [1]), ['answered']);
});

for (const authority of ['localhost', '/run/sluice/sluice.sock'])
  test(`a client of grpc-js with the authority ${authority} makes many calls`, async () => {
    const method = grpcService(ImageServiceDefinition).listImages;
    const client = new Client(`unix:${socket}`, credentials.createInsecure(), {
      'grpc.default_authority': authority,
      'grpc.use_local_subchannel_pool': 1,
    });
    const listImages = () =>
      new Promise((resolve, reject) => {
        const take = (error: Error | null, answer?: unknown) => (error ? reject(error) : resolve(answer));
        client.makeUnaryRequest(
          method.path,
          method.requestSerialize,
          method.responseDeserialize,
          {
            filter: {
              image: {
                image: 'x'.repeat(100_000),
                annotations: {},
                userSpecifiedImage: '',
                runtimeHandler: '',
                imageRef: '',
              },
            },
          },
          new Metadata(),
          { deadline: Date.now() + 10_000 },
          take,
        );
      });
    try {
      for (let i = 0; i < 20; i++) await listImages();
      await Promise.all(Array.from({ length: 50 }, listImages));
    } finally {
      client.close();
    }
  });

test('a client that never acknowledges settings is served, and so is one that pings before its first request', async () => {
  const silent = connect(socket);
  const block = request(literal(':authority', 'localhost'));
  silent.write(Buffer.concat([PREFACE, frame(4, 0, 0, Buffer.alloc(0)), ...call(1, block)]));
  let got: Buffer = Buffer.alloc(0);
  for await (const chunk of silent) {
    got = Buffer.concat([got, chunk as Buffer]);
    if (got.includes('application/grpc') || typesOf(got).includes(0)) break;
  }
  const pinging = connect(socket);
  pinging.write(Buffer.concat([PREFACE, frame(4, 0, 0, Buffer.alloc(0)), frame(6, 0, 0, Buffer.alloc(8))]));
  got = Buffer.alloc(0);
  for await (const chunk of pinging) {
    got = Buffer.concat([got, chunk as Buffer]);
    if (typesOf(got).includes(6)) break;
  }
});

function typesOf(bytes: Buffer): number[] {
  const types: number[] = [];
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) types.push(bytes[at + 3] ?? -1);
  return types;
}

test('bytes that are no frames pass, and nothing is lost however they are cut', () => {
  const bytes = Buffer.concat([
    PREFACE,
    ...call(1, request(literal(':authority', '/x'))),
    frame(0, 0, 1, Buffer.alloc(100)),
  ]);
  const whole = new AuthorityRewriter().push(bytes);
  for (const size of [1, 2, 7, 64]) {
    const rewriter = new AuthorityRewriter();
    const parts: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += size) parts.push(rewriter.push(bytes.subarray(at, at + size)));
    assert.deepEqual(Buffer.concat(parts), whole);
  }
});

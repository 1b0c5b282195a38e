import assert from 'node:assert/strict';
import { type Duplex, duplexPair } from 'node:stream';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { constants, createDeflate, createInflate } from 'node:zlib';
import {
  controlFrame,
  DICTIONARY,
  FLAG_FIN,
  GOAWAY,
  parseHeaders,
  RST,
  SpdyConnection,
  type SpdyStream,
  TYPE,
} from '../../src/workers/stdio/spdy.ts';

const u32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
};

function headerBlock(headers: Record<string, string>): Buffer {
  const text = (value: string) => Buffer.concat([u32(value.length), Buffer.from(value, 'latin1')]);
  const pairs = Object.entries(headers);
  return Buffer.concat([u32(pairs.length), ...pairs.flatMap(([name, value]) => [text(name), text(value)])]);
}

function data(stream: number, bytes: Buffer | string, flags = 0): Buffer {
  const body = Buffer.from(bytes as string);
  return Buffer.concat([u32(stream), Buffer.from([flags]), u32(body.length).subarray(1), body]);
}

interface Frame {
  type: number | 'data';
  stream: number;
  flags: number;
  payload: Buffer;
}

/** The client's end, frame by frame; headers are compressed by zlib, as real clients do. */
class Client {
  readonly socket: Duplex;
  readonly frames: Frame[] = [];
  closed = false;
  readonly #deflate = createDeflate({ dictionary: DICTIONARY });
  #input = Buffer.alloc(0);

  constructor(socket: Duplex) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#input = Buffer.concat([this.#input, chunk]);
      for (;;) {
        const length = this.#input.length < 8 ? Number.POSITIVE_INFINITY : this.#input.readUIntBE(5, 3);
        if (this.#input.length < 8 + length) return;
        const first = this.#input.readUInt32BE(0);
        const payload = this.#input.subarray(8, 8 + length);
        const control = first >= 0x80000000;
        this.frames.push({
          type: control ? first & 0xffff : 'data',
          stream: control ? payload.readUInt32BE(0) : first,
          flags: this.#input.readUInt8(4),
          payload,
        });
        this.#input = this.#input.subarray(8 + length);
      }
    });
    socket.on('end', () => {
      this.closed = true;
    });
    socket.on('close', () => {
      this.closed = true;
    });
    socket.on('error', () => {});
  }

  async synStream(id: number, headers: Record<string, string> = {}, flags = 0): Promise<Buffer> {
    const chunks: Buffer[] = [];
    const collect = (chunk: Buffer) => chunks.push(chunk);
    this.#deflate.on('data', collect);
    this.#deflate.write(headerBlock(headers));
    await new Promise<void>((resolve) => this.#deflate.flush(constants.Z_SYNC_FLUSH, resolve));
    this.#deflate.off('data', collect);
    return controlFrame(TYPE.SYN_STREAM, flags, Buffer.concat([u32(id), u32(0), Buffer.alloc(2), ...chunks]));
  }

  of(type: Frame['type']): Frame[] {
    return this.frames.filter((frame) => frame.type === type);
  }

  /** All data of a stream so far. */
  text(stream: number): string {
    return Buffer.concat(this.of('data').flatMap((f) => (f.stream === stream ? [f.payload] : []))).toString('latin1');
  }
}

function connect(onStream: (stream: SpdyStream) => void = (stream) => stream.reply()) {
  const [near, far] = duplexPair();
  const streams: SpdyStream[] = [];
  let closes = 0;
  const connection = new SpdyConnection(near, {
    onStream: (stream) => {
      streams.push(stream);
      onStream(stream);
    },
    onClose: () => {
      closes++;
    },
  });
  return { client: new Client(far), connection, streams, closes: () => closes };
}

async function until(check: () => boolean, what = 'it happens') {
  for (const began = performance.now(); !check(); await turn()) {
    assert.ok(performance.now() - began < 5000, what);
  }
}

/** Waits until all pending reads and writes are done. */
async function settle() {
  for (let turns = 0; turns < 30; turns++) await turn();
}

test('the dictionary is the one of SPDY/3', () => {
  assert.equal(DICTIONARY.length, 1423);
  let a = 1;
  let b = 0;
  for (const byte of DICTIONARY) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  // The Adler-32 of the dictionary, which every zlib stream of SPDY/3 has in its header.
  assert.equal(((b << 16) | a) >>> 0, 0xe3c6a7c2);
});

test('streams open with their headers, however the bytes are split', async () => {
  for (const size of [1, 2, 3, 7, 8, 9, 13, 64, 100_000]) {
    const { client, streams } = connect((stream) => {
      stream.reply();
      stream.pipe(stream);
    });
    const bytes = Buffer.concat([
      await client.synStream(1, { streamtype: 'error' }),
      await client.synStream(3, { streamType: 'stdin', port: '80\x0081' }),
      data(3, 'hello '),
      data(1, 'x'),
      data(3, 'world', FLAG_FIN),
      controlFrame(TYPE.PING, 0, u32(7)),
    ]);
    for (let at = 0; at < bytes.length; at += size) client.socket.write(bytes.subarray(at, at + size));
    await until(() => client.of(TYPE.PING).length === 1 && client.of('data').some(({ flags }) => flags === FLAG_FIN));
    assert.deepEqual([...(streams[0]?.headers ?? [])], [['streamtype', 'error']]);
    assert.deepEqual(
      [...(streams[1]?.headers ?? [])],
      [
        ['streamtype', 'stdin'],
        ['port', '80'],
      ],
    );
    assert.equal(client.text(3), 'hello world', `in pieces of ${size}`);
    assert.equal(client.text(1), 'x');
    assert.equal(client.of(TYPE.PING)[0]?.payload.readUInt32BE(0), 7);
  }
});

test('replies can be inflated by zlib, one after the other', async () => {
  const { client } = connect();
  for (const id of [1, 3, 5]) client.socket.write(await client.synStream(id));
  await until(() => client.of(TYPE.SYN_REPLY).length === 3);
  const inflate = createInflate({ dictionary: DICTIONARY });
  for (const { payload } of client.of(TYPE.SYN_REPLY)) {
    const out = new Promise<Buffer>((resolve) => inflate.once('data', resolve));
    inflate.write(payload.subarray(4));
    assert.deepEqual(parseHeaders(await out), new Map());
  }
});

test('each side half-closes a stream independently', async () => {
  const { client, streams } = connect();
  client.socket.write(Buffer.concat([await client.synStream(1), data(1, 'in', FLAG_FIN)]));
  await until(() => streams.length === 1);
  const stream = streams[0];
  assert.ok(stream);
  let read = '';
  let ended = false;
  stream.on('data', (chunk) => {
    read += chunk;
  });
  stream.on('end', () => {
    ended = true;
  });
  await until(() => ended);
  assert.equal(read, 'in');
  stream.write('out');
  await until(() => client.text(1) === 'out');
  assert.ok(!stream.destroyed);
  stream.end();
  await until(() => client.of('data').at(-1)?.flags === FLAG_FIN);
  await until(() => stream.destroyed);
  assert.deepEqual(client.of(TYPE.RST_STREAM), []);
});

test('a peer that never sends WINDOW_UPDATE gets everything, as Go’s clients need it', async () => {
  const { client, streams } = connect();
  client.socket.write(await client.synStream(1));
  await until(() => streams.length === 1);
  streams[0]?.end(Buffer.alloc(300_000, 'x'));
  await until(() => client.of('data').at(-1)?.flags === FLAG_FIN);
  assert.equal(client.text(1).length, 300_000);
});

test('windows apply once the peer has sent a WINDOW_UPDATE or an initial window', async () => {
  const { client, streams } = connect();
  const settings = Buffer.concat([u32(1), Buffer.from([0, 0, 0, 7]), u32(1000)]);
  client.socket.write(Buffer.concat([controlFrame(TYPE.SETTINGS, 0, settings), await client.synStream(1)]));
  await until(() => streams.length === 1);
  streams[0]?.end(Buffer.alloc(5000, 'x'));
  await settle();
  assert.equal(client.text(1).length, 1000);
  client.socket.write(controlFrame(TYPE.WINDOW_UPDATE, 0, Buffer.concat([u32(1), u32(500)])));
  await until(() => client.text(1).length === 1500);
  await settle();
  assert.equal(client.text(1).length, 1500);
  // A smaller initial window also applies to what was sent before: the stream's window is -1000 then.
  const smaller = Buffer.concat([u32(1), Buffer.from([0, 0, 0, 7]), u32(0)]);
  client.socket.write(controlFrame(TYPE.SETTINGS, 0, smaller));
  client.socket.write(controlFrame(TYPE.WINDOW_UPDATE, 0, Buffer.concat([u32(1), u32(1001)])));
  await until(() => client.text(1).length === 1501);
  client.socket.write(controlFrame(TYPE.WINDOW_UPDATE, 0, Buffer.concat([u32(1), u32(100_000)])));
  await until(() => client.text(1).length === 5000);
  assert.equal(client.of('data').at(-1)?.flags, FLAG_FIN);
});

test('the connection’s window limits all streams together', async () => {
  const { client, streams } = connect();
  client.socket.write(Buffer.concat([await client.synStream(1), await client.synStream(3)]));
  client.socket.write(controlFrame(TYPE.WINDOW_UPDATE, 0, Buffer.concat([u32(0), u32(1)])));
  await until(() => streams.length === 2);
  await settle();
  streams[0]?.write(Buffer.alloc(60_000, 'a'));
  streams[1]?.write(Buffer.alloc(60_000, 'b'));
  await settle();
  assert.equal(client.text(1).length + client.text(3).length, 65_537);
  client.socket.write(controlFrame(TYPE.WINDOW_UPDATE, 0, Buffer.concat([u32(0), u32(100_000)])));
  await until(() => client.text(1).length + client.text(3).length === 120_000);
});

test('consumed data opens the peer’s windows', async () => {
  const { client, streams } = connect();
  client.socket.write(await client.synStream(1));
  await until(() => streams.length === 1);
  client.socket.write(data(1, Buffer.alloc(60_000)));
  await settle();
  const credit = (id: number) =>
    client.of(TYPE.WINDOW_UPDATE).reduce((sum, f) => sum + (f.stream === id ? f.payload.readUInt32BE(4) : 0), 0);
  assert.equal(credit(1), 0, 'nothing was read yet');
  streams[0]?.resume();
  await until(() => credit(1) === 60_000 && credit(0) === 60_000);
});

test('an unread stream pauses the connection instead of filling memory; its end resumes the connection', async () => {
  const { client, streams } = connect();
  client.socket.write(Buffer.concat([await client.synStream(1), await client.synStream(3)]));
  await until(() => streams.length === 2);
  const [stuck, other] = streams;
  assert.ok(stuck && other);
  let sent = 0;
  const feed = () => {
    while (sent < 64 << 20) {
      sent += 65536;
      if (!client.socket.write(data(1, Buffer.alloc(65536)))) return;
    }
  };
  client.socket.on('drain', feed);
  feed();
  await settle();
  assert.ok(stuck.readableLength > 1 << 20);
  assert.ok(stuck.readableLength < 2 << 20, `${stuck.readableLength} bytes are held`);
  const before = sent;
  await settle();
  assert.equal(sent, before);
  stuck.destroy();
  await until(() => sent >= 64 << 20);
  client.socket.write(data(3, 'still here'));
  let heard = '';
  other.on('data', (chunk) => {
    heard += chunk;
  });
  await until(() => heard === 'still here');
  assert.equal(client.of(TYPE.RST_STREAM).length, 1);
});

test('a stream that is read slowly gets everything', async () => {
  const { client, streams } = connect();
  client.socket.write(await client.synStream(1));
  await until(() => streams.length === 1);
  const stream = streams[0];
  assert.ok(stream);
  const total = 8 << 20;
  for (let sent = 0; sent < total; sent += 65536) client.socket.write(data(1, Buffer.alloc(65536)));
  client.socket.write(data(1, '', FLAG_FIN));
  await settle();
  let read = 0;
  for await (const chunk of stream) {
    read += (chunk as Buffer).length;
    if (read % (256 << 10) === 0) await turn();
  }
  assert.equal(read, total);
});

test('only streams that break emit close without end', async () => {
  const { client, streams } = connect();
  client.socket.write(Buffer.concat([await client.synStream(1), await client.synStream(3)]));
  await until(() => streams.length === 2);
  const [first, second] = streams;
  assert.ok(first && second);
  first.resume();
  client.socket.write(controlFrame(TYPE.RST_STREAM, 0, Buffer.concat([u32(1), u32(RST.CANCEL)])));
  await until(() => first.destroyed);
  assert.ok(!first.readableEnded);
  assert.ok(!second.destroyed);
  first.write('into the void');
  await settle();
  assert.deepEqual(client.of(TYPE.RST_STREAM), [], 'a reset is not answered');
  second.destroy();
  await until(() => client.of(TYPE.RST_STREAM).length === 1);
  assert.equal(client.of(TYPE.RST_STREAM)[0]?.payload.readUInt32BE(4), RST.CANCEL);
});

test('the end of the connection closes all streams', async () => {
  const { client, streams, closes } = connect();
  client.socket.write(Buffer.concat([await client.synStream(1), await client.synStream(3)]));
  await until(() => streams.length === 2);
  client.socket.destroy();
  await until(() => streams.every((stream) => stream.destroyed));
  assert.equal(closes(), 1);
});

test('end sends GOAWAY after all data, and ignores what arrives later', async () => {
  const { client, connection, streams } = connect();
  client.socket.write(await client.synStream(1));
  await until(() => streams.length === 1);
  streams[0]?.end('last words');
  await settle();
  connection.end();
  client.socket.write(data(1, 'too late'));
  await until(() => client.closed);
  assert.deepEqual(
    client.frames.map(({ type }) => type),
    [TYPE.SYN_REPLY, 'data', 'data', TYPE.GOAWAY],
  );
  const goaway = client.of(TYPE.GOAWAY)[0]?.payload;
  assert.deepEqual(goaway, Buffer.concat([u32(1), u32(GOAWAY.OK)]));
});

test('data for a stream that was never opened gets RST_STREAM, and the connection stays open', async () => {
  const { client, streams } = connect();
  client.socket.write(Buffer.concat([data(9, 'lost'), data(0, ''), await client.synStream(1)]));
  await until(() => streams.length === 1);
  await until(() => client.of(TYPE.RST_STREAM).length === 2);
  assert.deepEqual(client.of(TYPE.RST_STREAM)[0]?.payload, Buffer.concat([u32(9), u32(RST.INVALID_STREAM)]));
});

test('data after FIN resets the stream', async () => {
  const { client, streams } = connect();
  client.socket.write(Buffer.concat([await client.synStream(1, {}, FLAG_FIN), data(1, 'more')]));
  await until(() => client.of(TYPE.RST_STREAM).length === 1);
  assert.equal(client.of(TYPE.RST_STREAM)[0]?.payload.readUInt32BE(4), RST.STREAM_ALREADY_CLOSED);
  assert.ok(streams[0]?.destroyed);
});

test('frames of unknown types and even pings are ignored', async () => {
  const { client, streams } = connect();
  client.socket.write(
    Buffer.concat([
      controlFrame(77, 0xff, Buffer.alloc(300)),
      controlFrame(TYPE.PING, 0, u32(2)),
      controlFrame(TYPE.GOAWAY, 0, Buffer.alloc(8)),
      await client.synStream(1),
    ]),
  );
  await until(() => streams.length === 1);
  assert.deepEqual(client.of(TYPE.PING), []);
});

const BOMB = 10 << 20;
const bad: Record<string, (client: Client) => Promise<Buffer> | Buffer> = {
  'a control frame of 16 MiB': () => Buffer.from([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
  'another version': () => Buffer.from([0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]),
  'plain HTTP': () => Buffer.from('\xffGET / HTTP/1.1\r\n\r\n', 'latin1'),
  'a SYN_STREAM without a body': () => controlFrame(TYPE.SYN_STREAM, 0, Buffer.alloc(4)),
  'headers that are no zlib': () => controlFrame(TYPE.SYN_STREAM, 0, Buffer.concat([u32(1), Buffer.alloc(40, 0x55)])),
  'headers that inflate without measure': (client) => client.synStream(1, { bomb: 'x'.repeat(BOMB) }),
  'too many headers': (client) =>
    client.synStream(1, Object.fromEntries(Array.from({ length: 200 }, (_, at) => [`h${at}`, '']))),
  'an even stream id': (client) => client.synStream(2),
  'a SYN_REPLY': () => controlFrame(TYPE.SYN_REPLY, 0, u32(1)),
  'a window beyond 2 GiB': () => controlFrame(TYPE.WINDOW_UPDATE, 0, Buffer.concat([u32(0), u32(0x7fffffff)])),
  'settings that end early': () => controlFrame(TYPE.SETTINGS, 0, Buffer.concat([u32(5), Buffer.alloc(8)])),
};
for (const [what, make] of Object.entries(bad)) {
  test(`${what} ends the connection with a protocol error`, async () => {
    const { client, streams } = connect();
    client.socket.write(await make(client));
    await until(() => client.of(TYPE.GOAWAY).length === 1, 'GOAWAY comes');
    assert.equal(client.of(TYPE.GOAWAY)[0]?.payload.readUInt32BE(4), GOAWAY.PROTOCOL_ERROR);
    await until(() => client.closed, 'the connection ends');
    assert.deepEqual(streams, []);
  });
}

test('a stream id that was used before ends the connection', async () => {
  const { client, streams } = connect();
  client.socket.write(Buffer.concat([await client.synStream(3), await client.synStream(3)]));
  await until(() => client.of(TYPE.GOAWAY).length === 1);
  assert.equal(streams.length, 1);
  assert.ok(streams[0]?.destroyed);
});

test('the 2001st stream is refused, the others are not', async () => {
  const { client, streams } = connect(() => {});
  const frames: Buffer[] = [];
  for (let at = 0; at < 2001; at++) frames.push(await client.synStream(2 * at + 1));
  client.socket.write(Buffer.concat(frames));
  await until(() => client.of(TYPE.RST_STREAM).length === 1);
  assert.equal(streams.length, 2000);
  assert.equal(client.of(TYPE.RST_STREAM)[0]?.payload.readUInt32BE(4), RST.REFUSED_STREAM);
});

test('malformed header blocks are refused', () => {
  assert.deepEqual(parseHeaders(headerBlock({ A: '1' })), new Map([['a', '1']]));
  const whole = headerBlock({ a: '1', b: '2' });
  for (let size = 0; size < whole.length; size++) assert.equal(parseHeaders(whole.subarray(0, size)), undefined);
  assert.equal(parseHeaders(Buffer.concat([whole, Buffer.alloc(1)])), undefined);
  assert.equal(parseHeaders(Buffer.concat([u32(1), u32(0xffffffff)])), undefined);
});

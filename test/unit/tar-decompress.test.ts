import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import { test } from 'node:test';
import { constants, crc32, createZstdDecompress, gunzipSync, gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { SluiceError } from '../../src/errors.ts';
import { type Decompress, decompress } from '../../src/workers/image/decompress.ts';
import { ZstdFrames } from '../../src/workers/image/zstd-frames.ts';

async function* inPieces(data: Buffer, step: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < data.length; at += step) yield data.subarray(at, at + step);
}

async function decode(data: Buffer, step = data.length, options?: Decompress): Promise<Buffer> {
  const output: Buffer[] = [];
  await decompress(inPieces(data, step), (piece) => output.push(Buffer.from(piece)), options);
  return Buffer.concat(output);
}

const invalid = (error: unknown) => error instanceof SluiceError && error.code === 'IMAGE_INVALID';

function skippable(size: number, kind = 0): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(0x184d2a50 + kind, 0);
  header.writeUInt32LE(size, 4);
  return Buffer.concat([header, randomBytes(size)]);
}

const text = Buffer.from('the quick brown fox jumps over the lazy dog. '.repeat(5000));
const noise = randomBytes(50_000);
const checked = { params: { [constants.ZSTD_c_checksumFlag]: 1 } };

test('gzip of one and of many members, in pieces of any size', async () => {
  const members = Buffer.concat([gzipSync(text), gzipSync(Buffer.alloc(0)), gzipSync(noise.subarray(0, 9000))]);
  const whole = Buffer.concat([text, noise.subarray(0, 9000)]);
  for (const step of [7, 4096, members.length]) {
    const output = await decode(members, step);
    assert.ok(output.equals(whole), `pieces of ${step}`);
  }
  const first = gzipSync(text);
  const atTheSeam = await decode(Buffer.concat([first, gzipSync(noise)]), first.length);
  assert.ok(atTheSeam.equals(Buffer.concat([text, noise])));
});

test('zeroes behind a gzip stream are padding, wherever a piece ends', async () => {
  const stream = gzipSync(text);
  const padded = Buffer.concat([stream, Buffer.alloc(3000)]);
  for (const step of [padded.length, stream.length, 100]) {
    const output = await decode(padded, step);
    assert.ok(output.equals(text), `pieces of ${step}`);
  }
});

interface Parts {
  extra?: Buffer;
  name?: string;
  comment?: string;
  checked?: boolean;
  flags?: number;
}

/** A gzip member with these parts in its header. */
function member(content: Buffer, { extra, name, comment, checked, flags = 0 }: Parts): Buffer {
  const plain = gzipSync(content);
  const size = Buffer.alloc(2);
  size.writeUInt16LE(extra?.length ?? 0);
  const bits = (checked ? 2 : 0) | (extra ? 4 : 0) | (name !== undefined ? 8 : 0) | (comment !== undefined ? 16 : 0);
  const head = Buffer.concat([
    plain.subarray(0, 3),
    Buffer.from([bits | flags]),
    plain.subarray(4, 10),
    ...(extra ? [size, extra] : []),
    ...[name, comment].flatMap((words) => (words === undefined ? [] : [Buffer.from(`${words}\0`)])),
  ]);
  const sum = Buffer.alloc(2);
  sum.writeUInt16LE(crc32(head) & 0xffff);
  return Buffer.concat([head, ...(checked ? [sum] : []), plain.subarray(10)]);
}

test('gzip headers with everything that they may have, in pieces of any size', async () => {
  const all = { extra: randomBytes(300), name: 'layer.tar', comment: 'made by a test', checked: true };
  const shapes: Parts[] = [
    { extra: Buffer.alloc(0) },
    { name: '' },
    { comment: 'words' },
    { checked: true },
    { flags: 1 }, // "this is a text"
    all,
  ];
  const data = Buffer.concat(shapes.map((parts, at) => member(noise.subarray(0, 100 * at), parts)));
  const whole = Buffer.concat(shapes.map((_, at) => noise.subarray(0, 100 * at)));
  for (const step of [1, 11, 4096, data.length])
    for (const verified of [true, false])
      assert.ok((await decode(data, step, { verified })).equals(whole), `pieces of ${step}`);
});

test('gzip: a wrong checksum counts where nothing else verifies what comes out, a wrong length always', async () => {
  const wrong = (at: number) => {
    const data = Buffer.concat([gzipSync(text), gzipSync(noise)]);
    data[data.length + at] = (data[data.length + at] ?? 0) ^ 1;
    return data;
  };
  await assert.rejects(decode(wrong(-8)), /incorrect data check/);
  assert.ok((await decode(wrong(-8), 1000, { verified: true })).equals(Buffer.concat([text, noise])));
  for (const verified of [true, false]) await assert.rejects(decode(wrong(-4), 1000, { verified }), /length check/);
});

test('gzip headers that are wrong', async () => {
  const spoilt = (at: number, value: number) => {
    const data = member(text, { name: 'x', checked: true });
    data[at] = value;
    return data;
  };
  for (const [data, words] of [
    [spoilt(2, 7), /unknown compression method/],
    [spoilt(3, 0x8a), /unknown header flags/],
    [spoilt(4, 9), /header crc mismatch/],
    [Buffer.concat([gzipSync(text), Buffer.from('rubbish')]), /incorrect header check/],
    [Buffer.concat([gzipSync(text), Buffer.from([0x1f, 0x8c])]), /incorrect header check/],
    [Buffer.concat([gzipSync(text), Buffer.from([0x1f])]), /unexpected end of file/],
    [member(text, { comment: 'x'.repeat(2 << 20) }), /a header of more than 1048576 bytes/],
  ] as const) {
    for (const step of [1000, data.length])
      await assert.rejects(decode(data, step), (error) => invalid(error) && words.test(String(error)), String(words));
  }
});

test('gzip streams with a changed byte, cut or with more behind them: as gunzip takes or refuses them', async () => {
  const content = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));
  const parts = fc.record(
    { extra: content, name: fc.stringMatching(/^[a-z]*$/), comment: fc.constant('c'), checked: fc.boolean() },
    { requiredKeys: [] },
  );
  const stream = fc
    .array(fc.tuple(content, parts), { minLength: 1, maxLength: 4 })
    .map((members) => Buffer.concat(members.map(([bytes, header]) => member(bytes, header))));
  const spoil = fc.oneof(
    { weight: 3, arbitrary: fc.constant((data: Buffer) => data) },
    fc.tuple(fc.nat(), fc.nat(255)).map(([at, value]) => (data: Buffer) => {
      const changed = Buffer.from(data);
      if (at % data.length > 1) changed[at % data.length] = value; // the first two say that it is gzip
      return changed;
    }),
    fc.nat().map((at) => (data: Buffer) => data.subarray(0, Math.max(4, at % data.length))),
    content.map((more) => (data: Buffer) => Buffer.concat([data, more])),
    fc.nat(20).map((zeroes) => (data: Buffer) => Buffer.concat([data, Buffer.alloc(zeroes), Buffer.from('more')])),
  );
  await fc.assert(
    fc.asyncProperty(stream, spoil, fc.integer({ min: 1, max: 400 }), async (good, spoilt, step) => {
      const data = spoilt(good);
      const outcome = (work: () => Buffer | Promise<Buffer>) =>
        Promise.resolve()
          .then(work)
          .then((bytes) => bytes.toString('hex'))
          .catch(() => 'refused');
      assert.equal(await outcome(() => decode(data, step)), await outcome(() => gunzipSync(data)));
    }),
    { numRuns: 2000 },
  );
});

test('what does not fit into one piece comes in several, also from one byte of input', async () => {
  const large = Buffer.alloc(3 << 20, 5);
  for (const data of [gzipSync(large), zstdCompressSync(large)])
    for (const step of [1, 100, data.length]) assert.ok((await decode(data, step)).equals(large), `pieces of ${step}`);
});

test('Node loses the second of two zstd frames in one write; we do not', async () => {
  const frames = Buffer.concat([zstdCompressSync(text), zstdCompressSync(noise)]);
  const plain: Buffer[] = [];
  await pipeline(inPieces(frames, frames.length), createZstdDecompress(), async (source: AsyncIterable<Buffer>) => {
    for await (const piece of source) plain.push(piece);
  });
  // When this fails Node has been mended (nodejs/node 64741), and zstd-frames.ts can go.
  assert.equal(Buffer.concat(plain).length, text.length);
  assert.ok((await decode(frames)).equals(Buffer.concat([text, noise])));
});

test('zstd frames of every shape, in pieces of any size', async () => {
  const empty = zstdCompressSync(Buffer.alloc(0));
  const run = zstdCompressSync(Buffer.alloc(1 << 20, 7));
  const data = Buffer.concat([
    skippable(20, 3),
    zstdCompressSync(text, checked),
    empty,
    skippable(0),
    skippable(7000, 15),
    run,
    zstdCompressSync(noise),
    zstdCompressSync(noise.subarray(0, 10), checked),
    skippable(5),
  ]);
  const whole = Buffer.concat([text, Buffer.alloc(1 << 20, 7), noise, noise.subarray(0, 10)]);
  for (const step of [5, 1000, 65_536, data.length]) {
    const output = await decode(data, step);
    assert.ok(output.equals(whole), `pieces of ${step}: ${output.length} of ${whole.length} bytes`);
  }
});

test('a thousand zstd frames, as zstd:chunked has them', async () => {
  const parts = Array.from({ length: 1000 }, (_, i) => Buffer.from(`file ${i} `.repeat(20)));
  const output = await decode(Buffer.concat(parts.map((part) => zstdCompressSync(part))));
  assert.ok(output.equals(Buffer.concat(parts)));
});

test('no piece reaches over the end of a frame', () => {
  const frame = zstdCompressSync(text, checked);
  const data = Buffer.concat([frame, skippable(3), frame, frame]);
  const pieces = [...new ZstdFrames().split(data)];
  assert.deepEqual(
    pieces.map((piece) => piece.length),
    [frame.length, frame.length, frame.length],
  );
});

test('cut and broken streams are the image’s fault', async () => {
  for (const [name, data] of [
    ['gzip', gzipSync(text)],
    ['zstd', Buffer.concat([zstdCompressSync(noise), zstdCompressSync(text, checked)])],
  ] as const) {
    for (const length of [data.length - 1, data.length - 5, data.length >> 1, 6]) {
      await assert.rejects(decode(data.subarray(0, length)), invalid, `${name} cut at ${length}`);
    }
  }
  const flipped = gzipSync(noise);
  flipped.fill(0x55, 5000, 5100);
  await assert.rejects(decode(flipped), invalid);
  const wrong = zstdCompressSync(text, checked);
  wrong.writeUInt32LE(wrong.readUInt32LE(wrong.length - 4) ^ 1, wrong.length - 4);
  await assert.rejects(decode(wrong), invalid);
  await assert.rejects(decode(Buffer.concat([zstdCompressSync(text), Buffer.from('rubbish')])), invalid);
});

test('anything else is a plain archive, the shortest too', async () => {
  for (const data of [Buffer.alloc(0), Buffer.from('a'), Buffer.from('PK\x03\x04 something')]) {
    const output = await decode(data, 1);
    assert.ok(output.equals(data));
  }
});

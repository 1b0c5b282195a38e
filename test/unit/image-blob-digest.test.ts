import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { blobDigest } from '../../src/workers/image/blob-digest.ts';
import { digestOfRing, makeRing, RingWriter } from '../../src/workers/image/digest-ring.ts';

const data = randomBytes(5 << 20);

test('a digest is the same in a thread of its own, whatever the pieces', async () => {
  for (const algorithm of ['sha256', 'sha512'] as const) {
    const right = createHash(algorithm).update(data).digest('hex');
    for (const step of [700, 64 << 10, 100_000, data.length]) {
      for (const large of [0, data.length + 1]) {
        using digest = blobDigest(algorithm, data.length, large);
        for (let at = 0; at < data.length; at += step) {
          const piece = Buffer.from(data.subarray(at, at + step));
          await digest.add(piece);
          piece.fill(0); // the caller uses its memory again
        }
        assert.equal(await digest.hex(), right, `${algorithm}, pieces of ${step}, large from ${large}`);
      }
    }
  }
  using none = blobDigest('sha256', 0, 0);
  assert.equal(await none.hex(), createHash('sha256').digest('hex'));
});

test('who fills the ring learns that the thread has ended', async () => {
  const digest = blobDigest('sha256', 1, 0);
  await digest.add(data.subarray(0, 1000));
  digest[Symbol.dispose]();
  await assert.rejects(async () => {
    for (;;) await digest.add(data);
  }, /thread for a digest ended/);
  await assert.rejects(digest.hex(), /thread for a digest ended/);
});

test('a full ring waits until it is emptied, and bytes come in order', async () => {
  const ring = makeRing();
  const writer = new RingWriter(ring);
  await writer.add(data.subarray(0, 1000));
  await writer.end();
  assert.equal(
    digestOfRing({ algorithm: 'sha256', ring }),
    createHash('sha256').update(data.subarray(0, 1000)).digest('hex'),
  );
  const full = new RingWriter(makeRing());
  let added = false;
  const adding = full.add(data).then(() => {
    added = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(added, false);
  full.fail(new Error('nobody empties it'));
  await assert.rejects(adding, /nobody empties it/);
});

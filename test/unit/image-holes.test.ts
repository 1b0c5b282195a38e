import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { HOLE_BLOCK, Holes } from '../../src/workers/image/holes.ts';

/** The bytes of a file that are written when it comes cut at these places, and whether each byte was written. */
function written(file: Buffer, cuts: readonly number[]): { content: Buffer; touched: Buffer } {
  const content = Buffer.alloc(file.length);
  const touched = Buffer.alloc(file.length);
  let last = 0;
  const holes = new Holes((data, offset) => {
    assert.ok(data.length > 0 && offset >= last, 'in order');
    last = offset + data.length;
    data.copy(content, offset);
    touched.fill(1, offset, last);
  });
  let at = 0;
  for (const cut of [...cuts.map((place) => place % (file.length + 1)).sort((a, b) => a - b), file.length]) {
    holes.add(file.subarray(at, cut), at); // two cuts in one place: an empty piece
    at = cut;
  }
  return { content, touched };
}

test('blocks of zeroes become holes, wherever the file is cut', () => {
  const part = fc.record({ zero: fc.boolean(), length: fc.integer({ min: 1, max: 3 * HOLE_BLOCK }) });
  fc.assert(
    fc.property(fc.array(part, { maxLength: 6 }), fc.array(fc.nat(), { maxLength: 12 }), (parts, cuts) => {
      const file = Buffer.concat(parts.map(({ zero, length }) => Buffer.alloc(length, zero ? 0 : 'x')));
      const { content, touched } = written(file, cuts);
      assert.ok(content.equals(file));
      for (let at = 0; at < file.length; at += HOLE_BLOCK) {
        const block = file.subarray(at, at + HOLE_BLOCK);
        const hole = block.every((byte) => byte === 0);
        assert.ok(
          touched.subarray(at, at + HOLE_BLOCK).every((mark) => mark === (hole ? 0 : 1)),
          `the block at ${at} ${hole ? 'is no hole' : 'has a hole'}`,
        );
      }
    }),
    { numRuns: 300 },
  );
});

test('a file that comes in extents: what lies between them is never written', () => {
  const writes: [number, number][] = [];
  const holes = new Holes((data, offset) => writes.push([offset, offset + data.length]));
  holes.add(Buffer.alloc(4096), 8192); // zeroes, but not from the start of a block
  holes.add(Buffer.alloc(HOLE_BLOCK), 4 * HOLE_BLOCK);
  holes.add(Buffer.from('end'), 6 * HOLE_BLOCK);
  assert.deepEqual(writes, [
    [8192, 12_288],
    [6 * HOLE_BLOCK, 6 * HOLE_BLOCK + 3],
  ]);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import { type TarEntry, TarReader } from '../../src/workers/image/tar.ts';
import { base256, octal, paxRecord, tarball } from '../rig/tarball.ts';

interface Read extends TarEntry {
  content: string;
}

/** All entries of an archive that comes in pieces of `step` bytes, holes filled with zeros. */
function read(archive: Buffer, step = archive.length): Read[] {
  const found: Read[] = [];
  let content = Buffer.alloc(0);
  let current: TarEntry | undefined;
  const reader = new TarReader({
    entry: (entry) => {
      assert.equal(current, undefined, 'an entry begins inside another');
      current = entry;
      content = Buffer.alloc(entry.size);
    },
    data: (piece, offset) => assert.equal(piece.copy(content, offset), piece.length),
    end: () => {
      assert.ok(current);
      found.push({ ...current, content: content.toString('latin1') });
      current = undefined;
    },
  });
  for (let at = 0; at < archive.length; at += step) reader.write(archive.subarray(at, at + step));
  reader.end();
  return found;
}

function one(archive: Buffer): Read {
  const [entry, ...more] = read(archive);
  assert.ok(entry);
  assert.equal(more.length, 0);
  return entry;
}

const time = (seconds: number, nanoseconds = 0) => ({ seconds, nanoseconds });

const refuses = (archive: Buffer, words: RegExp) =>
  assert.throws(
    () => read(archive),
    (error) => error instanceof SluiceError && error.code === 'IMAGE_INVALID' && words.test(error.message),
  );

test('every kind of entry, in pieces of any size', () => {
  const archive = tarball([
    { path: './', kind: 'directory', mode: 0o1777 },
    { path: 'a', content: 'hello', mode: 0o4755, uid: 12, gid: 34, mtime: 1_234_567_890 },
    { path: 'b', kind: 'hardlink', link: 'a', size: 5 },
    { path: 'c', kind: 'symlink', link: '../x' },
    { path: 'd', kind: 'char', major: 1, minor: 3 },
    { path: 'e', kind: 'block', major: 259, minor: 70_000 },
    { path: 'f', kind: 'fifo' },
    { path: 'old/', flag: '\0' },
    { path: 'block', content: 'x'.repeat(512) },
    { path: 'tail', content: 'y'.repeat(513) },
    { path: 'empty' },
  ]);
  for (const step of [1, 7, 511, 512, 513, archive.length]) {
    const entries = read(archive, step);
    assert.deepEqual(
      entries.map(({ path, type, content }) => [path, type, content.length]),
      [
        ['./', 'directory', 0],
        ['a', 'file', 5],
        ['b', 'hardlink', 0],
        ['c', 'symlink', 0],
        ['d', 'char', 0],
        ['e', 'block', 0],
        ['f', 'fifo', 0],
        ['old/', 'directory', 0],
        ['block', 'file', 512],
        ['tail', 'file', 513],
        ['empty', 'file', 0],
      ],
    );
    const [, a, b, c, d, e] = entries;
    assert.deepEqual([a?.mode, a?.uid, a?.gid, a?.mtime, a?.content], [0o4755, 12, 34, time(1_234_567_890), 'hello']);
    assert.deepEqual([b?.link, c?.link], ['a', '../x']);
    assert.deepEqual([d?.major, d?.minor, e?.major, e?.minor], [1, 3, 259, 70_000]);
  }
});

test('long names: GNU, ustar prefix, star prefix, PAX', () => {
  const long = `${'d'.repeat(150)}/${'f'.repeat(150)}`;
  assert.equal(one(tarball([{ path: long }])).path, long);
  assert.equal(one(tarball([{ path: 'l', kind: 'symlink', link: long }])).link, long);
  assert.equal(one(tarball([{ path: 'short', pax: { path: long, linkpath: 'x' } }])).path, long);
  const prefix = (text: string) => (header: Buffer) => void header.write(text, 345, 'latin1');
  assert.equal(one(tarball([{ path: 'name', patch: prefix('some/where') }])).path, 'some/where/name');
  const gnu = (header: Buffer) => void header.write('ustar  \x0000000000001', 257, 'latin1');
  assert.equal(one(tarball([{ path: 'name', patch: gnu }])).path, 'name');
  const star = (header: Buffer) => {
    header.write('p'.repeat(131), 345, 'latin1');
    header.write('00000000000 00000000000 ', 476, 'latin1');
    header.write('tar\0', 508, 'latin1');
  };
  assert.equal(one(tarball([{ path: 'name', patch: star }])).path, `${'p'.repeat(131)}/name`);
});

test('names are bytes', () => {
  const name = Buffer.from([0x66, 0xff, 0xfe, 0xc3, 0x28]);
  assert.equal(one(tarball([{ path: name }])).path, name.toString('latin1'));
  assert.equal(one(tarball([{ path: 'x', pax: { path: name } }])).path, name.toString('latin1'));
});

test('numbers: base-256, negative times, spaces, PAX', () => {
  const big = one(
    tarball([
      {
        path: 'x',
        patch: (header) => {
          base256(header, 108, 8, 3_000_000_000n);
          base256(header, 136, 12, (1n << 95n) - 5n); // two's complement of the 95 bits below the flag: -5
          header[136] = 0xff;
        },
      },
    ]),
  );
  assert.deepEqual([big.uid, big.mtime], [3_000_000_000, time(-5)]);
  const spaces = (header: Buffer) => void header.write('  644 \0', 100, 'latin1');
  assert.equal(one(tarball([{ path: 'x', patch: spaces }])).mode, 0o644);
  const pax = { uid: '70000', gid: '4294967294', mtime: '12.25', atime: '7.5', size: '3' };
  const { uid, gid, mtime, atime, size } = one(tarball([{ path: 'x', content: 'abc', size: 0, pax }]));
  assert.deepEqual(
    [uid, gid, mtime, atime, size],
    [70_000, 4_294_967_294, time(12, 250_000_000), time(7, 500_000_000), 3],
  );
  const mtimeOf = (text: string) => one(tarball([{ path: 'x', pax: { mtime: text } }])).mtime;
  assert.deepEqual(mtimeOf('1700000000.1234567899'), time(1_700_000_000, 123_456_789));
  assert.deepEqual([mtimeOf('-1.25'), mtimeOf('-3'), mtimeOf('4.')], [time(-2, 750_000_000), time(-3), time(4)]);
  refuses(tarball([{ path: 'x', pax: { uid: '4294967295' } }]), /owner 4294967295/);
  refuses(tarball([{ path: 'x', pax: { size: '-1' } }]), /size is -1/);
  refuses(tarball([{ path: 'x', patch: (header) => void header.write('99', 124, 'latin1') }]), /size/);
  refuses(tarball([{ path: 'x', patch: (header) => base256(header, 124, 12, 1n << 70n) }]), /size/);
});

test('PAX values are bytes, an empty value counts as absent, and global headers apply to no entry', () => {
  const capability = Buffer.from([1, 0, 0, 2, 0xff, 0x0a, 0, 0x3d, 0x80]);
  const archive = tarball([
    { path: 'g', flag: 'g', content: Buffer.concat([paxRecord('uid', '7'), paxRecord('comment', 'hi')]) },
    { path: 'a', pax: { 'SCHILY.xattr.security.capability': capability, 'SCHILY.xattr.user.empty': '' } },
    { path: 'b', pax: { uid: '' }, uid: 3 },
    { path: 'c' },
  ]);
  const [a, b, c] = read(archive, 100);
  assert.deepEqual(a?.xattrs, [
    ['security.capability', capability],
    ['user.empty', Buffer.alloc(0)],
  ]);
  assert.deepEqual([a?.uid, b?.uid, c?.uid, c?.xattrs.length], [0, 3, 0, 0]);
});

test('a global header neither names nor links entries, and many of them cost no more than their bytes', () => {
  const names = Buffer.concat([paxRecord('path', 'not-this'), paxRecord('linkpath', 'nor-this')]);
  const filler = Array.from({ length: 20_000 }, (_, index) => paxRecord(`key${index}`, 'x'.repeat(30)));
  const one = tarball([{ path: 'g', flag: 'g', content: names }]).subarray(0, -1024);
  const large = tarball([{ path: 'g', flag: 'g', content: Buffer.concat(filler) }]).subarray(0, -1024);
  const entries = Array.from({ length: 3000 }, (_, index) => ({ path: `f${index}` }));
  const began = performance.now();
  const found = read(Buffer.concat([one, ...Array<Buffer>(20).fill(large), tarball(entries)]), 100_000);
  assert.deepEqual([found.length, found[0]?.path, found[0]?.link], [3000, 'f0', '']);
  // When they accumulated, each entry took as long as all of the records before it: 65 ms for 1 MiB of them.
  assert.ok(performance.now() - began < 10_000);
});

test('broken PAX headers', () => {
  for (const content of ['x', '5 a=b\n', '6 ab\n', '99999 a=b\n', '0 a=b\n', '-1 a=b\n', '5 =b\n\n', '6 a=bc']) {
    refuses(tarball([{ path: 'h', flag: 'x', content }, { path: 'x' }]), /PAX/);
  }
  refuses(tarball([{ path: 'x', pax: { path: 'a\0b' } }]), /zero byte/);
  refuses(tarball([{ path: 'x', pax: { mtime: 'soon' } }]), /mtime/);
  refuses(tarball([{ path: 'h', flag: 'x', size: 64 << 20 }]), /67108864 bytes/);
});

const SPARSE = '\0'.repeat(1000) + 'A'.repeat(600) + '\0'.repeat(400) + 'B'.repeat(10) + '\0'.repeat(90);
const PIECES = 'A'.repeat(600) + 'B'.repeat(10);

test('sparse files: old GNU, with more pieces than the header holds', () => {
  const few = (header: Buffer) => {
    header.write('ustar  \0', 257, 'latin1');
    for (const [i, value] of [1000, 600, 2000, 10].entries()) octal(header, 386 + 12 * i, 12, value);
    octal(header, 483, 12, 2100);
  };
  assert.equal(one(tarball([{ path: 's', flag: 'S', content: PIECES, patch: few }])).content, SPARSE);

  // One byte in every ten: 4 pieces in the header, 21 in the first block behind it, 5 in the second.
  const offsets = Array.from({ length: 30 }, (_, i) => i * 10);
  const extra = Buffer.alloc(1024);
  const many = (header: Buffer) => {
    header.write('ustar  \0', 257, 'latin1');
    offsets.forEach((offset, i) => {
      const [block, at] =
        i < 4 ? [header, 386 + 24 * i] : i < 25 ? [extra, 24 * (i - 4)] : [extra, 512 + 24 * (i - 25)];
      octal(block, at, 12, offset);
      octal(block, at + 12, 12, 1);
    });
    header[482] = 1;
    extra[504] = 1;
    octal(header, 483, 12, 300);
  };
  const entry = { path: 's', flag: 'S', content: '#'.repeat(30), patch: many };
  many(Buffer.alloc(512)); // fills `extra`, which is copied before the header is made
  for (const step of [1, 512, 4096]) {
    const [found, next] = read(tarball([{ ...entry, extra }, { path: 'next' }]), step);
    assert.equal(found?.content, `#${'\0'.repeat(9)}`.repeat(30));
    assert.equal(next?.path, 'next');
  }
});

test('sparse files: PAX 0.0, 0.1 and 1.0', () => {
  const v00: [string, string][] = [
    ['GNU.sparse.size', '2100'],
    ['GNU.sparse.numblocks', '2'],
    ['GNU.sparse.offset', '1000'],
    ['GNU.sparse.numbytes', '600'],
    ['GNU.sparse.offset', '2000'],
    ['GNU.sparse.numbytes', '10'],
  ];
  assert.equal(one(tarball([{ path: 's', content: PIECES, pax: v00 }])).content, SPARSE);
  const v01 = { 'GNU.sparse.size': '2100', 'GNU.sparse.map': '1000,600,2000,10', 'GNU.sparse.name': 'real/name' };
  const second = one(tarball([{ path: 's', content: PIECES, pax: v01 }]));
  assert.deepEqual([second.path, second.content], ['real/name', SPARSE]);
  const v10 = {
    'GNU.sparse.major': '1',
    'GNU.sparse.minor': '0',
    'GNU.sparse.name': 'n',
    'GNU.sparse.realsize': '2100',
  };
  const map = Buffer.alloc(512);
  map.write('2\n1000\n600\n2000\n10\n');
  const content = Buffer.concat([map, Buffer.from(PIECES)]);
  for (const step of [1, 1000, 8192]) {
    const [found, next] = read(tarball([{ path: 's', content, pax: v10 }, { path: 'next' }]), step);
    assert.deepEqual([found?.path, found?.content, next?.path], ['n', SPARSE, 'next']);
  }
  const holes = { 'GNU.sparse.size': '70', 'GNU.sparse.numblocks': '0' };
  assert.equal(one(tarball([{ path: 's', pax: holes }])).content, '\0'.repeat(70));
  for (const bad of ['1000,600,1500,10', '1000,600,2000,9', '1000,600,2095,10', '1000,600,2000', 'x,600,2000,10']) {
    refuses(tarball([{ path: 's', content: PIECES, pax: { ...v01, 'GNU.sparse.map': bad } }]), /sparse/);
  }
  refuses(tarball([{ path: 's', content: Buffer.alloc(512, '9'), pax: v10 }]), /sparse/);
});

test('damage is told: checksum, cut archives, unknown types, a lone zero block', () => {
  const archive = tarball([{ path: 'file', content: 'z'.repeat(1000) }]);
  const flipped = Buffer.from(archive);
  flipped[3] = 0x41;
  refuses(flipped, /checksum/);
  refuses(archive.subarray(0, 100), /ends inside a header/);
  refuses(archive.subarray(0, 1500), /ends inside file, 12 bytes early/);
  refuses(tarball([{ path: 'h', flag: 'x', content: paxRecord('uid', '1') }], { end: false }), /ends inside a header/);
  for (const flag of ['x', 'g', 'L', 'K']) {
    const header = tarball([{ path: 'h', flag, content: paxRecord('uid', '1') }], { end: false });
    refuses(header.subarray(0, 600), /ends inside a header/);
  }
  refuses(tarball([{ path: 'x', flag: 'Z' }]), /unhandled tar header type "Z"/);
  refuses(Buffer.concat([Buffer.alloc(512), archive]), /lone zero block/);
  refuses(Buffer.from('this is no archive at all, but long enough for a header'.repeat(10)), /checksum|tar header/);
});

test('the end: missing marker and padding are fine, what follows the marker is not looked at', () => {
  const entry = { path: 'file', content: 'abc' };
  assert.equal(one(tarball([entry], { end: false })).content, 'abc');
  assert.equal(one(tarball([entry], { end: false }).subarray(0, 515)).content, 'abc');
  assert.equal(one(Buffer.concat([tarball([entry]), Buffer.from('rubbish')])).content, 'abc');
  assert.equal(one(Buffer.concat([tarball([entry], { end: false }), Buffer.alloc(512)])).content, 'abc');
  assert.deepEqual(read(Buffer.alloc(1024)), []);
  assert.deepEqual(read(Buffer.alloc(0), 1), []);
  const label = { path: 'backup of monday', flag: 'V' };
  assert.equal(one(tarball([label, entry])).path, 'file');
});

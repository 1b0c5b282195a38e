/**
 * The image worker's handlers against a small registry of our own that can misbehave, compared with what GNU tar does.
 * As root.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  type Stats,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, createServer as createNetServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { type ErrorCode, explain, SluiceError } from '../../src/errors.ts';
import { libc } from '../../src/sys/libc.ts';
import { mount, unmount } from '../../src/sys/mount.ts';
import type { BlobSource } from '../../src/workers/image/blob-source.ts';
import type { FetchLayer } from '../../src/workers/image/fetch-layer.ts';
import { handlers } from '../../src/workers/image.ts';
import { privateFolder } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { type TarballEntry, tarball } from '../rig/tarball.ts';

type Serve = (request: IncomingMessage, response: ServerResponse, blob: Buffer) => void;

const folder = privateFolder('layers');
const dir = join(folder, 'layers', 'one');
const fs = join(dir, 'fs');
const send: Serve = (_request, response, blob) => {
  response.setHeader('content-length', blob.length);
  response.end(blob);
};
let blob: Buffer = Buffer.alloc(0);
let serve = send;
let asked: IncomingMessage[] = [];
const server = createServer((request, response) => {
  asked.push(request);
  serve(request, response, blob);
});
let port = 0;

before(async () => {
  mkdirSync(join(folder, 'layers'));
  await new Promise<void>((resolve) => server.listen(0, '0.0.0.0', resolve));
  port = (server.address() as AddressInfo).port;
});
beforeEach(() => {
  rmSync(dir, { recursive: true, force: true });
  asked = [];
  serve = send;
});
after(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

const sha256 = (data: Buffer) => `sha256:${createHash('sha256').update(data).digest('hex')}`;

/** The fake registry, as a worker gets it from main. */
function source(change: Partial<BlobSource> = {}): BlobSource {
  const origin = `http://127.0.0.1:${port}`;
  return {
    url: `${origin}/v2/repo/blobs/x`,
    headers: { accept: '*/*', 'x-key': 'secret too' },
    authorizations: { [origin]: 'Bearer secret' },
    tls: {},
    dialTimeoutMs: 5000,
    ...change,
  };
}

/** Has the registry offer `archive` as `compressed`, and fetches it. */
function fetch(archive: Buffer, compressed = archive, change: Partial<FetchLayer> = {}) {
  blob = compressed;
  return handlers.fetchLayer({
    source: source(),
    digest: sha256(compressed),
    size: compressed.length,
    diffId: sha256(archive),
    mediaType: 'application/vnd.oci.image.layer.v1.tar',
    dir,
    progressTimeoutMs: 5000,
    retryDelayMs: 5,
    ...change,
  });
}

const unpack = (entries: readonly TarballEntry[], change: Partial<FetchLayer> = {}) =>
  fetch(tarball(entries), undefined, change);

/** It fails with this code and words, and nothing at all is left. */
async function fails(work: Promise<unknown>, code: ErrorCode, words: RegExp): Promise<SluiceError> {
  const error = await work.then(
    () => assert.fail('it worked'),
    (reason) => reason,
  );
  assert.ok(error instanceof SluiceError, String(error));
  assert.equal(error.code, code, explain(error));
  assert.match(explain(error), words);
  assert.deepEqual(readdirSync(join(folder, 'layers')), []);
  return error;
}

function xattr(path: string, name: string): string | undefined {
  const value = Buffer.alloc(256);
  const length = Number(libc.lgetxattr(path, name, value, value.length));
  return length < 0 ? undefined : value.toString('hex', 0, length);
}

function setXattr(path: string, name: string, value: Buffer): void {
  assert.equal(libc.lsetxattr(path, name, value, value.length, 0), 0, name);
}

const CAPABILITY = Buffer.from('0100000200040000000000000000000000000000', 'hex'); // cap_net_bind_service+ep

/** Everything that a layer keeps, of a tree and all in it. */
function listing(root: string, below = ''): Record<string, unknown> {
  const path = join(root, below);
  const stats = lstatSync(path);
  const found: Record<string, unknown> = { [below]: facts(path, stats) };
  if (stats.isDirectory()) for (const name of readdirSync(path)) Object.assign(found, listing(root, join(below, name)));
  return found;
}

function facts(path: string, stats: Stats): unknown {
  const { mode, uid, gid, rdev, nlink } = stats;
  return {
    mode: mode.toString(8),
    uid,
    gid,
    rdev,
    mtime: lstatSync(path, { bigint: true }).mtimeNs,
    nlink,
    size: stats.isDirectory() ? 0 : stats.size,
    holes: stats.isFile() && stats.blocks * 512 < stats.size,
    link: stats.isSymbolicLink() ? readlinkSync(path) : undefined,
    content: stats.isFile() ? sha256(readFileSync(path)) : undefined,
    user: xattr(path, 'user.note'),
    capability: xattr(path, 'security.capability'),
  };
}

async function everything(root: string): Promise<void> {
  const at = (path: string) => join(root, path);
  mkdirSync(at('usr/bin'), { recursive: true });
  mkdirSync(at(`deep/${'d'.repeat(90)}/${'e'.repeat(90)}/${'f'.repeat(90)}`), { recursive: true });
  mkdirSync(at('tmp'));
  writeFileSync(at('usr/bin/passwd'), randomBytes(70_000));
  chownSync(at('usr/bin/passwd'), 0, 12);
  chmodSync(at('usr/bin/passwd'), 0o6755);
  writeFileSync(at('usr/bin/ping'), 'ping');
  setXattr(at('usr/bin/ping'), 'security.capability', CAPABILITY);
  setXattr(at('usr/bin/ping'), 'user.note', Buffer.from([0, 0x3d, 0x0a, 0xff]));
  linkSync(at('usr/bin/ping'), at('usr/ping6'));
  linkSync(at('usr/bin/ping'), at('deep/ping'));
  symlinkSync('usr/bin', at('bin'));
  symlinkSync('/etc/../../nowhere', at('broken'));
  symlinkSync(`/${'long/'.repeat(50)}x`, at('longlink'));
  linkSync(at('broken'), at('broken-too'));
  await run('mknod', [at('null'), 'c', '1', '3']);
  await run('mknod', [at('disk'), 'b', '259', '70000']);
  await run('mkfifo', ['-m', '0622', at('pipe')]);
  writeFileSync(at(`deep/${'d'.repeat(90)}/${'e'.repeat(90)}/${'f'.repeat(90)}/file`), 'far down');
  writeFileSync(at('Grüße'), 'hallo');
  writeFileSync(at('empty'), '');
  writeFileSync(at('sparse'), 'start');
  truncateSync(at('sparse'), 3 << 20);
  await run('dd', ['if=/dev/urandom', `of=${at('sparse')}`, 'bs=4096', 'count=3', 'seek=100', 'conv=notrunc']);
  for (let i = 0; i < 40; i++) {
    await run('dd', ['if=/dev/urandom', `of=${at('holes')}`, 'bs=4096', 'count=1', `seek=${4 * i}`, 'conv=notrunc']);
  }
  truncateSync(at('holes'), 1 << 20);
  chownSync(at('empty'), 3_000_000, 3_000_001);
  chmodSync(at('tmp'), 0o1777);
  setXattr(at('tmp'), 'user.note', Buffer.from('dir'));
  lutimesSync(at('bin'), 1_500_000_000, 1_500_000_000);
  utimesSync(at('tmp'), 1_400_000_000.5, 1_400_000_000.25);
  utimesSync(at('usr'), 1_300_000_000, 1_300_000_000);
}

test('a layer made by GNU tar comes out as GNU tar unpacks it', async () => {
  const source = join(folder, 'source');
  await everything(source);
  const formats = [
    ['gnu', ['--format=gnu', '--sparse']],
    ['pax 1.0', ['--format=posix', '--sparse', '--xattrs', '--xattrs-include=*']],
    ['pax 0.1', ['--format=posix', '--sparse', '--sparse-version=0.1', '--xattrs', '--xattrs-include=*']],
    ['pax 0.0', ['--format=posix', '--sparse', '--sparse-version=0.0']],
    ['numbers only', ['--format=posix', '--numeric-owner']],
  ] as const;
  for (const [name, options] of formats) {
    const file = join(folder, 'made.tar');
    const expected = join(folder, 'expected');
    await run('tar', [...options, '-C', source, '-cf', file, '.']);
    mkdirSync(expected);
    await run('tar', ['--xattrs', '--xattrs-include=*', '--same-owner', '-p', '-C', expected, '-xf', file]);
    const archive = readFileSync(file);
    const compressed = name === 'gnu' ? gzipSync(archive) : name === 'pax 1.0' ? zstdCompressSync(archive) : archive;
    const { growsWhenWritten } = await fetch(archive, compressed);
    const wanted = listing(expected);
    // Zeroes that the archive has in full become holes here, and not where GNU tar unpacks them.
    for (const path of ['sparse', 'holes']) Object.assign(wanted[path] ?? {}, { holes: true });
    assert.deepEqual(listing(fs), wanted, name);
    assert.equal(lstatSync(join(fs, 'sparse')).size, 3 << 20);
    assert.ok(lstatSync(join(fs, 'sparse')).blocks * 512 < 1 << 20, `${name}: no holes`);
    const du = async (...what: string[]) => Number((await run('du', ['-s', ...what, dir])).stdout.split('\t')[0]);
    // A sparse file gets blocks for its extents when it is written.
    assert.equal(growsWhenWritten, true);
    await run('sync', ['-f', dir]);
    const [bytes, inodes] = [await du('-B1'), await du('--inodes')];
    assert.deepEqual(await handlers.measure({ dir }), { bytes, inodes }, name);
    await handlers.removeLayer({ dir });
    assert.deepEqual(readdirSync(join(folder, 'layers')), []);
    rmSync(expected, { recursive: true });
  }
});

test('names that are no UTF-8', async () => {
  const odd = Buffer.from([0xff, 0xfe, 0x2e, 0xe9]);
  await unpack([
    { path: Buffer.concat([odd, Buffer.from('/')]), kind: 'directory' },
    { path: Buffer.concat([odd, Buffer.from('/file')]), content: 'x', pax: { 'SCHILY.xattr.user.note': 'n' } },
    { path: 'link', kind: 'symlink', link: Buffer.concat([odd, Buffer.from('/file')]) },
    { path: Buffer.concat([Buffer.from('dev'), odd]), kind: 'char', major: 1, minor: 3 },
    { path: Buffer.concat([odd, Buffer.from('/.wh.'), odd]) },
  ]);
  const names = readdirSync(fs, { encoding: 'latin1' }).sort();
  assert.deepEqual(names, [`dev${odd.toString('latin1')}`, 'link', odd.toString('latin1')].sort());
  assert.equal(readFileSync(join(fs, 'link'), 'utf8'), 'x');
  assert.equal(handlers.readFileInLayers({ dirs: [fs], path: '/link', maxBytes: 10 }), 'x');
  await handlers.removeLayer({ dir });
  assert.equal(existsSync(dir), false);
});

test('nothing leads out of the layer', async () => {
  const outside = join(folder, 'outside');
  mkdirSync(outside);
  writeFileSync(join(outside, 'victim'), 'safe');
  const away = '../'.repeat(30);
  await unpack([
    { path: '../../escape', content: '1' },
    { path: '/absolute', content: '2' },
    { path: 'a/../../b', content: '3' },
    { path: 'out', kind: 'symlink', link: outside },
    { path: 'out/victim', content: 'hit' },
    { path: 'up', kind: 'symlink', link: `${away}${outside.slice(1)}` },
    { path: 'up/victim', content: 'hit' },
    { path: 'file', kind: 'symlink', link: join(outside, 'victim') },
    { path: 'file', content: 'replaced' },
    { path: 'late', kind: 'directory' },
    { path: 'late/x', content: 'x' },
    { path: 'late', kind: 'symlink', link: outside },
    { path: 'late/victim', content: 'hit' },
    { path: 'out/.wh.victim2' },
    { path: 'hard', kind: 'hardlink', link: '../../../absolute' },
    { path: 'through', kind: 'symlink', link: join(outside, 'victim') },
    { path: 'hard2', kind: 'hardlink', link: 'through' },
    { path: 'hard2-perm', kind: 'symlink', link: join(outside, 'victim'), mode: 0o777, uid: 99 },
  ]);
  assert.deepEqual(readdirSync(outside), ['victim']);
  assert.equal(readFileSync(join(outside, 'victim'), 'utf8'), 'safe');
  assert.equal(lstatSync(join(outside, 'victim')).uid, 0);
  const inside = (path: string) => readFileSync(join(fs, path), 'utf8');
  assert.deepEqual(['escape', 'absolute', 'b', 'hard', 'file'].map(inside), ['1', '2', '3', '2', 'replaced']);
  assert.equal(readFileSync(join(fs, outside, 'victim'), 'utf8'), 'hit');
  assert.equal(readlinkSync(join(fs, 'hard2')), join(outside, 'victim'));
  assert.deepEqual(readdirSync(folder).includes('escape'), false);
  rmSync(outside, { recursive: true });

  await handlers.removeLayer({ dir });
  const linkOut: TarballEntry[] = [{ path: 'x', kind: 'hardlink', link: '/etc/hostname' }];
  const out = await unpack(linkOut);
  assert.deepEqual(
    out.lowerLinks.map(({ target }) => target),
    ['etc/hostname'],
    'a name of the image, in a layer below if anywhere',
  );
  const { lowerLinks: links } = out;
  assert.throws(() => handlers.inheritAttributes({ dir, folders: [], links, parentDirs: [] }), {
    code: 'IMAGE_INVALID',
    message: /hard link to etc\/hostname, which neither the layer nor those below have/,
  });
  await handlers.removeLayer({ dir });
  const circle: TarballEntry[] = [
    { path: 'a', kind: 'symlink', link: 'b' },
    { path: 'b', kind: 'symlink', link: 'a' },
    { path: 'a/x', content: 'x' },
  ];
  await fails(unpack(circle), 'IMAGE_INVALID', /too many symbolic links/);
  await fails(unpack([{ path: 'f' }, { path: 'f/x' }]), 'IMAGE_INVALID', /f must be a folder and is something else/);
  await fails(unpack([{ path: '..', kind: 'symlink', link: 'x' }]), 'IMAGE_INVALID', /root of the layer is a symlink/);
  await fails(unpack([{ path: 'x'.repeat(300) }]), 'IMAGE_INVALID', /name too long/);
});

const DEVICE_0 = { device: true, rdev: 0 };
const device = (path: string) => {
  const stats = lstatSync(join(fs, path));
  return { device: stats.isCharacterDevice(), rdev: stats.rdev };
};
const opaque = (path: string) => xattr(join(fs, path), 'trusted.overlay.opaque') === Buffer.from('y').toString('hex');

test('attributes that only files and folders can have are passed over elsewhere', async () => {
  const pax = { 'SCHILY.xattr.user.note': 'n' };
  await unpack([
    { path: 'file', pax },
    { path: 'dir/', kind: 'directory', pax },
    { path: 'link', kind: 'symlink', link: 'file', pax },
    { path: 'pipe', kind: 'fifo', pax },
    { path: 'null', kind: 'char', major: 1, minor: 3, pax },
  ]);
  const note = (path: string) => xattr(join(fs, path), 'user.note');
  assert.deepEqual(['file', 'dir'].map(note), ['6e', '6e']);
  assert.deepEqual(['link', 'pipe', 'null'].map(note), [undefined, undefined, undefined]);
});

test('whiteouts and opaque folders, and that they leave alone what the layer itself brings', async () => {
  await unpack([
    { path: 'a/.wh.gone' },
    { path: 'b/', kind: 'directory' },
    { path: 'b/.wh..wh..opq' },
    { path: 'b/kept', content: 'k' },
    { path: 'c/kept', content: 'k' },
    { path: 'c/.wh.kept' }, // only of the layers below
    { path: 'd/inside', content: 'i' },
    { path: '.wh.d' },
    { path: '.wh.e' },
    { path: 'e/', kind: 'directory' },
    { path: '.wh.f' },
    { path: 'f/new', content: 'n' },
    { path: '.wh.g' },
    { path: 'g', content: 'file' },
    { path: '.wh..wh.plnk/', kind: 'directory' },
    { path: '.wh..wh.plnk/1.2', content: 'aufs' },
    { path: '.wh..wh.aufs', content: 'aufs' },
    { path: 'h/', kind: 'directory', pax: { 'SCHILY.xattr.trusted.overlay.opaque': 'y' } },
  ]);
  assert.deepEqual([device('a/gone'), device('c/kept').device], [DEVICE_0, false]);
  assert.deepEqual(['a', 'b', 'd', 'e', 'f', 'h'].map(opaque), [false, true, true, true, true, false]);
  assert.equal(readFileSync(join(fs, 'g'), 'utf8'), 'file');
  assert.deepEqual(readdirSync(fs).sort(), ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']);
  await handlers.removeLayer({ dir });
  await fails(unpack([{ path: 'x/.wh.' }]), 'IMAGE_INVALID', /whiteout of ""/);
  await fails(unpack([{ path: 'x/.wh...' }]), 'IMAGE_INVALID', /whiteout of "\.\."/);
});

test('later entries replace earlier ones of any kind', async () => {
  await unpack([
    { path: 'a', content: 'file' },
    { path: 'a/', kind: 'directory', mtime: 5 },
    { path: 'b/', kind: 'directory' },
    { path: 'b/deep/er', content: 'x' },
    { path: 'b', content: 'file' },
    { path: 'c', content: 'one', mode: 0o600 },
    { path: 'd', kind: 'hardlink', link: 'c' },
    { path: 'c', content: 'two' },
    { path: 'd', kind: 'hardlink', link: 'd' },
    { path: 'e/', kind: 'directory', mode: 0o700 },
    { path: 'e/x', content: 'x' },
    { path: 'e/', kind: 'directory', mode: 0o750, mtime: 7 },
    { path: 'l', kind: 'symlink', link: 'e' },
    { path: 'l/y', content: 'y' },
    { path: 'l', kind: 'symlink', link: 'a' },
    { path: 'l/z', content: 'z' },
    { path: 'l', kind: 'fifo' },
  ]);
  const text = (path: string) => readFileSync(join(fs, path), 'utf8');
  assert.deepEqual(['b', 'c', 'd', 'e/x', 'e/y', 'a/z'].map(text), ['file', 'two', 'one', 'x', 'y', 'z']);
  assert.equal(lstatSync(join(fs, 'e')).mode & 0o777, 0o750);
  assert.deepEqual([lstatSync(join(fs, 'a')).mtimeMs, lstatSync(join(fs, 'e')).mtimeMs], [5000, 7000]);
  assert.ok(lstatSync(join(fs, 'l')).isFIFO());
});

test('times are kept to the nanosecond', async () => {
  const pax = { mtime: '1700000000.123456789', atime: '1600000000.987654321' };
  await unpack([
    { path: 'dir/', kind: 'directory', pax },
    { path: 'dir/file', content: 'x', pax },
    { path: 'dir/link', kind: 'symlink', link: 'x', pax },
    { path: 'old', pax: { mtime: '-5.5' } },
  ]);
  for (const path of ['dir', 'dir/file', 'dir/link']) {
    const { mtimeNs, atimeNs } = lstatSync(join(fs, path), { bigint: true });
    assert.equal(mtimeNs, 1_700_000_000_123_456_789n, path);
    // A folder has been read since, to measure it.
    if (path !== 'dir') assert.equal(atimeNs, 1_600_000_000_987_654_321n, path);
  }
  assert.equal(lstatSync(join(fs, 'old')).mtimeMs, 0);
});

test('folders that the archive does not bring are as the layers below have them', async () => {
  const below = join(folder, 'below');
  const lowest = join(folder, 'lowest');
  mkdirSync(join(below, 'home/me'), { recursive: true });
  mkdirSync(join(lowest, 'tmp'), { recursive: true });
  mkdirSync(join(lowest, 'home'), { recursive: true });
  chownSync(join(below, 'home/me'), 1000, 1001);
  chmodSync(join(below, 'home/me'), 0o2750);
  chmodSync(join(lowest, 'home'), 0o700);
  chmodSync(join(lowest, 'tmp'), 0o1777);
  const old = process.umask(0o077);
  try {
    const parentDirs = [below, join(folder, 'not-there'), lowest];
    const { implied } = await unpack([{ path: 'home/me/x' }, { path: 'tmp/x' }, { path: 'new/er/x' }]);
    assert.deepEqual(implied, ['home', 'home/me', 'tmp', 'new', 'new/er']);
    handlers.inheritAttributes({ dir, folders: implied, parentDirs });
  } finally {
    process.umask(old);
  }
  const has = (path: string) => {
    const { mode, uid, gid } = lstatSync(join(fs, path));
    return [(mode & 0o7777).toString(8), uid, gid];
  };
  assert.deepEqual(has('home/me'), ['2750', 1000, 1001]);
  assert.deepEqual(has('home'), ['755', 0, 0]);
  assert.deepEqual(has('tmp'), ['1777', 0, 0]);
  assert.deepEqual(
    [has('new'), has('new/er'), has('')],
    [
      ['755', 0, 0],
      ['755', 0, 0],
      ['755', 0, 0],
    ],
  );
});

test('wrong digests, sizes and archives leave nothing and say what was seen', async () => {
  const archive = tarball([{ path: 'file', content: randomBytes(200_000) }]);
  const zipped = gzipSync(archive);
  const other = `sha256:${'0'.repeat(64)}`;
  await fails(
    fetch(archive, zipped, { digest: other }),
    'IMAGE_INVALID',
    /digest should be sha256:0{64} and is sha256:/,
  );
  await fails(
    fetch(archive, zipped, { diffId: other }),
    'IMAGE_INVALID',
    /diffID should be sha256:0{64} and is sha256:/,
  );
  await fails(fetch(archive, zipped, { digest: 'md5:00' }), 'IMAGE_INVALID', /md5:00 is not a sha256 or sha512 digest/);
  await fails(fetch(archive, zipped, { size: 1000 }), 'IMAGE_INVALID', /has \d+ bytes, its descriptor says 1000/);
  await fails(
    fetch(archive, zipped, { size: 1 << 30 }),
    'IMAGE_INVALID',
    /has \d+ bytes, its descriptor says 1073741824/,
  );
  serve = (_request, response) => {
    response.write(blob.subarray(0, 500)); // chunked: the length is not known before
    response.end(blob.subarray(500));
  };
  await fails(fetch(archive, zipped, { size: 1000 }), 'IMAGE_INVALID', /more than the 1000 bytes/);
  await fails(
    fetch(archive, zipped, { size: 1 << 30 }),
    'IMAGE_INVALID',
    /has \d+ bytes, its descriptor says 1073741824/,
  );
  serve = send;
  const cut = archive.subarray(0, 100_000);
  await fails(fetch(cut), 'IMAGE_INVALID', /tar archive ends inside file, 100\d+ bytes early/);
  await fails(fetch(archive, zipped.subarray(0, 50_000)), 'IMAGE_INVALID', /gzip stream is broken or ends early/);
  await fails(fetch(archive, zstdCompressSync(archive).subarray(0, 50_000)), 'IMAGE_INVALID', /zstd stream/);
  await fails(fetch(Buffer.from('no archive'.repeat(100))), 'IMAGE_INVALID', /tar header/);
  await fails(unpack([{ path: 'x', kind: 'fifo', flag: 'Z' }]), 'IMAGE_INVALID', /unhandled tar header type/);
});

test('only folders that no entry brings take anything from below', async () => {
  const below = join(folder, 'later');
  const entries = [
    { path: 'tmp/x' },
    { path: 'known/y' },
    { path: 'known/', kind: 'directory' as const },
    { path: 'new/z' },
  ];
  const { implied } = await unpack(entries);
  assert.deepEqual(implied, ['tmp', 'new']);
  mkdirSync(join(below, 'tmp'), { recursive: true });
  mkdirSync(join(below, 'known'), { mode: 0o700 });
  chmodSync(join(below, 'tmp'), 0o1777);
  chownSync(join(below, 'tmp'), 5, 6);
  handlers.inheritAttributes({ dir, folders: implied, parentDirs: [below] });
  const has = (path: string) => [lstatSync(join(fs, path)).mode & 0o7777, lstatSync(join(fs, path)).uid];
  assert.deepEqual(has('tmp'), [0o1777, 5]);
  assert.deepEqual(has('new'), [0o755, 0]);
  assert.deepEqual(has('known'), [0o755, 0]);
});

test('many zstd frames, many gzip members, and an empty layer', async () => {
  const archive = tarball(Array.from({ length: 50 }, (_, i) => ({ path: `f${i}`, content: randomBytes(3000) })));
  const parts = [archive.subarray(0, 5000), archive.subarray(5000, 6000), archive.subarray(6000)];
  for (const compress of [zstdCompressSync, gzipSync]) {
    await fetch(archive, Buffer.concat(parts.map((part) => compress(part))));
    assert.equal(readdirSync(fs).length, 50);
    await handlers.removeLayer({ dir });
  }
  await fetch(Buffer.alloc(1024), gzipSync(Buffer.alloc(1024)));
  assert.deepEqual(readdirSync(fs), []);
});

test('a layer that somebody else has finished meanwhile stays', async () => {
  await unpack([{ path: 'first' }]);
  await unpack([{ path: 'second' }]);
  assert.deepEqual(readdirSync(fs), ['first']);
  assert.deepEqual(readdirSync(join(folder, 'layers')), ['one']);
});

test('redirects are followed, and secrets stay with their host', async () => {
  const archive = tarball([{ path: 'x' }]);
  let hops = 0;
  serve = (request, response) => {
    if (request.url?.startsWith('/v2/')) {
      response.writeHead(307, { location: '/same-host' }).end();
    } else if (request.url === '/same-host') {
      response.writeHead(302, { location: `http://127.0.0.2:${port}/cdn?sig=1` }).end();
    } else send(request, response, blob);
  };
  await fetch(archive);
  const secrets = asked.map(({ url, headers }) => [url, headers.authorization, headers['x-key'], headers.accept]);
  assert.deepEqual(secrets, [
    ['/v2/repo/blobs/x', 'Bearer secret', 'secret too', '*/*'],
    ['/same-host', 'Bearer secret', 'secret too', '*/*'],
    ['/cdn?sig=1', undefined, undefined, '*/*'],
  ]);

  await handlers.removeLayer({ dir });
  serve = (_request, response) => response.writeHead(301, { location: `/again${hops++}` }).end();
  await fails(fetch(archive), 'REGISTRY_UNAVAILABLE', / redirects more than 10 times/);
  assert.equal(hops, 11);
  serve = (_request, response) => response.writeHead(301, { location: 'file:///etc/passwd' }).end();
  await fails(fetch(archive), 'REGISTRY_UNAVAILABLE', /redirects to file:/);
});

test('TLS: authorities, client certificates, and what is not trusted is not tried twice', async () => {
  const openssl = (...args: string[]) => run('openssl', args, { cwd: folder });
  const names = ['-addext', 'subjectAltName=IP:127.0.0.1'];
  const key = (who: string) => [
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-keyout',
    `${who}.key`,
  ];
  for (const who of ['server', 'client', 'root']) {
    const subject = ['-days', '2', '-subj', `/CN=${who}`, ...(who === 'root' ? [] : names)];
    await openssl('req', '-x509', ...key(who), '-out', `${who}.crt`, ...subject);
  }
  writeFileSync(join(folder, 'ca.ext'), 'basicConstraints=critical,CA:TRUE\n');
  writeFileSync(join(folder, 'leaf.ext'), 'subjectAltName=IP:127.0.0.1\n');
  for (const [who, by, extensions] of [
    ['between', 'root', 'ca.ext'],
    ['leaf', 'between', 'leaf.ext'],
  ] as const) {
    await openssl('req', ...key(who), '-out', `${who}.csr`, '-subj', `/CN=${who}`);
    const signer = ['-CA', `${by}.crt`, '-CAkey', `${by}.key`, '-CAcreateserial', '-extfile', extensions];
    await openssl('x509', '-req', '-days', '2', '-in', `${who}.csr`, ...signer, '-out', `${who}.crt`);
  }
  const pem = (name: string) => readFileSync(join(folder, name), 'utf8');
  const seen: unknown[] = [];
  const secure = createTlsServer(
    {
      key: pem('server.key'),
      cert: pem('server.crt'),
      ca: pem('client.crt'),
      requestCert: true,
      rejectUnauthorized: false,
    },
    (request, response) => {
      seen.push((request.socket as TLSSocket).authorized);
      send(request, response, blob);
    },
  );
  await new Promise<void>((resolve) => secure.listen(0, '127.0.0.1', resolve));
  try {
    const url = `https://127.0.0.1:${(secure.address() as AddressInfo).port}/x`;
    const archive = tarball([{ path: 'x' }]);
    const began = performance.now();
    await fails(fetch(archive, archive, { source: source({ url }) }), 'REGISTRY_UNAVAILABLE', /self-signed/);
    assert.ok(performance.now() - began < 2000);
    await fetch(archive, archive, { source: source({ url, tls: { rejectUnauthorized: false } }) });
    await fetch(archive, archive, { source: source({ url, tls: { ca: [pem('server.crt')] } }) });
    const client = { ca: [pem('server.crt')], cert: pem('client.crt'), key: pem('client.key') };
    await fetch(archive, archive, { source: source({ url, tls: client }) });
    assert.deepEqual(seen, [false, false, true]);
    await handlers.removeLayer({ dir });
    await fails(
      fetch(archive, archive, { source: source({ url, tls: { cert: 'nonsense' } }) }),
      'CONFIG_INVALID',
      /certificates cannot be used/,
    );
    // As in Go, an authority need not be a root: one in between is enough, or the server's own certificate.
    secure.setSecureContext({ key: pem('leaf.key'), cert: pem('leaf.crt') });
    await fails(
      fetch(archive, archive, { source: source({ url, tls: { ca: [pem('root.crt')] } }) }),
      'REGISTRY_UNAVAILABLE',
      /unable to get local issuer certificate$/,
    );
    for (const ca of ['between.crt', 'leaf.crt']) {
      await fetch(archive, archive, { source: source({ url, tls: { ca: [pem(ca)] } }) });
      await handlers.removeLayer({ dir });
    }
  } finally {
    secure.closeAllConnections();
    secure.close();
  }
});

test('refusals: 401 with its challenge, 403, 404, and the registry’s own words', async () => {
  const archive = tarball([{ path: 'x' }]);
  const refuse = (status: number, headers = {}) => {
    serve = (_request, response) => {
      response.writeHead(status, headers);
      response.end(JSON.stringify({ errors: [{ code: 'OOPS', message: 'my words' }] }));
    };
  };
  refuse(401, { 'www-authenticate': 'Bearer realm="https://auth"' });
  const denied = await fails(fetch(archive), 'REGISTRY_DENIED', /answers 401: OOPS: my words/);
  assert.deepEqual(denied.details, { status: 401, challenge: 'Bearer realm="https://auth"', url: source().url });
  refuse(403);
  const forbidden = await fails(fetch(archive), 'REGISTRY_DENIED', /answers 403/);
  assert.deepEqual(forbidden.details, { status: 403, challenge: undefined, url: source().url });
  refuse(404);
  await fails(fetch(archive), 'IMAGE_NOT_FOUND', /answers 404: OOPS: my words/);
  refuse(410);
  await fails(fetch(archive), 'REGISTRY_UNAVAILABLE', /answers 410/);
  assert.equal(asked.length, 4, 'none of these is worth a second try');
});

test('429 and 5xx are tried again, at most five times', async () => {
  const archive = tarball([{ path: 'x' }]);
  serve = (_request, response) => {
    if (asked.length === 1) response.writeHead(429, { 'retry-after': '0' }).end();
    else if (asked.length < 6) response.writeHead(503).end('busy');
    else send(_request, response, blob);
  };
  await fetch(archive);
  assert.equal(asked.length, 6);

  await handlers.removeLayer({ dir });
  asked = [];
  serve = (_request, response) => response.writeHead(500).end('sorry');
  await fails(fetch(archive), 'REGISTRY_UNAVAILABLE', /: 127.*answers 500: sorry, after 6 tries/);
  assert.equal(asked.length, 6);

  const nobody = { source: source({ url: 'http://127.0.0.1:1/x' }) };
  await fails(fetch(archive, archive, nobody), 'REGISTRY_UNAVAILABLE', /ECONNREFUSED/);
});

/** Serves ranges, and breaks the connection after so many bytes of each answer. */
const breaking =
  (after: number, ranges = true): Serve =>
  (request, response, all) => {
    const start = ranges ? Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0) : 0;
    const rest = all.subarray(start);
    const headers = { 'content-length': rest.length };
    if (start > 0)
      response.writeHead(206, { ...headers, 'content-range': `bytes ${start}-${all.length - 1}/${all.length}` });
    else response.writeHead(200, headers);
    const limit = ranges ? after : after * asked.length;
    if (rest.length <= limit) response.end(rest);
    else response.write(rest.subarray(0, limit), () => response.destroy());
  };

test('broken connections go on from the byte that was reached', async () => {
  const archive = tarball([{ path: 'x', content: randomBytes(900_000) }]);
  serve = breaking(200_000);
  await fetch(archive);
  const ranges = asked.map(({ headers }) => headers.range);
  assert.equal(ranges[0], undefined);
  assert.ok(
    ranges.length >= 5 && ranges.slice(1).every((range) => /^bytes=[1-9]\d*-$/.test(range ?? '')),
    String(ranges),
  );
  assert.equal(lstatSync(join(fs, 'x')).size, 900_000);

  // A server without ranges sends everything again.
  await handlers.removeLayer({ dir });
  asked = [];
  serve = breaking(200_000, false);
  await fetch(archive);
  assert.ok(asked.length >= 5);

  await handlers.removeLayer({ dir });
  asked = [];
  serve = breaking(1000);
  await fails(fetch(archive), 'REGISTRY_UNAVAILABLE', /after 6 tries/);
  assert.equal(asked.length, 6);

  // The end of the connection as the end of the body, too early.
  asked = [];
  serve = (request, response, all) => {
    const start = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    if (start > 0) return breaking(1 << 30)(request, response, all);
    response.useChunkedEncodingByDefault = false;
    response.writeHead(200, { connection: 'close' });
    response.end(all.subarray(0, 300_000));
  };
  await fetch(archive);
  assert.equal(asked.length, 2);
  assert.equal(asked[1]?.headers.range, 'bytes=300000-');
});

test('a blob that was to be kept under a digest of an unknown form leaves nothing', async () => {
  const blobs = join(folder, 'blobs');
  mkdirSync(blobs);
  const archive = tarball([{ path: 'x' }]);
  const wrong = { digest: 'md5:d41d8cd98f00b204e9800998ecf8427e', keep: join(blobs, 'kept') };
  await fails(fetch(archive, archive, wrong), 'IMAGE_INVALID', /is not a sha256 or sha512 digest/);
  assert.deepEqual(readdirSync(blobs), []);
});

test('a registry that falls silent is given up after the time without a byte, a slow one is not', async () => {
  const archive = tarball([{ path: 'x', content: randomBytes(100_000) }]);
  const zipped = gzipSync(archive);
  serve = () => {};
  await fails(fetch(archive, zipped, { progressTimeoutMs: 150 }), 'TIMED_OUT', /127.* has sent nothing for 0.15 s/);
  serve = (_request, response, all) => {
    response.setHeader('content-length', all.length);
    response.write(all.subarray(0, 40_000));
  };
  await fails(fetch(archive, zipped, { progressTimeoutMs: 150 }), 'TIMED_OUT', /has sent nothing/);
  serve = async (_request, response, all) => {
    response.setHeader('content-length', all.length);
    for (let at = 0; at < all.length; at += 20_000) {
      response.write(all.subarray(at, at + 20_000));
      await sleep(80);
    }
    response.end();
  };
  const { downloadSeconds, unpackSeconds } = await fetch(archive, zipped, { progressTimeoutMs: 1500 });
  assert.ok(downloadSeconds > 0.3 && unpackSeconds >= 0 && unpackSeconds < downloadSeconds, `${downloadSeconds}`);
});

test('a connection that dies on the way is replaced by one that goes on where it stood', async () => {
  const archive = tarball([{ path: 'x', content: randomBytes(100_000) }]);
  serve = (request, response, all) => {
    if (request.headers.range !== undefined) return breaking(1 << 30)(request, response, all);
    response.setHeader('content-length', all.length);
    response.write(all.subarray(0, 40_000)); // and no more
  };
  const began = performance.now();
  await fetch(archive, archive, { progressTimeoutMs: 3000 });
  assert.ok(performance.now() - began < 2900);
  assert.equal(asked[1]?.headers.range, 'bytes=40000-');
});

test('a host that takes no connection costs the time to dial, twice', async () => {
  const archive = tarball([{ path: 'x' }]);
  // A server that never greets: to TLS it is no connection yet.
  const mute = createNetServer(() => {});
  await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
  const sockets: Socket[] = [];
  mute.on('connection', (socket) => sockets.push(socket));
  try {
    const url = `https://127.0.0.1:${(mute.address() as AddressInfo).port}/x`;
    const began = performance.now();
    const change = { source: source({ url, dialTimeoutMs: 100 }), progressTimeoutMs: 20_000 };
    await fails(fetch(archive, archive, change), 'REGISTRY_UNAVAILABLE', /after 2 tries: Connect Timeout/);
    assert.ok(performance.now() - began < 10_000); // undici counts in steps of up to a second
    assert.equal(sockets.length, 2);
  } finally {
    for (const socket of sockets) socket.destroy();
    mute.close();
  }
});

test('damage on the way is told from a bad archive by the digest', async () => {
  const hex = Array.from({ length: 6000 }, (_, i) => sha256(Buffer.from(`${i}`)).slice('sha256:'.length)).join('');
  const archive = tarball([{ path: 'file', content: Buffer.from(hex) }]);
  const zipped = gzipSync(archive); // of half the size: damage to it is damage to the code
  const damaged = Buffer.from(zipped);
  damaged.fill(0xff, 50_000, 60_000);
  const digest = { digest: sha256(zipped) };
  const words = `digest should be ${sha256(zipped)} and is ${sha256(damaged)}; the gzip stream is broken`;
  await fails(fetch(archive, damaged, digest), 'IMAGE_INVALID', new RegExp(words));
  // Random bytes are stored as they are: nothing but digests can tell, and gzip's own checksum is not looked at.
  const random = tarball([{ path: 'file', content: randomBytes(400_000) }]);
  const stored = gzipSync(random);
  const spoilt = Buffer.from(stored);
  spoilt.fill(0xff, 50_000, 60_000);
  const both = new RegExp(`\\): the digest should be ${sha256(stored)} and is ${sha256(spoilt)}$`);
  await fails(fetch(random, spoilt, { digest: sha256(stored) }), 'IMAGE_INVALID', both);
  await fails(fetch(random, spoilt), 'IMAGE_INVALID', new RegExp(`\\): the diffID should be ${sha256(random)} and is`));
  const flipped = Buffer.from(archive);
  flipped[0] = 0x41;
  const tarWords = new RegExp(`digest should be ${sha256(archive)} and is ${sha256(flipped)}; a tar header`);
  await fails(fetch(archive, flipped, { digest: sha256(archive) }), 'IMAGE_INVALID', tarWords);
  // The registry's own mistake: the digest is right.
  await fails(fetch(archive, damaged), 'IMAGE_INVALID', /: the gzip stream is broken/);
  // Bytes of a file: nothing but the digest can tell, and it is said once.
  const changed = Buffer.from(archive);
  changed.fill(0xff, 50_000, 60_000);
  const plainWords = new RegExp(`\\): the digest should be ${sha256(archive)} and is ${sha256(changed)}$`);
  await fails(fetch(archive, changed, { digest: sha256(archive) }), 'IMAGE_INVALID', plainWords);
});

test('bad archives end the download at once', async () => {
  const archive = Buffer.concat([tarball([{ path: 'a', flag: 'Z' }]), Buffer.alloc(1 << 20)]);
  const zipped = gzipSync(archive);
  serve = (_request, response, all) => {
    response.setHeader('content-length', all.length);
    response.write(all.subarray(0, all.length - 1)); // and the last byte never
  };
  const began = performance.now();
  await fails(fetch(archive, zipped), 'IMAGE_INVALID', /unhandled tar header type/);
  assert.ok(performance.now() - began < 2000);
});

test('a full disk is told as such, and leaves nothing', async () => {
  const small = join(folder, 'layers');
  mount({ source: 'tmpfs', target: small, type: 'tmpfs', data: 'size=1m' });
  try {
    const archive = tarball([{ path: 'x', content: randomBytes(3 << 20) }]);
    await fails(fetch(archive), 'DISK_FULL', /no space left/);
  } finally {
    unmount(small);
  }
});

test('hard links to files of layers below are copied up, as overlayfs does', async () => {
  const below = join(folder, 'layers', 'below');
  const top = await fetch(
    tarball([
      { path: 'd/', kind: 'directory' },
      { path: 'd/new', kind: 'hardlink', link: 'usr/bin/tool' },
      { path: 'd/again', kind: 'hardlink', link: 'd/new' },
      { path: 'd/gone', kind: 'hardlink', link: 'usr/bin/tool' },
      { path: 'd/gone', content: 'replaced' },
      { path: 'usr/bin/.wh.tool' },
    ]),
  );
  await fetch(
    tarball([
      { path: 'usr/', kind: 'directory' },
      { path: 'usr/bin', kind: 'symlink', link: '../opt' },
      { path: 'opt/', kind: 'directory' },
      {
        path: 'opt/tool',
        content: 'x',
        mode: 0o4755,
        uid: 5,
        gid: 6,
        mtime: 1234,
        pax: { 'SCHILY.xattr.user.a': 'b' },
      },
    ]),
    undefined,
    { dir: below },
  );
  handlers.inheritAttributes({ dir, folders: [], links: top.lowerLinks, parentDirs: [join(below, 'fs')] });
  const made = lstatSync(join(fs, 'd/new'));
  assert.deepEqual([made.mode & 0o7777, made.uid, made.gid, made.nlink, made.mtimeMs], [0o4755, 5, 6, 2, 1_234_000]);
  assert.equal(lstatSync(join(fs, 'd/again')).ino, made.ino);
  assert.equal(xattr(join(fs, 'd/new'), 'user.a'), '62');
  assert.equal(readFileSync(join(fs, 'd/gone'), 'utf8'), 'replaced');
  await handlers.removeLayer({ dir: below });
});

test('what overlayfs shows is what readFileInLayers reads', async () => {
  const layer = (name: string, entries: TarballEntry[]) =>
    unpack(entries, { dir: join(folder, 'stack', name) }).then(() => join(folder, 'stack', name, 'fs'));
  const bottom = await layer('bottom', [
    { path: 'etc/passwd', content: 'old' },
    { path: 'etc/group', content: 'group' },
    { path: 'etc/gone', content: 'gone' },
    { path: 'dir/hidden', content: 'hidden' },
    { path: 'whole/x', content: 'x' },
    { path: 'was-dir/x', content: 'x' },
    { path: 'usr/lib/os-release', content: 'os' },
    { path: 'etc/os-release', kind: 'symlink', link: '../usr/lib/os-release' },
  ]);
  const middle = await layer('middle', [
    { path: 'etc/passwd', content: 'new' },
    { path: 'etc/.wh.gone' },
    { path: 'dir/.wh..wh..opq' },
    { path: 'dir/seen', content: 'seen' },
    { path: '.wh.whole' },
    { path: 'was-dir', content: 'file now' },
    { path: 'abs', kind: 'symlink', link: '/usr/lib' },
    { path: 'up', kind: 'symlink', link: '../../../../etc' },
    { path: 'circle', kind: 'symlink', link: 'circle' },
  ]);
  const top = await layer('top', [
    { path: 'etc/new', content: 'n' },
    { path: 'was-dir/', kind: 'directory' },
    { path: 'was-dir/y', content: 'y' },
    { path: 'pipe', kind: 'fifo' },
  ]);
  const dirs = [top, middle, bottom];
  const paths = [
    'etc/passwd etc/group etc/gone etc/new /etc/os-release dir/hidden dir/seen whole/x was-dir was-dir/x was-dir/y',
    'abs/os-release up/passwd /up/../usr/lib/os-release ../../etc/passwd nothing/at/all etc etc/passwd/x',
  ].flatMap((line) => line.split(' '));
  const merged = join(folder, 'merged');
  mkdirSync(merged);
  mount({ source: 'overlay', target: merged, type: 'overlay', flags: 1, data: `lowerdir=${dirs.join(':')}` });
  try {
    // Read from outside, absolute links would lead to the machine's own files: those are written out.
    const shown = (path: string) => {
      const real = path
        .replace('abs/', 'usr/lib/')
        .replace(/^\/?up\//, 'etc/')
        .replace('../../', '');
      try {
        return readFileSync(join(merged, real), 'utf8');
      } catch {
        return undefined;
      }
    };
    for (const path of paths) {
      assert.equal(handlers.readFileInLayers({ dirs, path, maxBytes: 100 }), shown(path), path);
    }
  } finally {
    unmount(merged);
  }
  const request = { user: '', supplementalGroups: [], mergeImageGroups: true };
  assert.deepEqual(handlers.lookUpUser({ dirs, request }), { uid: 0, gid: 0, additionalGids: [0] });
  assert.throws(() => handlers.lookUpUser({ dirs: [top], request: { ...request, user: 'app' } }), /no users found/);
  const read = (path: string) => handlers.readFileInLayers({ dirs, path, maxBytes: 2 });
  assert.equal(read('pipe'), undefined);
  assert.throws(() => read('circle'), /too many symbolic links/);
  assert.throws(() => read('etc/passwd'), /has 3 bytes; at most 2 are read/);
  for (const name of ['top', 'middle', 'bottom']) await handlers.removeLayer({ dir: join(folder, 'stack', name) });
  assert.deepEqual(readdirSync(join(folder, 'stack')), []);
});

test('removing a layer takes what crashes left of it, and nothing of its neighbours', async () => {
  for (const name of ['1', '1.tmp-12345678', '1.tmp-abc', '12', '12.tmp-1', '11']) {
    mkdirSync(join(folder, 'layers', name, 'fs'), { recursive: true });
  }
  await handlers.removeLayer({ dir: join(folder, 'layers', '1') });
  assert.deepEqual(readdirSync(join(folder, 'layers')).sort(), ['11', '12', '12.tmp-1']);
  for (const name of ['12', '11', 'never-there']) await handlers.removeLayer({ dir: join(folder, 'layers', name) });
  assert.deepEqual(readdirSync(join(folder, 'layers')), []);
  await handlers.removeLayer({ dir: join(folder, 'no', 'such') });
});

test('the built-in pause image runs, ends on SIGTERM and SIGINT, and reaps as process 1', async () => {
  const used = await handlers.installPause({ dir });
  assert.deepEqual(await handlers.installPause({ dir }), used);
  assert.equal(used.inodes, 3);
  const pause = join(fs, 'pause');
  assert.equal(lstatSync(pause).mode & 0o7777, 0o755);
  for (const signal of ['TERM', 'INT']) {
    // In a namespace of its own, with an orphan that ends while pause is process 1.
    const script = `
      set -e
      (sh -c 'sleep 0.1 & exec true') # the sleep becomes a child of process 1
      (sleep 0.4; cat /proc/[0-9]*/stat | grep -c ' Z ' >${folder}/zombies || true; kill -${signal} 1) &
      exec ${pause}`;
    const { code } = await run('unshare', ['-pf', '--mount-proc', 'sh', '-c', script]);
    assert.equal(code, 0, signal);
    assert.equal(readFileSync(join(folder, 'zombies'), 'utf8').trim(), '0', signal);
  }
});

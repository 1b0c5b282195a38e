/**
 * Archives of images in and out, with real workers and no daemon: what docker and OCI tools write, and what Sluice
 * writes. As root.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { codeOf, explain } from '../../src/errors.ts';
import type { Images } from '../../src/node/images/images.ts';
import type { ImageRow } from '../../src/node/images/rows.ts';
import { type Pools, startPools } from '../../src/node/threads/pools.ts';
import { makeImages } from '../rig/images-service.ts';
import { privateFolder } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { type TarballEntry, tarball } from '../rig/tarball.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root: layers have owners and devices';
const folder = privateFolder('archives');
let pools: Pools;

before(() => {
  pools = startPools();
});
after(async () => {
  await pools?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const sha256 = (data: Buffer) => createHash('sha256').update(data).digest('hex');
const LAYER = tarball([
  { path: 'etc/', kind: 'directory', mode: 0o755 },
  { path: 'etc/hello', content: 'from an archive', uid: 7, mode: 0o640, mtime: 1_600_000_000 },
  { path: 'etc/same', kind: 'hardlink', link: 'etc/hello' },
  { path: 'link', kind: 'symlink', link: 'etc/hello' },
  { path: 'etc/.wh.gone', content: '' },
  { path: 'opt/', kind: 'directory', mode: 0o700 },
  { path: 'opt/.wh..wh..opq', content: '' },
  { path: `${'long/'.repeat(30)}file`, content: 'x', pax: { 'SCHILY.xattr.user.a': 'b' } },
]);
const UPPER = tarball([{ path: 'upper', content: 'u' }]);

async function node(name: string, keepBlobs: boolean): Promise<{ images: Images; root: string }> {
  const root = join(folder, name);
  return { images: await makeImages(pools, { root, keepBlobs }), root };
}

async function load(images: Images, archive: Buffer, name?: string): Promise<ImageRow[]> {
  const path = join(folder, 'archive');
  writeFileSync(path, archive);
  const held: string[] = [];
  try {
    return await images.import(path, { name, onHold: (id) => held.push(id) });
  } finally {
    images.release(held);
    await images.sweep();
  }
}

const config = (...layers: Buffer[]) =>
  Buffer.from(
    JSON.stringify({
      architecture: 'amd64',
      os: 'linux',
      config: { Cmd: ['/x'] },
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => `sha256:${sha256(layer)}`) },
    }),
  );

/** As `docker save` wrote it before version 25: a layer that two images share is a symbolic link in the second. */
function dockerSave(): Buffer {
  const [one, two] = [config(LAYER), config(LAYER, UPPER)];
  const entries: TarballEntry[] = [
    { path: 'a/layer.tar', content: LAYER },
    { path: 'b/layer.tar', kind: 'symlink', link: '../a/layer.tar' },
    { path: 'c/layer.tar', content: UPPER },
    { path: `${sha256(one)}.json`, content: one },
    { path: `${sha256(two)}.json`, content: two },
    {
      path: 'manifest.json',
      content: JSON.stringify([
        { Config: `${sha256(one)}.json`, RepoTags: ['app:1', 'reg.io/app:one'], Layers: ['a/layer.tar'] },
        { Config: `${sha256(two)}.json`, RepoTags: ['app:2'], Layers: ['b/layer.tar', 'c/layer.tar'] },
      ]),
    },
  ];
  return tarball(entries);
}

/** An OCI archive with one image, its layer compressed. */
function ociArchive(
  annotations: Record<string, string>,
  change: (blobs: Map<string, Buffer>) => void = () => {},
): Buffer {
  const blobs = new Map<string, Buffer>();
  const add = (mediaType: string, data: Buffer) => {
    blobs.set(sha256(data), data);
    return { mediaType, digest: `sha256:${sha256(data)}`, size: data.length };
  };
  const layer = add('application/vnd.oci.image.layer.v1.tar+gzip', gzipSync(LAYER));
  const own = add('application/vnd.oci.image.config.v1+json', config(LAYER));
  const type = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = add(
    type,
    Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: type, config: own, layers: [layer] })),
  );
  change(blobs);
  return tarball([
    { path: 'oci-layout', content: '{"imageLayoutVersion":"1.0.0"}' },
    {
      path: 'index.json',
      content: JSON.stringify({ schemaVersion: 2, manifests: [{ ...manifest, annotations }] }),
    },
    ...[...blobs].map(([hex, content]) => ({ path: `blobs/sha256/${hex}`, content })),
  ]);
}

/** What a layer's folder looks like: names, kinds, owners, modes, contents. */
function tree(images: Images, row: ImageRow): unknown[] {
  return row.layers.map((id) => {
    const dir = join(images.layers.folder, id, 'fs');
    const names = readdirSync(dir, { recursive: true, encoding: 'utf8' }).sort();
    return names.map((name) => {
      const stats = lstatSync(join(dir, name));
      const { mode, uid, gid, rdev } = stats;
      const content = stats.isFile() ? readFileSync(join(dir, name), 'utf8') : '';
      return [name, mode, uid, gid, rdev, stats.isDirectory() ? 0 : stats.nlink, content];
    });
  });
}

test('docker save: names, layers that are links, compressed as a whole', { skip }, async () => {
  const { images, root } = await node('docker', false);
  for (const archive of [dockerSave(), gzipSync(dockerSave()), zstdCompressSync(dockerSave())]) {
    const [one, two] = await load(images, archive);
    assert.deepEqual(one?.names, ['docker.io/library/app:1', 'reg.io/app:one']);
    assert.equal(one?.id, `sha256:${sha256(config(LAYER))}`);
    assert.equal(two?.layers[0], one?.layers[0], 'the shared layer is there twice');
    assert.equal(
      readFileSync(join(join(images.layers.folder, one?.layers[0] ?? '', 'fs'), 'etc/hello'), 'utf8'),
      'from an archive',
    );
  }
  assert.deepEqual(readdirSync(join(root, 'tmp-images')), []);
  assert.equal(images.list().length, 3, 'two and the pause image');
});

test('OCI archives: names from annotations or from the caller, digests verified', { skip }, async () => {
  const { images } = await node('oci', false);
  const [named] = await load(images, ociArchive({ 'io.containerd.image.name': 'reg.io/oci:1' }));
  assert.match(named?.names.join(' ') ?? '', /^reg\.io\/oci:1 reg\.io\/oci@sha256:[0-9a-f]{64}$/);
  const tagOnly = ociArchive({ 'org.opencontainers.image.ref.name': 'latest' });
  await assert.rejects(load(images, tagOnly), { code: 'INVALID_REQUEST', message: /has no name/ });
  assert.equal((await load(images, tagOnly, 'reg.io/given'))[0]?.names.includes('reg.io/given:latest'), true);
});

test('archives that are broken are refused, and leave nothing', { skip }, async () => {
  const { images, root } = await node('broken', false);
  const bad = ociArchive({ 'io.containerd.image.name': 'reg.io/bad:1' }, (blobs) => {
    for (const [hex, data] of blobs)
      if (data[0] === 0x1f) blobs.set(hex, Buffer.concat([data.subarray(0, 40), Buffer.alloc(99)]));
  });
  const cases: [Buffer, RegExp][] = [
    [bad, /layer has \d+ bytes, and not|digest/],
    [Buffer.from('not an archive at all'.repeat(100)), /tar header/],
    [tarball([{ path: 'x', content: 'y' }]), /neither an index.json/],
    [tarball([{ path: 'manifest.json', content: '[{"Config":"../../etc/passwd","Layers":[]}]' }]), /does not hold/],
    [tarball([{ path: 'manifest.json', content: '{' }]), /not JSON/],
    [tarball([{ path: 'manifest.json', content: '[{"Config":"__proto__","Layers":["x"]}]' }]), /does not hold/],
    [dockerSave().subarray(0, 3000), /ends/],
  ];
  for (const [archive, words] of cases) {
    const error = await load(images, archive).then(
      () => assert.fail('it was imported'),
      (reason: unknown) => reason,
    );
    assert.equal(codeOf(error), 'IMAGE_INVALID', explain(error));
    assert.match(explain(error), words);
  }
  assert.equal(images.list().length, 1);
  assert.deepEqual(readdirSync(join(root, 'tmp-images')), []);
  assert.deepEqual(readdirSync(join(root, 'layers')).sort(), ['1', '_'], 'only the pause image');
  await assert.rejects(images.import('/dev/zero', { onHold: () => {} }), { code: 'INVALID_REQUEST' });
});

test('export and import again: layers made anew are equal, kept blobs have their digests', { skip }, async () => {
  const archive = ociArchive({ 'io.containerd.image.name': 'reg.io/oci:1' });
  for (const keep of [false, true]) {
    const { images } = await node(`out-${keep}`, keep);
    const [row] = await load(images, archive);
    assert.ok(row);
    const path = join(folder, `export-${keep}.tar`);
    const [done] = await images.export([row], path);
    assert.equal(done?.remade, !keep);
    const { images: other } = await node(`in-${keep}`, false);
    const [again] = await load(other, readFileSync(path));
    assert.ok(again);
    assert.deepEqual(tree(other, again), tree(images, row));
    assert.equal(again.names[0], 'reg.io/oci:1');
    if (keep) assert.deepEqual([again.id, again.names], [row.id, row.names]);
    else assert.notEqual(again.id, row.id);
    await images.remove(row);
    const blobs = join(folder, `out-${keep}`, 'blobs/sha256');
    if (keep) assert.deepEqual(readdirSync(blobs), [], 'blobs of a removed image stay');
  }
});

test('what images occupy is what du counts, also for sparse and large files', { skip }, async () => {
  const { images, root } = await node('du', true);
  const layer = tarball([
    { path: 'large', content: Buffer.alloc(3 << 20, 'x') },
    {
      path: 'sparse',
      pax: {
        'GNU.sparse.size': '9000000',
        'GNU.sparse.map': Array.from({ length: 8 }, (_, i) => `${i * 1_000_000},512`).join(),
      },
      content: Buffer.alloc(8 * 512, 'y'),
    },
    ...Array.from({ length: 50 }, (_, i) => ({ path: `dir${i}/file`, content: 'x'.repeat(i * 300) })),
  ]);
  const own = config(layer);
  const save = tarball([
    { path: 'layer.tar', content: layer },
    { path: 'config.json', content: own },
    {
      path: 'manifest.json',
      content: JSON.stringify([{ Config: 'config.json', RepoTags: ['du:1'], Layers: ['layer.tar'] }]),
    },
  ]);
  await load(images, save);
  const du = async (what: string) => {
    const { stdout } = await run('du', ['-sc', what, join(root, 'layers'), join(root, 'blobs')]);
    return BigInt(stdout.trim().split('\n').at(-1)?.split('\t')[0] ?? 0);
  };
  const { image } = await images.fsInfo();
  assert.deepEqual(image, { bytes: await du('-B1'), inodes: await du('--inodes') });
});

test('images that nobody uses are removed at once, the pinned one stays', { skip }, async () => {
  const { images } = await node('gc', false);
  await load(images, dockerSave());
  const { images: removed, bytes } = await images.removeUnused();
  assert.equal(removed.length, 2);
  assert.ok(bytes > 0);
  assert.equal(images.list().length, 1);
});

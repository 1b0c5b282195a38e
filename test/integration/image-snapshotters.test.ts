/**
 * The snapshotters without a daemon around them: one image, unpacked by each, mounted and compared entry by entry with
 * what overlayfs shows. As root.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { Snapshots } from '../../src/node/grpc/snapshots.ts';
import type { Images } from '../../src/node/images/images.ts';
import { type Pools, startPools } from '../../src/node/threads/pools.ts';
import { mount, unmount } from '../../src/sys/mount.ts';
import { mountRootfs } from '../../src/workers/shim/rootfs.ts';
import { built, Unavailable } from '../rig/build.ts';
import { FakeRegistries } from '../rig/fake-registry.ts';
import { makeImages, pullImage } from '../rig/images-service.ts';
import { seen, serveLayers } from '../rig/layered-image.ts';
import { mountsBelow } from '../rig/leftovers.ts';
import { findProgram, privateFolder } from '../rig/paths.ts';
import { run, start, waitFor } from '../rig/proc.ts';
import { digestOf, pushImage } from '../rig/push.ts';
import { startRegistry } from '../rig/registry.ts';
import { tarball } from '../rig/tarball.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root: layers have owners and devices';
const folder = privateFolder('snapshotters');
const registries = new FakeRegistries(join(folder, 'certs.d'));
let pools: Pools;
let name: string;

before(async () => {
  pools = startPools();
  name = await serveLayers(registries);
});
after(async () => {
  await pools?.[Symbol.asyncDispose]();
  registries[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

interface Shown {
  rootfs: string[];
  view: string[];
}

/** Pulls the image, and gives what a snapshot and the read-only image show. */
async function shown(images: Images, at: string, image = `${name}/app:1`): Promise<Shown> {
  const row = await pullImage(images, image);
  const [snapshot, target] = [join(at, 'root/snapshots/one'), join(at, 'mounted')];
  mkdirSync(target);
  await images.prepareSnapshot({ dir: snapshot, image: row });
  await images.prepareSnapshot({ dir: snapshot, image: row }); // as after a crash
  const user = await images.lookUpUser(row, { user: 'app', supplementalGroups: [], mergeImageGroups: true });
  assert.deepEqual([user.uid, user.gid], [4242, 4343]);
  const look = async (mounts: Awaited<ReturnType<Images['viewMounts']>>, write: boolean) => {
    mountRootfs({ target, mounts });
    try {
      const entries = seen(target);
      if (write) {
        writeFileSync(join(target, 'd/stays'), 'changed by one container');
        writeFileSync(join(target, 'new'), 'x');
      } else assert.throws(() => writeFileSync(join(target, 'new'), 'x'), { code: 'EROFS' });
      return entries;
    } finally {
      unmount(target);
    }
  };
  const rootfs = await look(await images.rootfsMounts(row, snapshot), true);
  const view = await look(await images.viewMounts(row), false);
  await images.removeSnapshot(snapshot);
  await images.removeSnapshot(snapshot);
  assert.ok(!existsSync(snapshot));
  return { rootfs, view };
}

let reference: string[];

async function overlayfs(): Promise<string[]> {
  if (!reference) {
    const at = join(folder, 'overlayfs');
    mkdirSync(join(at, 'root'), { recursive: true });
    const images = await makeImages(pools, { root: join(at, 'root'), registryConfig: registries.certs });
    const { rootfs, view } = await shown(images, at);
    assert.deepEqual(view, rootfs);
    reference = rootfs;
  }
  return reference;
}

test('overlayfs shows what the layers say', { skip }, async () => {
  const entries = await overlayfs();
  const has = (pattern: RegExp) =>
    assert.ok(
      entries.some((line) => pattern.test(line)),
      `${pattern} in\n${entries.join('\n')}`,
    );
  has(/^f d\/goes \S+ 0 0 \d+ {2}back again$/);
  has(/^f d\/replaced 104755 .* above$/);
  has(/^d d\/back 40755 /);
  has(/^f d\/link 100640 7 8 /);
  has(/^d implied\/kept 40751 9 0 /);
  assert.ok(!entries.some((line) => /d\/(?:gone|pipe|opaque\/old|back\/old|folder-to-file\/)/.test(line)));
});

async function like(at: string, options: Parameters<typeof makeImages>[1]): Promise<Images> {
  const images = await makeImages(pools, options);
  const { rootfs, view } = await shown(images, at);
  assert.deepEqual(rootfs, await overlayfs());
  assert.deepEqual(view, rootfs, 'what one container has written is in the image');
  return images;
}

test('native shows the same', { skip }, async () => {
  const at = join(folder, 'native');
  mkdirSync(join(at, 'root'), { recursive: true });
  const root = join(at, 'root');
  const images = await like(at, { root, registryConfig: registries.certs, snapshotter: 'native' });
  // The tree costs folders alone: its files are those of the layers.
  const { image } = await images.fsInfo();
  assert.ok(image.bytes > 0n);
  const row = images.find(`${name}/app:1`);
  assert.ok(row?.merged && row.merged.inodes < 20, JSON.stringify(row?.merged));
  await images.remove(row);
  assert.equal(readdirSync(join(root, 'native')).length, 1, 'the tree of the pause image is left');
});

test('native shows the same on an overlay, where there can be no other', { skip }, async () => {
  const at = join(folder, 'nested');
  for (const path of ['lower', 'upper', 'work', 'root']) mkdirSync(join(at, path), { recursive: true });
  const [root, lower, upper, work] = ['root', 'lower', 'upper', 'work'].map((path) => join(at, path)) as [
    string,
    string,
    string,
    string,
  ];
  mount({
    source: 'overlay',
    target: root,
    type: 'overlay',
    data: `lowerdir=${lower},upperdir=${upper},workdir=${work}`,
  });
  try {
    await like(at, { root, registryConfig: registries.certs, snapshotter: 'native' });
  } finally {
    unmount(root);
  }
});

for (const kind of ['overlayfs', 'native'])
  test(`a proxy to containerd's ${kind} snapshotter shows the same, and gives everything back`, { skip }, async (t) => {
    let containerd: string;
    try {
      containerd = await built('containerd-2.4');
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
      return t.skip(error.message);
    }
    const at = join(folder, `proxy-${kind}`);
    mkdirSync(join(at, 'root'), { recursive: true });
    const socket = join(at, 's');
    writeFileSync(
      join(at, 'c.toml'),
      `version = 3\nroot = "${at}/ctd"\nstate = "${at}/state"\ndisabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]\n[grpc]\naddress = "${socket}"\n[ttrpc]\naddress = "${socket}.ttrpc"\n`,
    );
    const peer = start(containerd, ['--config', join(at, 'c.toml')], join(at, 'log'));
    t.after(() => peer.stop());
    using client = new Snapshots({ socket, name: kind });
    await waitFor('containerd', 30_000, () => client.list().then(() => true));
    const options = {
      root: join(at, 'root'),
      registryConfig: registries.certs,
      snapshotter: 'proxy',
      snapshotterSocket: socket,
      snapshotterName: kind,
    } as const;
    const images = await like(at, options);
    const row = images.find(`${name}/app:1`);
    assert.ok(row);
    await pullImage(images, `${name}/app:1`); // nothing is fetched again
    await images.remove(row);
    const left = (await client.list()).filter(({ name: one }) => !one.includes('pause'));
    assert.equal(left.length, 1, `the pause image alone is left: ${JSON.stringify(left)}`);
    assert.deepEqual(readdirSync(images.layers.folder), [], 'unpacked layers are left here');
  });

test('a proxy to stargz-snapshotter: layers are there before they are downloaded', {
  skip: skip || (findProgram('docker-registry') ? false : 'needs docker-registry'),
}, async (t) => {
  let stargz: string;
  try {
    stargz = await built('stargz-snapshotter');
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    return t.skip(error.message);
  }
  const at = join(folder, 'stargz');
  mkdirSync(join(at, 'root'), { recursive: true });
  await using registry = await startRegistry({ folder: at });
  const layers = await Promise.all(LAZY.map((tar, number) => converted(stargz, tar, join(at, String(number)))));
  const descriptors = layers.map(({ blob, toc }) => ({
    mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
    ...{ digest: digestOf(blob), size: blob.length, annotations: { 'containerd.io/snapshot/stargz/toc.digest': toc } },
  }));
  await pushImage(registry.address, 'app:1', { layers, manifest: { layers: descriptors }, config: { User: 'app' } });
  const image = `${registry.address}/app:1`;

  const plain = join(at, 'plain');
  mkdirSync(join(plain, 'root'), { recursive: true });
  const overlay = await makeImages(pools, { root: join(plain, 'root') });
  // The format's own files, which stargz-snapshotter keeps to itself.
  const isOwn = (line: string) => /^f (?:stargz\.index\.json|\.no\.prefetch\.landmark) /.test(line);
  const expected = (await shown(overlay, plain, image)).rootfs.filter((line) => !isOwn(line));

  const socket = join(at, 's');
  const snapshotter = start(stargz, ['serve', join(at, 'stargz'), socket], join(at, 'log'));
  t.after(async () => {
    await snapshotter.stop();
    for (const path of mountsBelow(at).toReversed()) unmount(path);
  });
  using client = new Snapshots({ socket, name: 'stargz' });
  await waitFor('stargz-snapshotter', 30_000, () => client.list().then(() => true));
  let fetched = 0;
  const images = await makeImages(pools, {
    root: join(at, 'root'),
    snapshotter: 'proxy',
    snapshotterSocket: socket,
    onFetched: () => fetched++,
  });
  const { rootfs, view } = await shown(images, at, image);
  assert.equal(fetched, 0, 'layers were downloaded by Sluice');
  const lazy = () =>
    readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .filter((line) => line.includes(` ${at}/`) && / fuse/.test(line)).length;
  assert.equal(lazy(), 2, 'each layer is a file system that fetches what is read');
  assert.deepEqual(rootfs, expected);
  assert.deepEqual(view, expected);
  const row = images.find(image);
  assert.ok(row);
  await images.remove(row);
  assert.equal((await client.list()).length, 1, 'the pause image alone is left');
  assert.equal(lazy(), 0, 'file systems of layers are left');
});

/** stargz-snapshotter has no hard links to layers below, and gives implied folders to root. */
const LAZY = [
  tarball([
    { path: 'd/', kind: 'directory', mode: 0o1777, uid: 5, gid: 6 },
    { path: 'd/stays', content: 'below' },
    { path: 'd/goes', content: 'below' },
    { path: 'd/folder/', kind: 'directory' },
    { path: 'd/folder/old', content: 'x' },
    { path: 'etc/', kind: 'directory' },
    { path: 'etc/passwd', content: 'app:x:4242:4343::/:/bin/sh\n' },
  ]),
  tarball([
    { path: 'd/', kind: 'directory', mode: 0o1777, uid: 5, gid: 6 },
    { path: 'd/.wh.goes' },
    { path: 'd/folder/', kind: 'directory' },
    { path: 'd/folder/.wh..wh..opq' },
    { path: 'd/folder/new', content: 'lazily '.repeat(40_000), mode: 0o755 },
    { path: 'd/link', kind: 'symlink', link: 'stays', mode: 0o777 },
  ]),
];

/** A layer in the eStargz form, which is an archive of its own. */
async function converted(
  stargz: string,
  tar: Buffer,
  path: string,
): Promise<{ tar: Buffer; blob: Buffer; toc: string }> {
  writeFileSync(`${path}.tar`, tar);
  const { stdout } = await run(stargz, ['convert', `${path}.tar`, `${path}.esgz`]);
  const blob = readFileSync(`${path}.esgz`);
  return { tar: gunzipSync(blob), blob, toc: (JSON.parse(stdout) as { toc: string }).toc };
}

/**
 * The snapshotters without a daemon around them: one image, unpacked by each, mounted and compared entry by entry with
 * what overlayfs shows. As root.
 */
import assert from 'node:assert/strict';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Snapshots } from '../../src/node/grpc/snapshots.ts';
import type { Images } from '../../src/node/images/images.ts';
import { type Pools, startPools } from '../../src/node/threads/pools.ts';
import { getXattr, listXattrs } from '../../src/sys/attributes.ts';
import { mount, unmount } from '../../src/sys/mount.ts';
import { mountRootfs } from '../../src/workers/shim/rootfs.ts';
import { built, Unavailable } from '../rig/build.ts';
import { FakeRegistries } from '../rig/fake-registry.ts';
import { makeImages, pullImage } from '../rig/images-service.ts';
import { privateFolder } from '../rig/paths.ts';
import { start, waitFor } from '../rig/proc.ts';
import { buildImage, digestOf, MANIFEST } from '../rig/push.ts';
import { tarball } from '../rig/tarball.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root: layers have owners and devices';
const folder = privateFolder('snapshotters');
const registries = new FakeRegistries(join(folder, 'certs.d'));
let pools: Pools;
let name: string;

const capability = Buffer.from('0100000200040000000000000000000000000000', 'hex');
const LAYERS = [
  tarball([
    { path: 'd/', kind: 'directory', mode: 0o1777, uid: 5, gid: 6 },
    { path: 'd/stays', content: 'below', pax: { 'SCHILY.xattr.user.note': 'kept' } },
    { path: 'd/goes', content: 'below' },
    { path: 'd/replaced', content: 'below' },
    { path: 'd/gone/', kind: 'directory' },
    { path: 'd/gone/deep/', kind: 'directory' },
    { path: 'd/gone/deep/x', content: 'x' },
    { path: 'd/file-to-folder', content: 'x' },
    { path: 'd/folder-to-file/', kind: 'directory' },
    { path: 'd/folder-to-file/x', content: 'x' },
    { path: 'd/link-to-folder', kind: 'symlink', link: '/d/opaque' },
    { path: 'd/opaque/', kind: 'directory' },
    { path: 'd/opaque/old', content: 'x' },
    { path: 'd/back/', kind: 'directory', mode: 0o700 },
    { path: 'd/back/old', content: 'x' },
    { path: 'd/shared', content: 'linked', mode: 0o640, uid: 7, gid: 8 },
    { path: 'd/pair', kind: 'hardlink', link: 'd/shared' },
    { path: 'implied/kept/', kind: 'directory', mode: 0o751, uid: 9 },
    { path: 'etc/passwd', content: 'app:x:4242:4343::/:/bin/sh\n' },
  ]),
  tarball([
    { path: 'd/.wh.goes' },
    { path: 'd/replaced', content: 'above', mode: 0o4755, mtime: 1_500_000_000 },
    { path: 'd/.wh.gone' },
    { path: 'd/.wh.not-there' },
    { path: 'd/file-to-folder/', kind: 'directory' },
    { path: 'd/file-to-folder/y', content: 'y' },
    { path: 'd/.wh.folder-to-file' },
    { path: 'd/folder-to-file', content: 'now a file' },
    { path: 'd/link-to-folder/', kind: 'directory' },
    { path: 'd/link-to-folder/z', content: 'z' },
    { path: 'd/opaque/', kind: 'directory', mode: 0o711 },
    { path: 'd/opaque/new', content: 'n' },
    { path: 'd/opaque/.wh..wh..opq' },
    { path: 'd/.wh.back' },
    { path: 'd/back/', kind: 'directory', mode: 0o755 },
    { path: 'd/back/new', content: 'n' },
    { path: 'd/link', kind: 'hardlink', link: 'd/shared' },
    { path: 'd/symbolic', kind: 'symlink', link: 'stays', mtime: 1_400_000_000 },
    { path: 'd/null', kind: 'char', major: 1, minor: 3, mode: 0o666 },
    { path: 'd/pipe', kind: 'fifo' },
    { path: 'd/é', content: 'name' },
    { path: 'd/capable', content: 'x', mode: 0o755, pax: { 'SCHILY.xattr.security.capability': capability } },
    { path: 'implied/kept/more/deep', content: 'x' },
  ]),
  tarball([
    { path: 'd/goes', content: 'back again' },
    { path: 'd/opaque/third', content: '3' },
    { path: 'd/.wh.pipe' },
  ]),
];

before(async () => {
  pools = startPools();
  const image = buildImage({ layers: LAYERS, config: { User: 'app' } });
  const server = createServer((request, response) => {
    const digest = /\/blobs\/([^?]+)/.exec(request.url ?? '')?.[1];
    const body = digest === undefined ? image.body : image.blobs.get(digest);
    if (!body) return void response.writeHead(404).end();
    const type = digest === undefined ? MANIFEST : 'application/octet-stream';
    response.writeHead(200, {
      'content-type': type,
      'content-length': body.length,
      'docker-content-digest': digestOf(body),
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  });
  name = registries.host(`http://${await registries.listen(server)}`);
});
after(async () => {
  await pools?.[Symbol.asyncDispose]();
  registries[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** Every entry below a folder, with all that a container can see of it. */
function seen(root: string): string[] {
  const found: string[] = [];
  /** The first name of each file: files of a tree of hard links have further names outside. */
  const first = new Map<number, string>();
  const walk = (path: string) => {
    for (const entry of readdirSync(join(root, path)).sort()) {
      const at = join(path, entry);
      const stats = lstatSync(join(root, at));
      const kind = stats.isDirectory() ? 'd' : stats.isSymbolicLink() ? 'l' : stats.isFile() ? 'f' : `n${stats.rdev}`;
      const xattrs = listXattrs(join(root, at))
        .filter((one) => !one.startsWith('trusted.'))
        .map((one) => `${one}=${getXattr(join(root, at), one, 100)?.toString('hex')}`);
      const content = stats.isFile()
        ? readFileSync(join(root, at), 'latin1')
        : stats.isSymbolicLink()
          ? readlinkSync(join(root, at))
          : '';
      const twin = stats.isFile() ? (first.get(stats.ino) ?? '') : '';
      if (stats.isFile() && twin === '') first.set(stats.ino, at);
      // Only the times that the archive gives: an implied folder has those of its making.
      const time = stats.isDirectory() ? '' : Math.floor(stats.mtimeMs / 1000);
      const { mode, uid, gid } = stats;
      found.push([kind, at, mode.toString(8), uid, gid, time, twin, content, ...xattrs].join(' '));
      if (stats.isDirectory()) walk(at);
    }
  };
  walk('');
  return found;
}

interface Shown {
  rootfs: string[];
  view: string[];
}

/** Pulls the image, and gives what a snapshot and the read-only image show. */
async function shown(images: Images, at: string): Promise<Shown> {
  const row = await pullImage(images, `${name}/app:1`);
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

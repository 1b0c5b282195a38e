/**
 * Layers on ext4, xfs and btrfs, each on a loop device: what is unpacked, what it takes by `du`, what sharing saves,
 * and a disk that is full. As root.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { codeOf, explain } from '../../src/errors.ts';
import type { Images } from '../../src/node/images/images.ts';
import { type Pools, startPools } from '../../src/node/threads/pools.ts';
import { unmount } from '../../src/sys/mount.ts';
import { mountRootfs } from '../../src/workers/shim/rootfs.ts';
import { FakeRegistries } from '../rig/fake-registry.ts';
import { makeImages, pullImage } from '../rig/images-service.ts';
import { LAYERS, seen, serveLayers } from '../rig/layered-image.ts';
import { findProgram, privateFolder } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { tarball } from '../rig/tarball.ts';

const MIB = 1 << 20;
/** The smallest that mkfs.xfs makes is 300 MiB. */
const SIZE = 512 * MIB;
const folder = privateFolder('filesystems');
const registries = new FakeRegistries(join(folder, 'certs.d'));
let pools: Pools;
let reference: string[] = [];

/** Files that differ in how their blocks are counted: inline, sparse, of many extents. */
const SIZES = tarball([
  { path: 'tiny', content: 'x' },
  { path: 'block', content: randomBytes(4096) },
  { path: 'large', content: randomBytes(9 * MIB) },
  { path: 'zeroes', content: Buffer.alloc(3 * MIB) },
  ...Array.from({ length: 300 }, (_, at) => ({ path: `many/${at}`, content: randomBytes(1 + at * 37) })),
]);

const needsRoot = process.getuid?.() === 0 ? false : 'needs root: it mounts file systems';

before(async () => {
  if (needsRoot) return;
  pools = startPools();
  mkdirSync(join(folder, 'here'));
  const images = await makeImages(pools, { root: join(folder, 'here'), registryConfig: registries.certs });
  reference = await shown(images, join(folder, 'here-mounted'));
});
after(async () => {
  await pools?.[Symbol.asyncDispose]();
  registries[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** What a container's snapshot of the odd image shows. */
async function shown(images: Images, target: string): Promise<string[]> {
  const row = await pullImage(images, `${await serveLayers(registries)}/app:1`);
  const dir = join(images.layers.folder, '../snapshots/one');
  mkdirSync(target, { recursive: true });
  await images.prepareSnapshot({ dir, image: row });
  mountRootfs({ target, mounts: await images.rootfsMounts(row, dir) });
  try {
    return seen(target);
  } finally {
    unmount(target);
    await images.removeSnapshot(dir);
    await images.remove(row);
  }
}

for (const type of ['ext4', 'xfs', 'btrfs']) {
  const skip = needsRoot || (findProgram(`mkfs.${type}`) ? false : `needs mkfs.${type}`);
  describe(type, { skip }, () => {
    const [disk, at] = [join(folder, `${type}.disk`), join(folder, type)];
    before(async () => {
      writeFileSync(disk, '');
      truncateSync(disk, SIZE);
      await run(findProgram(`mkfs.${type}`) ?? '', ['-q', ...(type === 'ext4' ? ['-F'] : []), disk]);
      mkdirSync(at);
      await run('mount', ['-o', 'loop', disk, at]);
    });
    after(() => {
      unmount(at);
      rmSync(disk, { force: true });
    });
    const node = (name: string, more = {}) => {
      mkdirSync(join(at, name));
      return makeImages(pools, { root: join(at, name), registryConfig: registries.certs, ...more });
    };
    const free = () => {
      const { bfree, bsize } = statfsSync(at);
      return bfree * bsize;
    };

    test('layers show the same as elsewhere, on overlayfs and native', async () => {
      for (const snapshotter of ['overlayfs', 'native'] as const)
        assert.deepEqual(
          await shown(await node(snapshotter, { snapshotter }), join(folder, `${type}-mounted`)),
          reference,
        );
    });

    test('what images take is what du counts', async () => {
      const images = await node('usage');
      for (const layers of [[SIZES], LAYERS]) await pullImage(images, `${await serveLayers(registries, layers)}/app:1`);
      const du = async (what: string) => {
        const { stdout } = await run('du', ['-sc', what, join(at, 'usage/layers')]);
        return BigInt(stdout.trim().split('\n').at(-1)?.split('\t')[0] ?? 0);
      };
      const { image } = await images.fsInfo();
      assert.deepEqual(image, { bytes: await du('-B1'), inodes: await du('--inodes') });
      const zeroes = join(at, 'usage/layers/2/fs/zeroes');
      assert.ok(lstatSync(zeroes).blocks * 512 < MIB, 'zeroes are written');
      assert.ok(readFileSync(zeroes).equals(Buffer.alloc(3 * MIB)));
      for (const row of images.list()) if (!images.isPinned(row)) await images.remove(row);
      const left = await images.fsInfo();
      assert.deepEqual(left.image, { bytes: await du('-B1'), inodes: await du('--inodes') });
    });

    test('a native container shares its blocks with the image where the file system can', async () => {
      const images = await node('shared', { snapshotter: 'native' });
      const row = await pullImage(images, `${await serveLayers(registries, [SIZES])}/app:1`);
      await run('sync', ['-f', at]);
      const before = free();
      await images.prepareSnapshot({ dir: join(at, 'shared/snapshots/one'), image: row });
      await run('sync', ['-f', at]);
      const taken = before - free();
      if (type === 'ext4') assert.ok(taken > 9 * MIB, `a copy of 12 MiB takes ${taken} bytes`);
      else assert.ok(taken < 5 * MIB, `a copy that shares its blocks takes ${taken} bytes`);
    });

    test('a disk that is full half-way leaves nothing, and the next pull works', async () => {
      const images = await node('full');
      const [small, large] = [
        await serveLayers(registries, [tarball([{ path: 'small', content: randomBytes(1000) }])]),
        await serveLayers(registries, [tarball([{ path: 'large', content: randomBytes(64 * MIB) }])]),
      ];
      const { bavail, bsize } = statfsSync(at);
      await run('fallocate', ['-l', String(bavail * bsize - 24 * MIB), join(at, 'ballast')]);
      const error = await pullImage(images, `${large}/app:1`).then(
        () => assert.fail('it was pulled'),
        (reason: unknown) => reason,
      );
      assert.equal(codeOf(error), 'DISK_FULL', explain(error));
      assert.deepEqual(readdirSync(images.layers.folder).sort(), ['1', '_']);
      await pullImage(images, `${small}/app:1`);
    });
  });
}

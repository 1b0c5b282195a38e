import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import { Images } from '../../src/node/images/images.ts';
import type { Descriptor } from '../../src/node/images/manifest.ts';
import { parseReference } from '../../src/node/images/reference.ts';
import type { Repository } from '../../src/node/images/registry.ts';
import type { Resolved } from '../../src/node/images/resolve.ts';
import type { ImageRow, LayerRow } from '../../src/node/images/rows.ts';
import { createLog } from '../../src/node/observe/log.ts';
import { Table } from '../../src/node/store/table.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';

const log = createLog({ level: 'error' });
let lookUps = 0;
const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const ID = { a: digest('a'), b: digest('b') };

interface Fetch {
  dir: string;
  diffId: string;
  parentDirs?: string[];
}

/** Stands for the image workers: makes folders, and fails or waits as it is told. */
class Worker {
  readonly use = { threads: 1 };
  readonly calls: { op: string; input: Fetch & { folders?: string[] } }[] = [];
  fetch: (input: Fetch) => Promise<{ implied?: string[] } | undefined> = async () => undefined;

  async call(op: string, input: Fetch): Promise<unknown> {
    this.calls.push({ op, input });
    if (op !== 'fetchLayer') return undefined;
    const result = await this.fetch(input);
    mkdirSync(join(input.dir, 'fs'), { recursive: true });
    return {
      bytes: 100,
      inodes: 2,
      implied: [],
      lowerLinks: [],
      downloadSeconds: 0,
      pauseSeconds: 0,
      unpackSeconds: 0,
      ...result,
    };
  }

  of(op: string) {
    return this.calls.filter((call) => call.op === op).map(({ input }) => input);
  }
}

/** A repository whose layers can always be had. */
const repository = { layer: (_: string, fetch: (source: object) => unknown) => fetch({}) } as unknown as Repository;

async function setup(t: TestContext, options: { maxDownloads?: number; used?: () => Set<string> } = {}) {
  const root = mkdtempSync(join(tmpdir(), 'sluice-images-'));
  t.after(() => rmSync(root, { recursive: true }));
  const worker = new Worker();
  const rows = { images: new Table<ImageRow>(), layers: new Table<LayerRow>() };
  const make = async () => {
    const images = new Images({
      files: hostFiles,
      config: {
        root,
        images: {
          sandbox_image: '',
          registry_config: '/nonexistent',
          max_downloads: options.maxDownloads ?? 4,
          progress_timeout_seconds: 1,
          credentials: '',
          volatile: false,
          snapshotter: 'overlayfs',
          snapshotter_socket: '',
          snapshotter_name: '',
          keep_blobs: false,
          import_folder: '',
          quota: '',
          gc_high_percent: 0,
          gc_low_percent: 80,
          signature_policy: '',
        },
      },
      // biome-ignore lint/suspicious/noExplicitAny: a stand-in for the pool
      pool: worker as any,
      ask: () => assert.fail('no registry is asked'),
      ...rows,
      log,
      usedImages: async () => options.used?.() ?? new Set(),
      diskUsage: async () => ({ timestamp: 0n, usedBytes: 50n, inodes: 5n, tookMs: 1 }),
      lookUpUser: async ({ dirs }) => ({ uid: dirs.length, gid: ++lookUps, additionalGids: [] }),
      removeLayer: async (dir) => rmSync(dir, { recursive: true, force: true }),
      snapshots: {
        prepare: async () => {},
        remove: async () => {},
        copy: async () => {},
        merge: async () => ({ bytes: 1, inodes: 1 }),
        fill: async () => {},
        link: async () => {},
        removeLayer: async ({ dir }) => rmSync(dir, { recursive: true, force: true }),
      },
      warmRegistry: async () => {},
      installPause: async (dir) => {
        mkdirSync(join(dir, 'fs'), { recursive: true });
        return { bytes: 10, inodes: 2 };
      },
      onLayer: () => {},
      onFetched: () => {},
      onSynced: () => {},
      onCollected: () => {},
      onRetry: () => {},
    });
    await images.recover();
    return images;
  };
  const images = await make();
  /** Once removals have had their turn. */
  const folders = async () => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    return readdirSync(join(root, 'layers')).filter((name) => name !== '_');
  };
  return { root, images, worker, rows, folders, restart: make };
}

/** What the first stage of a pull finds. */
function resolved(reference: string, manifest: string, id: string, diffIds: string[]): Resolved {
  const layers: Descriptor[] = diffIds.map((diffId) => ({ mediaType: '', digest: diffId, size: 7 }));
  const file = { rootfs: { type: 'layers', diff_ids: diffIds } };
  return {
    reference: parseReference(reference),
    repository,
    digest: digest(manifest),
    image: {
      ...{ id, config: {}, file, layers, diffIds, size: 7 * layers.length },
      ...{ manifests: [], configBody: Buffer.alloc(0) },
    },
  };
}

/** The last two stages of a pull. */
async function pull(images: Images, what: Resolved): Promise<ImageRow> {
  const held: string[] = [];
  try {
    return await images.commit(what, await images.fetchLayers(what, { onHold: (id) => held.push(id) }));
  } finally {
    images.release(held);
    await images.sweep();
  }
}

test('an image is found by each of its names, its id, and the beginning of it', async (t) => {
  const { images } = await setup(t);
  const row = await pull(images, resolved('busybox:1', 'c', ID.a, [digest('1')]));
  await pull(images, resolved('reg.io/other', 'd', ID.a, [digest('1')]));
  await pull(images, resolved(`reg.io/third:9@${digest('e')}`, 'e', ID.b, [digest('1')]));
  for (const text of [
    'busybox:1',
    'docker.io/library/busybox:1',
    'reg.io/other',
    `busybox@${digest('c')}`,
    `reg.io/other@${digest('d')}`,
    ID.a,
    'aaaaaaaaaaaa',
    'sha256:aaaa',
    'a'.repeat(64),
    digest('d'),
  ]) {
    assert.equal(images.find(text)?.id, ID.a, text);
  }
  for (const text of ['', 'busybox', 'reg.io/third:9', 'sha256:ab', `busybox@${digest('d')}`, 'Not A Reference'])
    assert.equal(images.find(text), undefined, text);
  assert.deepEqual(images.get(row.id).names, [
    'docker.io/library/busybox:1',
    'reg.io/other:latest',
    `docker.io/library/busybox@${digest('c')}`,
    `reg.io/other@${digest('d')}`,
  ]);
  assert.equal(images.find(ID.b)?.names.length, 1);
  assert.throws(() => images.get(digest('9')), { code: 'IMAGE_NOT_FOUND' });
});

test('an ambiguous beginning of an id is refused', async (t) => {
  const { images } = await setup(t);
  await pull(images, resolved('one', 'c', `sha256:12${'a'.repeat(62)}`, []));
  await pull(images, resolved('two', 'd', `sha256:12${'b'.repeat(62)}`, []));
  assert.throws(() => images.find('12'), { code: 'INVALID_REQUEST' });
  assert.match(images.find('12b')?.names[0] ?? '', /two/);
});

test('a tag that moves leaves the old image with its digest; removal takes all names and the layers', async (t) => {
  const { images, folders, rows } = await setup(t);
  const pause = await folders();
  await pull(images, resolved('app', 'c', ID.a, [digest('1'), digest('2')]));
  await pull(images, resolved('app', 'd', ID.b, [digest('1'), digest('3')]));
  assert.deepEqual(images.get(ID.a).names, [`docker.io/library/app@${digest('c')}`]);
  assert.equal(images.find('app')?.id, ID.b);
  assert.equal((await folders()).length, pause.length + 3, 'the common layer is there once');
  await images.remove(images.get(ID.a));
  assert.equal(images.find(ID.a), undefined);
  assert.deepEqual([...rows.layers.values()].map(({ diffId }) => diffId).slice(1), [digest('1'), digest('3')]);
  assert.equal((await folders()).length, pause.length + 2);
  await images.remove(images.get(ID.b));
  assert.deepEqual(await folders(), pause);
  assert.equal(images.list().length, 1, 'the pause image');
});

test('the built-in pause image cannot be lost', async (t) => {
  const { images, folders } = await setup(t);
  const before = await folders();
  await images.remove(images.get(images.find(images.sandboxImage)?.id ?? ''));
  assert.deepEqual(images.find(images.sandboxImage)?.names, [images.sandboxImage]);
  assert.deepEqual(await folders(), before);
});

test('an image in use loses its names at once and its layers with its last container', async (t) => {
  let used = new Set([ID.a]);
  const { images, root, folders } = await setup(t, { used: () => used });
  const row = await pull(images, resolved('app', 'c', ID.a, [digest('1')]));
  await images.remove(row);
  assert.equal(images.find('app'), undefined);
  assert.equal(images.list().length, 1);
  const [mount] = await images.rootfsMounts(images.get(ID.a), '/snap');
  const lower = mount?.options.find((option) => option.startsWith('lowerdir='))?.slice('lowerdir='.length) ?? '';
  assert.ok(lower.startsWith(root) && existsSync(lower));
  // Pulled again, it is the same.
  await pull(images, resolved('app', 'c', ID.a, [digest('1')]));
  assert.equal(images.find('app')?.id, ID.a);
  await images.remove(images.get(ID.a));
  used = new Set();
  await images.sweep();
  await folders();
  assert.ok(!existsSync(lower));
  assert.throws(() => images.get(ID.a), { code: 'IMAGE_NOT_FOUND' });
});

test('layers that several pulls want at once are fetched once', async (t) => {
  const { images, worker } = await setup(t);
  const gate = Promise.withResolvers<undefined>();
  worker.fetch = () => gate.promise;
  const both = [
    pull(images, resolved('one', 'c', ID.a, [digest('1'), digest('2')])),
    pull(images, resolved('two', 'd', ID.b, [digest('1'), digest('3')])),
  ];
  gate.resolve(undefined);
  await Promise.all(both);
  assert.deepEqual(
    worker
      .of('fetchLayer')
      .map(({ diffId }) => diffId)
      .sort(),
    [digest('1'), digest('2'), digest('3')],
  );
});

test('no more layers at once than max_downloads, over all pulls', async (t) => {
  const { images, worker } = await setup(t, { maxDownloads: 2 });
  let running = 0;
  let most = 0;
  worker.fetch = async () => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setTimeout(resolve, 5));
    running--;
    return undefined;
  };
  await Promise.all([
    pull(images, resolved('one', 'c', ID.a, ['1', '2', '3'].map(digest))),
    pull(images, resolved('two', 'd', ID.b, ['4', '5', '6'].map(digest))),
  ]);
  assert.equal(most, 2);
});

test('another max_downloads counts at once: for layers that wait, and for those that come', async (t) => {
  const { images, worker } = await setup(t, { maxDownloads: 1 });
  const ends: (() => void)[] = [];
  worker.fetch = () => new Promise<undefined>((resolve) => ends.push(() => resolve(undefined)));
  const running = async (count: number) => {
    for (let i = 0; i < 200 && ends.length !== count; i++) await new Promise((resolve) => setTimeout(resolve, 1));
    assert.equal(ends.length, count);
  };
  const end = (count: number) => {
    for (const done of ends.splice(0, count)) done();
  };
  const layers = ['1', '2', '3', '4', '5', '6'].map(digest);
  const pulled = pull(images, resolved('one', 'c', ID.a, layers));
  await running(1);
  images.layers.maxDownloads = 4;
  await running(4);
  images.layers.maxDownloads = 1;
  end(3); // three turns are given up, since one layer runs still
  await new Promise((resolve) => setTimeout(resolve, 20));
  await running(1);
  end(1);
  await running(1);
  end(1);
  await running(1);
  end(1);
  await pulled;
});

test('turns go round among the pulls: one layer does not wait for forty', async (t) => {
  const { images, worker } = await setup(t, { maxDownloads: 2 });
  const order: string[] = [];
  worker.fetch = async ({ diffId }) => {
    order.push(diffId);
    await new Promise((resolve) => setTimeout(resolve, 1));
    return undefined;
  };
  const many = Array.from({ length: 40 }, (_, i) => `sha256:${String(i).padStart(64, '0')}`);
  await Promise.all([
    pull(images, resolved('big', 'c', ID.a, many)),
    pull(images, resolved('one', 'd', ID.b, [digest('5')])),
    pull(images, resolved('two', 'e', digest('f'), [digest('6')])),
  ]);
  assert.equal(order.length, 42);
  assert.ok(order.indexOf(digest('5')) < 6 && order.indexOf(digest('6')) < 6, String(order.slice(0, 8)));
});

test('a failed pull leaves nothing, and spares the layers that had not begun', async (t) => {
  const { images, worker, folders, rows } = await setup(t, { maxDownloads: 1 });
  const before = await folders();
  worker.fetch = async ({ diffId }) => {
    if (diffId === digest('2')) throw new SluiceError('IMAGE_INVALID', 'broken');
    return undefined;
  };
  await assert.rejects(pull(images, resolved('app', 'c', ID.a, ['1', '2', '3'].map(digest))), (error: SluiceError) => {
    assert.equal(error.code, 'IMAGE_INVALID');
    return true;
  });
  assert.equal(worker.of('fetchLayer').length, 2);
  assert.deepEqual(await folders(), before);
  assert.equal(rows.layers.size, 1);
  assert.equal(images.find('app'), undefined);
});

test('a pull that joined a failing layer tries with its own login', async (t) => {
  const { images, worker } = await setup(t);
  const gate = Promise.withResolvers<undefined>();
  let first = true;
  worker.fetch = async () => {
    if (!first) return undefined;
    first = false;
    await gate.promise;
    throw new SluiceError('REGISTRY_DENIED', 'no');
  };
  const one = pull(images, resolved('one', 'c', ID.a, [digest('1')]));
  const two = pull(images, resolved('two', 'd', ID.b, [digest('1')]));
  gate.resolve(undefined);
  await assert.rejects(one, { code: 'REGISTRY_DENIED' });
  assert.equal((await two).id, ID.b);
});

test('implied folders are dressed once the layers below are there, and then fit on no other base', async (t) => {
  const { images, worker } = await setup(t);
  const implied = digest('9');
  worker.fetch = async ({ diffId }) => {
    if (diffId !== implied) await new Promise((resolve) => setTimeout(resolve, 10));
    return diffId === implied ? { implied: ['tmp'] } : undefined;
  };
  const one = await pull(images, resolved('one', 'c', ID.a, [digest('1'), implied]));
  const [inherit] = worker.of('inheritAttributes');
  assert.deepEqual(inherit?.folders, ['tmp']);
  assert.deepEqual(inherit?.parentDirs, [join(images.layers.folder, one.layers[0] ?? '', 'fs')]);
  const two = await pull(images, resolved('two', 'd', ID.b, [digest('2'), implied]));
  assert.notEqual(two.layers[1], one.layers[1]);
  const three = await pull(images, resolved('three', 'e', digest('f'), [digest('1'), implied]));
  assert.deepEqual(three.layers, one.layers);
});

test('a bound layer at the bottom of one image is not what another has on top', async (t) => {
  const { images, worker } = await setup(t);
  worker.fetch = async ({ diffId }) => (diffId === digest('9') ? { implied: ['tmp'] } : undefined);
  const one = await pull(images, resolved('one', 'c', ID.a, [digest('9')]));
  const two = await pull(images, resolved('two', 'd', ID.b, [digest('1'), digest('9')]));
  assert.notEqual(two.layers[1], one.layers[0]);
  const three = await pull(images, resolved('three', 'e', digest('f'), [digest('9'), digest('2')]));
  assert.equal(three.layers[0], one.layers[0]);
});

test('pulls of bound layers on each other, in any order and at once, all end', async (t) => {
  const { images, worker } = await setup(t, { maxDownloads: 2 });
  const [x, y, z] = [digest('7'), digest('8'), digest('9')];
  worker.fetch = async ({ diffId }) => {
    await new Promise((resolve) => setTimeout(resolve, diffId === x ? 6 : 2));
    return { implied: ['tmp'] };
  };
  const stacks = [
    [x, y, z],
    [z, y, x],
    [y, x, z],
    [x, z, y],
    [x, y, z],
  ];
  const rows = await Promise.all(
    stacks.map((stack, i) => pull(images, resolved(`i${i}`, `${i}`, `sha256:${`${i}`.repeat(64)}`, stack))),
  );
  const diffIds = (row: ImageRow) => row.layers.map((id) => join(images.layers.folder, id, 'fs'));
  assert.deepEqual(rows[4]?.layers, rows[0]?.layers);
  assert.equal(new Set(rows.flatMap(diffIds)).size, 11, 'stacks 0 and 4 are one, 0 and 3 have their bottom in common');
  // Each was dressed by what lies below it in its own image.
  for (const row of rows) {
    for (const [i, id] of row.layers.entries()) {
      const inherit = worker
        .of('inheritAttributes')
        .find(({ dir }) => join(images.layers.folder, id, 'fs') === join(dir, 'fs'));
      assert.deepEqual(
        inherit?.parentDirs,
        row.layers
          .slice(0, i)
          .toReversed()
          .map((below) => join(images.layers.folder, below, 'fs')),
      );
    }
  }
});

test('a lower layer that failed for another pull does not fail the layers above it here', async (t) => {
  const { images, worker } = await setup(t);
  let first = true;
  worker.fetch = async ({ diffId }) => {
    if (diffId === digest('9')) return { implied: ['tmp'] };
    if (!first) return undefined;
    first = false;
    await new Promise((resolve) => setTimeout(resolve, 5));
    throw new SluiceError('REGISTRY_DENIED', 'no');
  };
  const one = pull(images, resolved('one', 'c', ID.a, [digest('1')]));
  const two = pull(images, resolved('two', 'd', ID.b, [digest('1'), digest('9')]));
  await assert.rejects(one, { code: 'REGISTRY_DENIED' });
  const row = await two;
  assert.deepEqual(worker.of('inheritAttributes')[0]?.parentDirs, [
    join(images.layers.folder, row.layers[0] ?? '', 'fs'),
  ]);
});

test('after a crash: half layers, stray folders and rows without folders are gone, the rest is as it was', async (t) => {
  const { images, root, rows, restart, folders } = await setup(t);
  await pull(images, resolved('good', 'c', ID.a, [digest('1')]));
  await pull(images, resolved('lost', 'd', ID.b, [digest('2')]));
  const lost = rows.images.get(ID.b)?.layers[0] ?? '';
  rmSync(join(root, 'layers', lost), { recursive: true });
  mkdirSync(join(root, 'layers/zz/fs'), { recursive: true });
  mkdirSync(join(root, 'layers/7.tmp-12ab'));
  rows.layers.put({ id: '8', diffId: digest('8'), digest: '', size: 0, base: '', bytes: 0, inodes: 0, ready: false });
  mkdirSync(join(root, 'layers/8'));
  const again = await restart();
  assert.equal(again.find('good')?.id, ID.a);
  assert.equal(again.find('lost'), undefined);
  assert.ok(again.find(again.sandboxImage));
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal((await folders()).length, 2);
  assert.equal(rows.layers.size, 2);
  const next = await pull(again, resolved('next', 'e', ID.b, [digest('2')]));
  assert.ok(Number.parseInt(next.layers[0] ?? '', 36) > Number.parseInt('zz', 36), 'an old id is used again');
});

test('mounts: topmost layer first, one layer is bound, none is an empty folder, a repeated one counts on top', async (t) => {
  const { images } = await setup(t);
  const row = await pull(images, resolved('app', 'c', ID.a, [digest('1'), digest('2'), digest('1')]));
  const [bottom = '', top = ''] = row.layers.map((id) => join(images.layers.folder, id, 'fs'));
  assert.deepEqual(await images.rootfsMounts(row, '/snap'), [
    {
      type: 'overlay',
      source: 'overlay',
      target: '',
      options: ['index=off', `lowerdir=${bottom}:${top}`, 'upperdir=/snap/fs', 'workdir=/snap/work'],
    },
  ]);
  assert.deepEqual((await images.viewMounts(row))[0]?.options, ['ro', 'index=off', `lowerdir=${bottom}:${top}`]);
  const single = await pull(images, resolved('single', 'd', ID.b, [digest('1')]));
  assert.deepEqual(await images.viewMounts(single), [
    { type: 'bind', source: bottom, target: '', options: ['rbind', 'ro'] },
  ]);
  const none = await pull(images, resolved('none', 'e', digest('f'), []));
  const source = (await images.viewMounts(none))[0]?.source ?? '';
  assert.deepEqual(readdirSync(source), []);
  const request = { user: 'app', supplementalGroups: [], mergeImageGroups: true };
  const first = await images.lookUpUser(row, request);
  assert.equal(first.uid, 2, 'both layers');
  assert.equal(await images.lookUpUser(row, { ...request }), first, 'looked up twice');
  assert.notEqual((await images.lookUpUser(row, { ...request, user: 'other' })).gid, first.gid);
});

test('disk use: layers and snapshots, the pause image is pinned', async (t) => {
  const { images, root } = await setup(t);
  const row = await pull(images, resolved('app', 'c', ID.a, [digest('1'), digest('2')]));
  const usage = await images.fsInfo();
  // The folders above the layers count as du counts them.
  const own = ['layers', 'layers/_', 'layers/_/fs'].map((name) => statSync(join(root, name)).blocks * 512);
  const bytes = 260 + own.reduce((sum, one) => sum + one, 0);
  assert.deepEqual(usage.image, { bytes: BigInt(bytes), inodes: 14n });
  assert.deepEqual(usage.containers, { bytes: 50n, inodes: 5n });
  assert.equal(images.isPinned(row), false);
  assert.equal(images.isPinned(images.find(images.sandboxImage) ?? row), true);
});

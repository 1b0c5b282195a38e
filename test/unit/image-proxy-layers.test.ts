/** Layers in a proxy snapshotter, against one in memory that fails and waits on demand. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import type { Snapshots } from '../../src/node/grpc/snapshots.ts';
import { chainIdOf } from '../../src/node/images/digest.ts';
import type { WantedLayer } from '../../src/node/images/layer-store.ts';
import type { LayerRow } from '../../src/node/images/rows.ts';
import { ProxyLayers } from '../../src/node/images/snapshotters/proxy-layers.ts';
import { createLog } from '../../src/node/observe/log.ts';
import { Table } from '../../src/node/store/table.ts';

interface Snapshot {
  parent: string;
  committed: boolean;
  labels: Record<string, string>;
}

/** A snapshotter as containerd's library makes them; `remote` layers are there without being filled. */
class Fake {
  readonly all = new Map<string, Snapshot>();
  readonly remote = new Set<string>();
  readonly labels: Record<string, string>[] = [];
  /** Awaited before a removal. */
  beforeRemove: () => Promise<void> = async () => {};

  async prepare(key: string, parent: string, labels: Record<string, string>) {
    assert.ok(parent === '' || this.all.get(parent)?.committed, `the parent ${parent} is not there`);
    this.labels.push(labels);
    const name = labels['containerd.io/snapshot.ref'] ?? '';
    if (this.remote.has(name)) {
      this.all.set(name, { parent, committed: true, labels });
      return 'exists';
    }
    this.all.set(key, { parent, committed: false, labels });
    return [];
  }

  async commit(name: string, key: string, labels: Record<string, string>) {
    const active = this.all.get(key);
    assert.ok(active && !active.committed, `${key} is not there`);
    this.all.delete(key);
    this.all.set(name, { ...active, committed: true, labels });
    return 'committed';
  }

  async stat(name: string) {
    const found = this.all.get(name);
    return found && { name, ...found };
  }

  async remove(name: string) {
    await this.beforeRemove();
    if ([...this.all.values()].some(({ parent }) => parent === name)) return 'used';
    this.all.delete(name);
    return 'removed';
  }

  async cleanup() {}

  async usage() {
    return { bytes: 100, inodes: 3 };
  }

  async list() {
    return [...this.all].map(([name, rest]) => ({ name, ...rest }));
  }

  get names(): string[] {
    return [...this.all.keys()].sort();
  }
}

const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const layer = (letter: string): WantedLayer => ({
  diffId: digest(letter),
  blob: {
    mediaType: '',
    digest: digest(letter),
    size: 7,
    annotations: { 'containerd.io/snapshot/x': letter, other: 'y' },
  },
  repository: { layer: (_, fetch) => fetch({} as never, async () => undefined) },
});
const names = (...letters: string[]) => letters.map((_, at) => chainIdOf(letters.slice(0, at + 1).map(digest))).sort();
const IMAGE = { reference: 'reg.test/app:1', manifest: digest('e') };

function setup(t: TestContext) {
  const root = mkdtempSync(join(tmpdir(), 'sluice-proxy-'));
  t.after(() => rmSync(root, { recursive: true }));
  const snapshotter = new Fake();
  const rows = new Table<LayerRow>();
  const fetched: string[] = [];
  /** Awaited by each download; may throw. */
  const hooks = { fetch: async (_: string) => {} };
  const make = async (used: string[] = []) => {
    const layers = new ProxyLayers({
      root,
      client: snapshotter as unknown as Snapshots,
      worker: {
        prepare: async () => {},
        remove: async () => {},
        copy: async () => {},
        merge: async () => ({ bytes: 0, inodes: 0 }),
        fill: async () => {},
        link: async () => {},
        removeLayer: async () => {},
      },
      labels: { 'sluice/daemon': 'me' },
      rows,
      maxDownloads: 4,
      progressTimeoutMs: () => 1000,
      log: createLog({ level: 'error' }),
      pool: {
        call: async (_: string, { digest: of }: { digest: string }) => {
          fetched.push(of);
          await hooks.fetch(of);
          return { downloadSeconds: 0, pauseSeconds: 0, bytes: 1, inodes: 1, implied: [], lowerLinks: [] };
        },
        // biome-ignore lint/suspicious/noExplicitAny: a stand-in for the pool
      } as any,
    });
    await layers.recover(new Set(used));
    return layers;
  };
  return { root, snapshotter, rows, fetched, hooks, make };
}

const pull = async (layers: ProxyLayers, letters: string[], signal?: AbortSignal) => {
  const held: string[] = [];
  try {
    return await layers.fetchAll(letters.map(layer), { onHold: (id) => held.push(id), signal, image: IMAGE });
  } finally {
    layers.release(held);
  }
};

test('layers are committed in order under their chainIDs, and told what containerd would tell', async (t) => {
  const { snapshotter, fetched, make, rows } = setup(t);
  const layers = await make();
  const made = await pull(layers, ['a', 'b', 'c']);
  assert.deepEqual(snapshotter.names, names('a', 'b', 'c'));
  assert.deepEqual([...fetched].sort(), ['a', 'b', 'c'].map(digest));
  assert.deepEqual(layers.usage, { bytes: 300, inodes: 9 });
  assert.ok(made.every(({ ready, snapshot }) => ready && snapshot !== undefined));
  assert.equal(snapshotter.labels.length, 3);
  assert.deepEqual(snapshotter.labels[1], {
    'containerd.io/snapshot/x': 'b',
    'sluice/daemon': 'me',
    'containerd.io/snapshot.ref': chainIdOf([digest('a'), digest('b')]),
    'containerd.io/snapshot/cri.image-ref': IMAGE.reference,
    'containerd.io/snapshot/cri.manifest-digest': IMAGE.manifest,
    'containerd.io/snapshot/cri.layer-digest': digest('b'),
    'containerd.io/snapshot/cri.image-layers': [digest('b'), digest('c')].join(','),
  });
  await pull(layers, ['a', 'b', 'd']);
  assert.deepEqual(fetched.slice(3), [digest('d')], 'shared layers are fetched once');
  await layers.sweep(new Set(made.map(({ id }) => id)));
  assert.deepEqual(snapshotter.names, names('a', 'b', 'c'));
  await layers.sweep(new Set());
  assert.deepEqual([snapshotter.names, rows.size, layers.usage.bytes], [[], 0, 0]);
});

test('what the snapshotter has at once is not downloaded, and what lies above it may be', async (t) => {
  const { snapshotter, fetched, make } = setup(t);
  for (const name of names('a', 'b')) snapshotter.remote.add(name);
  const layers = await make();
  await pull(layers, ['a', 'b', 'c']);
  assert.deepEqual(fetched, [digest('c')]);
  assert.deepEqual(snapshotter.names, names('a', 'b', 'c'));
});

test('a layer that fails leaves nothing but the layers below it, and the next pull works', async (t) => {
  const { snapshotter, hooks, make, rows } = setup(t);
  const layers = await make();
  hooks.fetch = async (of) => {
    if (of === digest('b')) throw new SluiceError('IMAGE_INVALID', 'a bad layer');
  };
  await assert.rejects(pull(layers, ['a', 'b', 'c']), { code: 'IMAGE_INVALID' });
  assert.deepEqual(snapshotter.names, names('a'));
  assert.equal(rows.size, 1);
  hooks.fetch = async () => {};
  await pull(layers, ['a', 'b', 'c']);
  assert.deepEqual(snapshotter.names, names('a', 'b', 'c'));
});

test('a pull is cancelled; another one of the same image is not', async (t) => {
  const { hooks, make, snapshotter, fetched } = setup(t);
  const layers = await make();
  const gate = Promise.withResolvers<void>();
  hooks.fetch = () => gate.promise;
  const abort = new AbortController();
  const [first, second] = [pull(layers, ['a', 'b'], abort.signal), pull(layers, ['a', 'b'])];
  const lost = assert.rejects(first, { code: 'CALLER_GONE' });
  abort.abort();
  gate.resolve();
  await lost;
  await second;
  assert.deepEqual(snapshotter.names, names('a', 'b'));
  assert.ok(fetched.length >= 2);
});

test('two pulls at once make each layer once', async (t) => {
  const { make, snapshotter, rows } = setup(t);
  const layers = await make();
  const [one, two] = await Promise.all([pull(layers, ['a', 'b']), pull(layers, ['a', 'b', 'c'])]);
  assert.deepEqual(
    one.map(({ id }) => id),
    two.slice(0, 2).map(({ id }) => id),
  );
  assert.deepEqual([snapshotter.names, rows.size], [names('a', 'b', 'c'), 3]);
});

test('a layer that is wanted while it is removed is made again', async (t) => {
  const { make, snapshotter, fetched } = setup(t);
  const layers = await make();
  await pull(layers, ['a']);
  const removing = Promise.withResolvers<void>();
  snapshotter.beforeRemove = () => removing.promise;
  const sweep = layers.sweep(new Set());
  const again = pull(layers, ['a']);
  removing.resolve();
  const [row] = await again;
  await sweep;
  assert.ok(row && layers.has(row.id));
  assert.deepEqual([snapshotter.names, fetched.length], [names('a'), 2]);
});

test('after a start: what the snapshotter lost is forgotten, and what nobody knows of ours is removed', async (t) => {
  const { make, snapshotter, root } = setup(t);
  const made = await pull(await make(), ['a', 'b']);
  const used = made.map(({ id }) => id);
  const ours = { 'sluice/daemon': 'me' };
  snapshotter.all.set('sluice-extract-9', { parent: '', committed: false, labels: ours });
  snapshotter.all.set('gone-container', { parent: names('a')[0] ?? '', committed: false, labels: ours });
  snapshotter.all.set('of-containerd', { parent: '', committed: false, labels: {} });
  const again = await make(used);
  assert.deepEqual(snapshotter.names, [...names('a', 'b'), 'of-containerd'].sort());
  assert.ok(used.every((id) => again.has(id)));
  assert.deepEqual(readdirSync(join(root, 'layers')), []);
  const top = made[1]?.snapshot ?? '';
  snapshotter.all.delete(top);
  const third = await make(used);
  assert.deepEqual(
    used.map((id) => third.has(id)),
    [true, false],
  );
});

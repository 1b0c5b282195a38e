import assert from 'node:assert/strict';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ContainerConfig, PodSandboxConfig } from '../../proto/gen/cri.ts';
import type { ContainerRow } from '../../src/node/store/container.ts';
import type { SandboxRow } from '../../src/node/store/sandbox.ts';
import { Store } from '../../src/node/store/store.ts';
import { checkpoint } from '../../src/workers/store/checkpoint.ts';
import { syncCopies, writeCopies } from '../../src/workers/store/copies.ts';

/** Rows of two pods, a container, an image and its layers. */
const SANDBOX = (id: string) =>
  ({
    id,
    state: 'ready',
    createdAt: 2n ** 60n,
    config: PodSandboxConfig.decode(new Uint8Array()),
    pid: 5,
  }) as SandboxRow;
const CONTAINER = {
  id: 'c1',
  sandbox: 'p1',
  state: 'exited',
  config: ContainerConfig.decode(new Uint8Array()),
  createdAt: 1n,
  startedAt: 2n,
  finishedAt: 3n,
  exitCode: 42,
} as ContainerRow;

class Rig implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'sluice-broken-'));
  readonly path = join(this.folder, 'root/sluice.db');
  readonly logged: { level: string; about: Record<string, unknown>; message: string }[] = [];

  /** Opens the store as the daemon does, the copies' files being written by this thread. */
  open(): Store {
    const log = (level: string) => (about: unknown, message?: string) =>
      void this.logged.push({ level, about: about as Record<string, unknown>, message: message ?? String(about) });
    const at = (top: string, table: string) => join(this.folder, top, 'rows', table);
    return new Store(this.path, {
      log: { info: log('info'), warn: log('warn'), error: log('error') },
      copies: {
        folders: {
          sandboxes: at('state', 'sandboxes'),
          containers: at('state', 'containers'),
          images: at('root', 'images'),
          layers: at('root', 'layers'),
        },
        writer: { writeCopies: async (input) => writeCopies(input), syncCopies: async (input) => syncCopies(input) },
      },
    });
  }

  /**
   * A store with rows, as a killed daemon leaves it. Most of them are in the database, the last one in the WAL alone.
   */
  async fill(): Promise<void> {
    const store = this.open();
    store.sandboxes.put(SANDBOX('p1'));
    store.sandboxes.put(SANDBOX('gone'));
    store.containers.put(CONTAINER);
    store.images.put({ id: 'sha256:1', names: ['a:b'], config: {}, file: {} as never, layers: ['1'], size: 1 });
    for (let id = 1; id < 200; id++) store.layers.put(layer(id));
    checkpoint({ path: this.path });
    store.sandboxes.put(SANDBOX('p2'));
    store.sandboxes.delete('gone');
    await store.copies?.[Symbol.asyncDispose]();
    // A connection that closes makes a checkpoint; the killed daemon's files are those before it.
    const files = readdirSync(join(this.folder, 'root')).filter((name) => name.startsWith('sluice.db'));
    const kept = files.map((name) => [join(this.folder, 'root', name), readFileSync(join(this.folder, 'root', name))]);
    store[Symbol.dispose]();
    for (const [path, bytes] of kept) writeFileSync(path as string, bytes as Buffer);
  }

  assertWhole(store: Store): void {
    assert.deepEqual([...store.sandboxes.values()].map(({ id }) => id).sort(), ['p1', 'p2']);
    assert.deepEqual(store.sandboxes.get('p1'), SANDBOX('p1'));
    assert.deepEqual([...store.containers.values()], [CONTAINER]);
    assert.equal(store.images.get('sha256:1')?.names[0], 'a:b');
    assert.equal(store.layers.size, 199);
  }

  /** What is beside the store under names of broken ones. */
  aside(): string[] {
    return readdirSync(join(this.folder, 'root')).filter((name) => name.includes('.broken-'));
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const layer = (id: number) => ({
  id: String(id),
  diffId: 'sha256:d'.repeat(20),
  digest: '',
  size: 0,
  base: '',
  bytes: 0,
  inodes: 0,
  ready: true,
});

function garble(path: string, at: number, bytes: number): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.alloc(bytes, 0xa5), 0, bytes, at);
  closeSync(fd);
}

const DAMAGE: Record<string, (path: string) => void> = {
  'that is no database': (path) => writeFileSync(path, 'something else altogether'.repeat(1000)),
  'whose header is garbled': (path) => garble(path, 0, 64),
  'with a garbled page': (path) => garble(path, 4096 * 3, 4096),
  'cut to half of its length': (path) => {
    rmSync(`${path}-wal`);
    truncateSync(path, Math.floor(statSync(path).size / 2));
  },
  'cut to nothing': (path) => truncateSync(path, 0),
  'that is gone': (path) => {
    for (const suffix of ['', '-wal', '-shm']) rmSync(path + suffix);
  },
  'that is a folder': (path) => {
    for (const suffix of ['', '-wal', '-shm']) rmSync(path + suffix);
    mkdirSync(path);
  },
  'with a row that is no JSON': (path) => {
    const db = new DatabaseSync(path);
    db.exec("UPDATE sandboxes SET row = '{' WHERE id = 'p1'");
    db.close();
  },
  'with a row of another id': (path) => {
    const db = new DatabaseSync(path);
    db.exec("UPDATE layers SET id = 'other' WHERE id = '7'");
    db.close();
  },
};

for (const [what, damage] of Object.entries(DAMAGE)) {
  test(`a store ${what} is moved aside and rebuilt from the copies`, async () => {
    using rig = new Rig();
    await rig.fill();
    damage(rig.path);
    {
      using store = rig.open();
      rig.assertWhole(store);
      assert.equal(store.rebuilt, true);
      assert.equal(store.trouble, undefined);
      const [rebuilt] = rig.logged.filter(({ level, message }) => level === 'error' && /rebuilt/.test(message));
      assert.deepEqual(rebuilt?.about.found, { sandboxes: 2, containers: 1, images: 1, layers: 199 });
      if (!/gone|nothing/.test(what)) {
        const moved = rig.logged.find(({ level, message }) => level === 'error' && /moved aside/.test(message));
        assert.match(String(moved?.about.aside), /sluice\.db\.broken-20\d\d-/);
        assert.ok(existsSync(String(moved?.about.aside)), 'the broken one is there to be looked at');
        assert.ok(rig.aside().length > 0);
      }
      store.sandboxes.put(SANDBOX('p3'));
      await store.copies?.[Symbol.asyncDispose]();
    }
    using again = rig.open();
    assert.equal(again.rebuilt, false, 'the new one is a whole store');
    assert.equal(again.sandboxes.size, 3);
  });
}

test('a store that is whole is not rebuilt, and its copies are made to agree with it', async () => {
  using rig = new Rig();
  await rig.fill();
  const folder = join(rig.folder, 'state/rows/sandboxes');
  // What a daemon leaves that was killed between the write of the store and that of the copies.
  writeFileSync(join(folder, 'gone'), JSON.stringify({ version: 1, row: { id: 'gone' } }));
  rmSync(join(folder, 'p2'));
  writeFileSync(join(folder, 'p1.new'), 'half of a');
  using store = rig.open();
  rig.assertWhole(store);
  assert.equal(store.rebuilt, false);
  assert.deepEqual(rig.aside(), []);
  await store.syncCopies();
  assert.deepEqual(readdirSync(folder).sort(), ['p1', 'p2']);
});

test('a copy that cannot be read costs its own row and no other', async () => {
  using rig = new Rig();
  await rig.fill();
  const folder = join(rig.folder, 'state/rows/sandboxes');
  truncateSync(join(folder, 'p2'), 0);
  writeFileSync(join(folder, 'p4'), JSON.stringify({ version: 1, row: { id: 'p4' } }));
  writeFileSync(join(folder, 'p5'), JSON.stringify({ version: 99, row: { id: 'p5' } }));
  writeFileSync(rig.path, 'broken');
  using store = rig.open();
  assert.deepEqual(
    [...store.sandboxes.values()].map(({ id }) => id),
    ['p1'],
  );
  assert.equal(store.layers.size, 199);
  assert.equal(rig.logged.filter(({ level }) => level === 'warn').length, 3);
});

test('copies follow the rows, a few files for many changes, and are for root alone', async () => {
  using rig = new Rig();
  using store = rig.open();
  const row = SANDBOX('p1');
  store.sandboxes.put(row);
  const file = join(rig.folder, 'state/rows/sandboxes/p1');
  for (let pid = 0; pid < 100; pid++) {
    row.pid = pid;
    store.sandboxes.update(row);
  }
  assert.equal(existsSync(file), false, 'they are written a little later');
  for (let n = 0; !existsSync(file) && n < 100; n++) await sleep(20);
  assert.equal(JSON.parse(readFileSync(file, 'utf8')).row.pid, 99);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.equal(statSync(join(rig.folder, 'state/rows/sandboxes')).mode & 0o777, 0o700);
  store.sandboxes.delete('p1');
  await store.copies?.[Symbol.asyncDispose]();
  assert.equal(existsSync(file), false);
});

test('the store, its WAL, its shared memory and its ballast are for root alone, also those of an older Sluice', async () => {
  using rig = new Rig();
  await rig.fill();
  const files = ['', '-wal', '-shm'].map((suffix) => rig.path + suffix);
  const { chmodSync } = await import('node:fs');
  for (const path of files) chmodSync(path, 0o644);
  using store = rig.open();
  store.sandboxes.put(SANDBOX('p9'));
  for (const path of [...files, `${rig.path}.ballast`]) assert.equal(statSync(path).mode & 0o777, 0o600, path);
});

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FileHelper } from '../../src/workers/image/file-helper.ts';
import { FileQueue, fileQueueMemory } from '../../src/workers/image/file-queue.ts';
import { makeSmallFile, type SmallFile } from '../../src/workers/image/small-file.ts';
import { SmallFiles } from '../../src/workers/image/small-files.ts';
import { helpingThread } from '../rig/helping-thread.ts';

const folder = mkdtempSync(join(tmpdir(), 'sluice-file-queue-'));
after(() => rmSync(folder, { recursive: true }));

const TIME = { seconds: 1_700_000_000, nanoseconds: 5_000_000 };

function fileAt(name: string, more: Partial<SmallFile> = {}): SmallFile {
  return { path: join(folder, name), mode: 0o640, owner: undefined, atime: TIME, mtime: TIME, ...more };
}

function filled(queue: FileQueue, files: readonly SmallFile[], content = 'content') {
  const batch = queue.fill();
  assert.ok(batch);
  for (const file of files) assert.ok(batch.add(file, Buffer.from(content)));
  return batch;
}

test('a thread without a layer makes the files of others, as their layer says', async () => {
  await using helping = await helpingThread();
  const queue = new FileQueue(helping.memory);
  const early = { seconds: 2 ** 33, nanoseconds: 0 };
  const files = [fileAt('a'), fileAt('b\xc3\xa9', { mode: 0o4711, atime: early, mtime: early })];
  const batch = filled(queue, files);
  batch.offer();
  batch.wait();
  assert.equal(batch.made, 2);
  assert.equal(batch.blocks, statSync(join(folder, 'a')).blocks + statSync(join(folder, 'bé')).blocks);
  assert.equal(readFileSync(join(folder, 'a'), 'utf8'), 'content');
  assert.equal(statSync(join(folder, 'a')).mode & 0o7777, 0o640);
  assert.equal(statSync(join(folder, 'a')).mtimeMs, 1_700_000_000_005);
  assert.equal(statSync(join(folder, 'bé')).mode & 0o7777, 0o4711);
  assert.equal(statSync(join(folder, 'bé')).mtimeMs, 2 ** 33 * 1000);
});

test('what cannot be made comes back, and the error is met where the layer is', async () => {
  await using helping = await helpingThread();
  const batch = filled(new FileQueue(helping.memory), [fileAt('c'), fileAt('none/d'), fileAt('e')]);
  batch.offer();
  batch.wait();
  assert.equal(batch.made, 1);
  assert.throws(() => batch.work(makeSmallFile), { code: 'ENOENT' });
  assert.equal(existsSync(join(folder, 'e')), false);
  mkdirSync(join(folder, 'none'));
  batch.work(makeSmallFile);
  assert.equal(batch.made, 3);
  assert.ok(existsSync(join(folder, 'e')));
});

test('a layer of many small files is whole, whoever makes them', async () => {
  await using helping = await helpingThread();
  const own = join(folder, 'many');
  mkdirSync(own);
  let here = 0;
  let made = 0;
  let blocks = 0;
  using files = new SmallFiles({
    queue: new FileQueue(helping.memory, { filesOfBatch: 4 }),
    make: (file, data) => {
      here++;
      return makeSmallFile(file, data);
    },
    onMade: (count, taken) => {
      made += count;
      blocks += taken;
    },
  });
  // Until the other thread has made some: it takes a moment to wake up.
  for (let at = 0; here === made && at < 50_000; at++)
    files.add(fileAt(`many/${at}`), Buffer.from(`${at}`), { now: false });
  files.settle();
  const names = readdirSync(own);
  assert.equal(names.length, made);
  assert.ok(here < made, 'the other thread has made none');
  for (const name of names) assert.equal(readFileSync(join(own, name), 'utf8'), name);
  assert.equal(
    blocks,
    names.reduce((sum, name) => sum + statSync(join(own, name)).blocks, 0),
  );
});

test('with nobody to help, what was left to others is taken back in its order', () => {
  const queue = new FileQueue(fileQueueMemory(), { filesOfBatch: 2 });
  queue.join(); // and does not come
  const made: string[] = [];
  const make = ({ path }: SmallFile) => {
    made.push(path);
    return 8;
  };
  let counted = 0;
  using files = new SmallFiles({
    queue,
    make,
    onMade: (count) => {
      counted += count;
    },
  });
  const names = Array.from({ length: 7 }, (_, at) => fileAt(`taken-back-${at}`));
  for (const file of names) files.add(file, Buffer.alloc(0), { now: false });
  // Two batches are offered, more would only wait.
  assert.deepEqual(
    made,
    names.slice(4).map(({ path }) => path),
  );
  assert.deepEqual(
    names.map(({ path }) => files.isComing(path)),
    [true, true, true, true, false, false, false],
  );
  files.settle();
  assert.deepEqual(
    made.slice(3),
    names.slice(0, 4).map(({ path }) => path),
  );
  assert.equal(counted, 7);
  assert.ok(names.every(({ path }) => !files.isComing(path)));
});

test('a layer that is given up leaves nothing to make', () => {
  const memory = fileQueueMemory();
  const queue = new FileQueue(memory, { filesOfBatch: 2 });
  queue.join();
  const make = () => assert.fail('a file is made');
  {
    using files = new SmallFiles({ queue, make, onMade: () => {} });
    for (let at = 0; at < 3; at++) files.add(fileAt(`given-up-${at}`), Buffer.alloc(0), { now: false });
  }
  assert.equal(new FileQueue(memory).take(), undefined);
  const all = Array.from({ length: 9 }, () => queue.fill());
  assert.equal(all.filter(Boolean).length, 8, 'some room is not free again');
  assert.equal(all[8], undefined);
});

test('nobody waits for ever for a thread that has taken files and is gone', () => {
  const memory = fileQueueMemory();
  const batch = filled(new FileQueue(memory, { patienceMs: 30 }), [fileAt('lost')]);
  batch.offer();
  assert.ok(new FileQueue(memory).take());
  assert.equal(batch.take(), false);
  assert.throws(() => batch.wait(), /files of the layer were not made within 0.03 s/);
});

test('a thread helps while it has no layer, and only then', async () => {
  const memory = fileQueueMemory();
  const queue = new FileQueue(memory);
  const helper = new FileHelper(new FileQueue(memory));
  void helper.help();
  assert.equal(queue.helpers, 1);
  const [first, second] = [helper.atWork(), helper.atWork()];
  assert.equal(queue.helpers, 0);
  const batch = filled(queue, [fileAt('helped')]);
  batch.offer();
  await sleep(20);
  assert.ok(batch.isOffered, 'a thread with a layer of its own has taken it');
  first[Symbol.dispose]();
  await sleep(20);
  assert.ok(batch.isOffered);
  assert.equal(queue.helpers, 0);
  second[Symbol.dispose]();
  assert.equal(queue.helpers, 1);
  while (!batch.isDone) await sleep(1);
  assert.ok(existsSync(join(folder, 'helped')));
});

test('a full batch takes no more, and an empty one the largest file with the longest name', () => {
  const queue = new FileQueue(fileQueueMemory());
  const batch = queue.fill();
  const large = Buffer.alloc(32_767, 'x');
  const long = fileAt('x'.repeat(4096 - folder.length - 1));
  assert.equal(long.path.length, 4096);
  assert.equal(batch?.add(long, large), true);
  assert.equal(batch?.add(long, large), false);
  batch?.work(({ path }, data) => {
    assert.equal(path, long.path);
    assert.ok(data.equals(large));
    return 64;
  });
  assert.equal(batch?.blocks, 64);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Collector, type ImageLimits } from '../../src/node/images/collector.ts';
import type { ImageRow } from '../../src/node/images/rows.ts';
import type { Log } from '../../src/node/observe/log.ts';

const OLD = Date.now() - 3_600_000;
const HOUR = 3_600_000;

/** A node whose images take 10 bytes each, and whose file system has 100. */
function node(names: string[], limits: Partial<ImageLimits> = {}) {
  const images = new Map(
    names.map((id, at) => {
      const row: ImageRow = {
        ...{
          id,
          names: [`${id}:1`],
          config: {},
          file: { rootfs: { type: 'layers', diff_ids: [] } },
          layers: [],
          size: 1,
        },
        pulledAt: OLD + at * 1000,
      };
      return [id, row] as const;
    }),
  );
  const used = new Set<string>();
  const removed: string[] = [];
  let collected = 0;
  const failures: string[] = [];
  let now = 0;
  const pass = (ms: number) => {
    now += ms;
  };
  const collector = new Collector({
    now: () => now,
    root: '/nowhere',
    limits: () => ({ quotaBytes: 0, highPercent: 0, lowPercent: 80, ...limits }),
    candidates: () => [...images.values()],
    used: async () => new Set(used),
    bytes: async () => images.size * 10,
    remove: async ({ id }) => {
      images.delete(id);
      removed.push(id);
    },
    onCollected: (_, bytes) => {
      collected += bytes;
    },
    fullness: async () => images.size * 10,
    log: { info() {}, warn() {}, error: (of: object) => failures.push(JSON.stringify(of)) } as unknown as Log,
  });
  pass(HOUR);
  return { images, used, removed, collector, failures, collected: () => collected, pass };
}

test('over the quota, what was used longest ago goes first, and no more than must', async () => {
  const { collector, removed, collected, used } = node(['a', 'b', 'c', 'd', 'e'], { quotaBytes: 30 });
  used.add('a');
  await collector.check();
  assert.deepEqual(removed, ['b', 'c']);
  assert.equal(collected(), 20);
  await collector.check();
  assert.deepEqual(removed, ['b', 'c']);
});

test('a full file system is emptied down to the low mark, and not before the high one', async () => {
  const { collector, removed, images } = node(['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'], {
    highPercent: 90,
    lowPercent: 60,
  });
  await collector.check();
  assert.deepEqual(removed, []);
  images.set('i', { ...(images.get('h') as ImageRow), id: 'i' });
  await collector.check();
  assert.deepEqual(removed, ['a', 'b', 'c']);
});

test('what has just been pulled or used stays, and so does everything without limits', async () => {
  const { collector, removed, images, used } = node(['a', 'b', 'c'], { quotaBytes: 1 });
  assert.ok(images.has('b'));
  collector.pulled('b');
  used.add('c');
  await collector.check();
  used.clear(); // its container has ended a moment ago
  await collector.check();
  assert.deepEqual(removed, ['a']);
  const free = node(['a', 'b']);
  await free.collector.check();
  assert.deepEqual(free.removed, []);
});

test('a pod that comes while images are removed keeps its own', async () => {
  const { collector, removed, used, images } = node(['a', 'b', 'c']);
  const gone = await collector.collect(async () => {
    if (removed.length === 1) used.add('b');
    return false;
  });
  assert.deepEqual(removed, ['a', 'c']);
  assert.deepEqual(
    gone.map(({ names }) => names),
    [['a:1'], ['c:1']],
  );
  assert.deepEqual([...images.keys()], ['b']);
});

test('a check that fails is told to nobody but the log, and the next one works', async () => {
  const { collector, removed, images, failures } = node(['a'], { quotaBytes: 1 });
  const row = images.get('a') as ImageRow;
  Object.defineProperty(row, 'pulledAt', {
    configurable: true,
    get: () => {
      throw new Error('broken');
    },
  });
  await collector.check();
  assert.deepEqual([removed, failures], [[], ['{"reason":"broken"}']]);
  Object.defineProperty(row, 'pulledAt', { value: OLD });
  await collector.check();
  assert.deepEqual(removed, ['a']);
});

test('once the daemon ends nothing is removed any more, not even the rest of what was begun', async () => {
  const { collector, images, removed } = node(['a', 'b', 'c', 'd'], { quotaBytes: 10 });
  images.delete = (id) => {
    collector[Symbol.dispose](); // in the midst of the first removal
    return Map.prototype.delete.call(images, id);
  };
  await collector.check();
  assert.deepEqual(removed, ['a']);
  await collector.check();
  assert.deepEqual(removed, ['a']);
});

test('a wall clock that is set makes nothing old and nothing young', async (t) => {
  for (const step of [HOUR, -HOUR]) {
    t.mock.timers.enable({ apis: ['Date'], now: 1_700_000_000_000 });
    const { collector, removed, used, images, pass } = node(['old', 'used', 'fresh'], { quotaBytes: 1 });
    for (const row of images.values()) row.pulledAt = Date.now(); // as the daemon before has written it
    used.add('used');
    await collector.check();
    assert.deepEqual(removed, ['old', 'fresh'], 'what lay there for an hour goes, whatever the date of its pull');
    images.set('fresh', { ...(images.get('used') as ImageRow), id: 'fresh' });
    collector.pulled('fresh');
    used.clear();
    t.mock.timers.setTime(Date.now() + step);
    await collector.check();
    assert.deepEqual([...images.keys()], ['used', 'fresh'], `a step of ${step} ms`);
    pass(119_000);
    await collector.check();
    assert.deepEqual([...images.keys()], ['used', 'fresh']);
    pass(2000);
    await collector.check();
    assert.deepEqual([...images.keys()], []);
    t.mock.timers.reset();
  }
});

test('what was there when the daemon started stays for two minutes', async () => {
  const { images, removed } = node(['a']);
  let now = 5000;
  const late = new Collector({
    root: '/nowhere',
    limits: () => ({ quotaBytes: 1, highPercent: 0, lowPercent: 0 }),
    candidates: () => [...images.values()],
    used: async () => new Set(),
    bytes: async () => images.size * 10,
    remove: async ({ id }) => void (images.delete(id) && removed.push(id)),
    onCollected: () => {},
    now: () => now,
    log: { info() {}, warn() {}, error() {} } as unknown as Log,
  });
  now += 119_999;
  await late.check();
  assert.deepEqual(removed, []);
  now++;
  await late.check();
  assert.deepEqual(removed, ['a']);
});

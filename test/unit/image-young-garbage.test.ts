import assert from 'node:assert/strict';
import { constants, type PerformanceEntry, PerformanceObserver } from 'node:perf_hooks';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { cachedDataVersionTag } from 'node:v8';
import { YoungGarbage } from '../../src/workers/image/young-garbage.ts';

const isMinor = (entry: PerformanceEntry & { detail?: { kind?: number } }) =>
  entry.detail?.kind === constants.NODE_PERFORMANCE_GC_MINOR;

test('buffers are freed by minor collections, and compiled code in caches stays valid', async () => {
  const tag = cachedDataVersionTag();
  let collections = 0;
  const observer = new PerformanceObserver((list) => {
    collections += list.getEntries().filter(isMinor).length;
  });
  observer.observe({ entryTypes: ['gc'] });
  const garbage = new YoungGarbage();
  for (let at = 0; at < 10; at++) garbage.add(1 << 20);
  await sleep(50);
  observer.disconnect();
  assert.ok(collections >= 5, `${collections} collections`);
  // Threads that start later would compile Node's own modules and the bundle for themselves.
  assert.equal(cachedDataVersionTag(), tag);
});

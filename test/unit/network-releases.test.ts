import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Releases } from '../../src/node/network/releases.ts';
import type { Deferred, Release } from '../../src/workers/net/release.ts';
import type { CniCall } from '../../src/workers/net/types.ts';

const call = (id: string) => ({ attachment: { containerId: id } }) as CniCall;
const deferred = (link: number): Deferred => ({ link, plugins: [0] });
const ids = (releases: Release[]) => releases.map((each) => each.call.attachment.containerId);

/** Releases whose links are in `alive` until they are taken out of it. */
function rig() {
  const alive = new Set<number>();
  const calls: Release[][] = [];
  const failures: unknown[] = [];
  let broken: Error | undefined;
  const releases = new Releases({
    async release(batch) {
      calls.push(batch);
      if (broken) throw broken;
      return { left: batch.flatMap(({ deferred: { link } }, index) => (alive.has(link) ? [index] : [])) };
    },
    onFailure: (error) => failures.push(error),
  });
  const fail = (error: Error | undefined) => {
    broken = error;
  };
  return { alive, calls, failures, releases, fail };
}

test('what is free is released by itself, in one call; the rest is looked at again', async () => {
  const { alive, calls, releases } = rig();
  alive.add(2);
  releases.add(call('one'), deferred(1));
  releases.add(call('two'), deferred(2));
  assert.equal(releases.pending, true);
  while (calls.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.deepEqual(ids(calls[0] ?? []), ['one', 'two']);
  assert.deepEqual(ids(calls[1] ?? []), ['two']);
  alive.clear();
  await releases.settled();
  assert.equal(releases.pending, false);
});

test('closing waits for the last link', async () => {
  const { alive, releases } = rig();
  alive.add(1);
  releases.add(call('one'), deferred(1));
  setTimeout(() => alive.clear(), 60);
  const began = performance.now();
  await releases[Symbol.asyncDispose]();
  assert.ok(performance.now() - began >= 50);
  assert.equal(releases.pending, false);
});

test('a failure is reported, ends the waiting and is tried again', async () => {
  const { failures, releases, fail } = rig();
  fail(new Error('disk full'));
  releases.add(call('one'), deferred(1));
  await releases.settled();
  assert.deepEqual([failures.length, releases.pending], [1, true]);
  fail(undefined);
  await releases.settled();
  assert.equal(releases.pending, false);
});

test('a link that stays for long is deleted', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const now = t.mock.method(performance, 'now', () => 0);
  const { alive, calls, releases } = rig();
  alive.add(1);
  releases.add(call('one'), deferred(1));
  now.mock.mockImplementation(() => 6000);
  t.mock.timers.tick(50);
  await Promise.resolve();
  assert.deepEqual(
    calls.flat().map(({ force }) => force),
    [true],
  );
});

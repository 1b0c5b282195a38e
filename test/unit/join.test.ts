import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf } from '../../src/errors.ts';
import { type CallerLeft, Joins } from '../../src/pipeline/engine/join.ts';

function make(claimTtlMs: number) {
  const unclaimed: string[] = [];
  const joins = new Joins<string, string>({ claimTtlMs, onUnclaimed: (_key, value) => unclaimed.push(value) });
  return { joins, unclaimed };
}

/** A launch in flight whose only caller has left; its result is what the returned gate resolves to. */
async function launchWithoutCaller(joins: Joins<string, string>, reason: CallerLeft = 'deadline') {
  const caller = new AbortController();
  const gate = Promise.withResolvers<string>();
  const call = joins.run('pod', { left: caller.signal }, 'tag', () => gate.promise);
  caller.abort(reason);
  const code = reason === 'deadline' ? 'DEADLINE_PASSED' : 'CALLER_GONE';
  await assert.rejects(call, (error) => codeOf(error) === code);
  return gate;
}

test('a retry joins the launch in flight and gets its id', async () => {
  const { joins } = make(1000);
  const gate = Promise.withResolvers<string>();
  let starts = 0;
  const start = () => {
    starts++;
    return gate.promise;
  };
  const first = joins.run('pod', {}, 'tag', start);
  const second = joins.run('pod', {}, 'tag', start);
  gate.resolve('id-1');
  assert.deepEqual(await Promise.all([first, second]), ['id-1', 'id-1']);
  assert.equal(starts, 1);
  assert.equal(joins.has('pod'), false);
});

test('a caller whose deadline passes stops waiting; the launch goes on and the retry takes it', async () => {
  const { joins, unclaimed } = make(50);
  const gate = await launchWithoutCaller(joins);
  gate.resolve('id-1');
  await sleep(5);
  assert.equal(await joins.run('pod', {}, 'tag', () => Promise.reject(new Error('started twice'))), 'id-1');
  await sleep(80);
  assert.deepEqual(unclaimed, [], 'a claimed launch must not be undone');
});

test('a finished launch that nobody claims is handed over for undoing after claim_ttl', async () => {
  const { joins, unclaimed } = make(20);
  const gate = await launchWithoutCaller(joins, 'cancelled');
  gate.resolve('id-1');
  await sleep(60);
  assert.deepEqual(unclaimed, ['id-1']);
  assert.equal(joins.has('pod'), false);
});

test('a finished launch that was removed before anyone claimed it is not joined', async () => {
  const there = new Set(['id-1', 'id-2']);
  const joins = new Joins<string, string>({
    claimTtlMs: 1000,
    onUnclaimed: () => {},
    exists: (id) => there.has(id),
  });
  const gate = await launchWithoutCaller(joins, 'cancelled');
  gate.resolve('id-1');
  await sleep(1);
  assert.equal(joins.has('pod'), true);
  there.delete('id-1');
  assert.equal(joins.has('pod'), false);
  assert.equal(await joins.run('pod', {}, 'tag', async () => 'id-2'), 'id-2');
});

test('the launch learns when its last caller leaves, and only then', async () => {
  const { joins } = make(20);
  const a = new AbortController();
  const b = new AbortController();
  let signal: AbortSignal | undefined;
  const gate = Promise.withResolvers<string>();
  const first = joins.run('pod', { left: a.signal }, 'tag', (abandoned) => {
    signal = abandoned;
    return gate.promise;
  });
  const second = joins.run('pod', { left: b.signal }, 'tag', () => gate.promise);
  a.abort('deadline');
  await assert.rejects(first);
  assert.equal(signal?.aborted, false);
  b.abort('deadline');
  await assert.rejects(second);
  assert.equal(signal?.aborted, true);
  assert.equal(signal?.reason, 'deadline');
  gate.resolve('id');
});

test('a failure reaches every caller and frees the key', async () => {
  const { joins } = make(1000);
  const gate = Promise.withResolvers<string>();
  const both = [joins.run('pod', {}, 'tag', () => gate.promise), joins.run('pod', {}, 'tag', () => gate.promise)];
  gate.reject(new Error('no network'));
  for (const call of both) await assert.rejects(call, /no network/);
  assert.equal(joins.has('pod'), false);
});

test('a caller that joins gets nothing but the first one’s tag, and the first one joins nobody', async () => {
  const joined: string[] = [];
  const joins = new Joins<string, string>({
    claimTtlMs: 1000,
    onUnclaimed: () => {},
    onJoin: (tag) => joined.push(tag),
  });
  const gate = Promise.withResolvers<string>();
  assert.equal(joins.tag('pod'), undefined);
  const calls = ['first', 'second', 'third'].map((tag) => joins.run('pod', {}, tag, () => gate.promise));
  assert.equal(joins.tag('pod'), 'first');
  assert.deepEqual(joined, ['first', 'first']);
  gate.resolve('id');
  await Promise.all(calls);
  assert.equal(joins.tag('pod'), undefined);
});

test('flights count until they have a result, whoever waits for them', async () => {
  const { joins } = make(1000);
  const gates = [Promise.withResolvers<string>(), Promise.withResolvers<string>()];
  const caller = new AbortController();
  const left = joins.run('a', { left: caller.signal }, 'tag', () => gates[0]?.promise ?? assert.fail());
  const waits = joins.run('b', {}, 'tag', () => gates[1]?.promise ?? assert.fail());
  caller.abort('deadline');
  await assert.rejects(left);
  assert.equal(joins.running, 2);
  gates[0]?.resolve('id-a');
  await sleep(1);
  assert.equal(joins.running, 1, 'a waits to be claimed, which is not running');
  assert.equal(joins.has('a'), true);
  gates[1]?.resolve('id-b');
  await waits;
  assert.equal(joins.running, 0);
});

test('a launch that nobody claimed is over: the next call starts another', async () => {
  const { joins, unclaimed } = make(5);
  const gate = await launchWithoutCaller(joins, 'cancelled');
  gate.resolve('id-1');
  await sleep(20);
  assert.deepEqual(unclaimed, ['id-1']);
  assert.equal(await joins.run('pod', {}, 'tag', async () => 'id-2'), 'id-2');
});

test('a failed launch without callers is no unhandled rejection, and frees the key', async () => {
  const { joins, unclaimed } = make(5);
  const gate = await launchWithoutCaller(joins);
  gate.reject(new Error('no network'));
  await sleep(10);
  assert.equal(joins.has('pod'), false);
  assert.deepEqual(unclaimed, []);
});

test('keys do not join each other', async () => {
  const { joins } = make(1000);
  const ids = await Promise.all(['a', 'b'].map((key) => joins.run(key, {}, 'tag', async () => `id-${key}`)));
  assert.deepEqual(ids, ['id-a', 'id-b']);
});

test('a result whose last caller leaves at the moment it is there waits for the retry like any other', async () => {
  const { joins, unclaimed } = make(10);
  const caller = new AbortController();
  const gate = Promise.withResolvers<string>();
  const first = joins.run('pod', { left: caller.signal }, 'tag', () => gate.promise);
  caller.abort('deadline');
  gate.resolve('id-1');
  await assert.rejects(first, (error) => codeOf(error) === 'DEADLINE_PASSED');
  await sleep(30);
  assert.deepEqual(unclaimed, ['id-1']);
  assert.equal(joins.has('pod'), false);
});

test('a result that somebody has claimed by its value is not undone, and a retry still gets it', async () => {
  const undone: string[] = [];
  const unclaimed = new Set<string>();
  const joins = new Joins<string, string>({ claimTtlMs: 20, onUnclaimed: (_key, id) => undone.push(id), unclaimed });
  const gate = await launchWithoutCaller(joins);
  gate.resolve('id-1');
  await sleep(1);
  assert.deepEqual([...unclaimed], ['id-1']);
  unclaimed.delete('id-1');
  assert.equal(await joins.run('pod', {}, 'tag', () => Promise.reject(new Error('started twice'))), 'id-1');
  await sleep(40);
  assert.deepEqual(undone, []);
});

test('a result that was removed, and whose key has been used again, does not stay among the unclaimed', async () => {
  const there = new Set(['id-1', 'id-2']);
  const unclaimed = new Set<string>();
  const joins = new Joins<string, string>({
    claimTtlMs: 10,
    onUnclaimed: () => assert.fail('nothing is to be undone'),
    exists: (id) => there.has(id),
    unclaimed,
  });
  const gate = await launchWithoutCaller(joins);
  gate.resolve('id-1');
  await sleep(1);
  there.delete('id-1');
  assert.equal(await joins.run('pod', {}, 'tag', async () => 'id-2'), 'id-2');
  await sleep(20);
  assert.deepEqual([...unclaimed], []);
});

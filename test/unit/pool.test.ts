import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { codeOf } from '../../src/errors.ts';
import { Pool } from '../../src/node/threads/pool.ts';

/** A worker that fails after its answer, or under a call. */
const WORKER = `
export default async ({ op }) => {
  if (op === 'failsLater') setTimeout(() => { throw new Error('on its own'); }, 10);
  if (op === 'rejectsLater') setTimeout(() => { Promise.reject(new Error('forgotten')); }, 10);
  if (op === 'dies') process.exit(3);
  return { ok: true, value: op, seconds: 0 };
};
`;

type Handlers = Record<'works' | 'failsLater' | 'rejectsLater' | 'dies', (input: undefined) => string>;

test('a thread that fails without a call ends neither the process nor the pool', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-pool-'));
  try {
    const file = join(folder, 'worker.mjs');
    writeFileSync(file, WORKER);
    const errors: string[] = [];
    await using pool = new Pool<Handlers>({
      name: 'shim',
      file: pathToFileURL(file),
      minThreads: 1,
      maxThreads: 1,
      callsPerThread: 4,
      maxQueue: 10,
      onError: ({ message }) => void errors.push(message),
    });
    for (const [op, message] of [
      ['failsLater', 'on its own'],
      ['rejectsLater', 'forgotten'],
    ] as const) {
      assert.equal(await pool.call(op, undefined), op);
      for (let n = 0; !errors.includes(message) && n < 200; n++) await sleep(10);
      assert.ok(errors.includes(message), `${message}: ${errors}`);
      assert.equal(await pool.call('works', undefined), 'works');
    }
    await assert.rejects(pool.call('dies', undefined), (error) => codeOf(error) === 'INTERNAL');
    assert.equal(await pool.call('works', undefined), 'works');
    assert.ok(pool.use.restarts >= 3);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

/** A pool over a worker that answers with its thread's id; `wait` takes as many milliseconds as it is told. */
async function withThreads(
  bounds: { minThreads: number; maxThreads: number },
  work: (pool: Pool<{ id: (_: null) => number; wait: (ms: number) => number }>) => Promise<void>,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-pool-'));
  try {
    const file = join(folder, 'worker.mjs');
    writeFileSync(
      file,
      `import { threadId } from 'node:worker_threads';
      import { setTimeout as sleep } from 'node:timers/promises';
      export default async ({ op, input }) => {
        if (op === 'wait') await sleep(input);
        return { ok: true, value: threadId, seconds: 0 };
      };`,
    );
    const url = pathToFileURL(file);
    await using pool = new Pool({ name: 'net', file: url, ...bounds, callsPerThread: 1, maxQueue: 10, idleMs: 100 });
    await work(pool as never);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const until = async (what: () => boolean) => {
  for (let n = 0; !what() && n < 500; n++) await sleep(10);
  assert.ok(what());
};

test('a pool that needs no thread has none when it was idle, and the next call starts one', async () => {
  await withThreads({ minThreads: 0, maxThreads: 1 }, async (pool) => {
    assert.equal(pool.use.threads, 0);
    const first = await pool.call('id', null);
    assert.equal(pool.use.threads, 1);
    await until(() => pool.use.threads === 0);
    assert.notEqual(await pool.call('id', null), first);
    assert.equal(pool.use.restarts, 0, 'a thread that has ended because it was idle was not replaced');
  });
});

test('calls now and then keep their thread, and a long one as well', async () => {
  await withThreads({ minThreads: 0, maxThreads: 1 }, async (pool) => {
    const ids = new Set<number>();
    for (let n = 0; n < 12; n++) {
      ids.add(await pool.call('id', null));
      await sleep(25);
    }
    ids.add(await pool.call('wait', 300));
    assert.equal(ids.size, 1);
  });
});

test('idle threads beyond the fewest end, and there is one at work all the while', async () => {
  await withThreads({ minThreads: 1, maxThreads: 2 }, async (pool) => {
    await Promise.all([pool.call('wait', 100), pool.call('wait', 100), pool.call('wait', 100)]);
    assert.equal(pool.use.threads, 2);
    await until(() => pool.use.threads === 1);
    assert.ok((await pool.call('id', null)) > 0);
    assert.equal(pool.use.restarts, 0);
  });
});

test('calls are carried out in their order, also those that wait for a thread to start', async () => {
  await withThreads({ minThreads: 0, maxThreads: 1 }, async (pool) => {
    const order: number[] = [];
    const call = async (n: number) => {
      await pool.call('wait', 1);
      order.push(n);
    };
    const numbers = Array.from({ length: 8 }, (_, n) => n);
    await Promise.all(numbers.map(call));
    assert.deepEqual(order, numbers);
  });
});

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

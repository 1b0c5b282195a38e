/**
 * What a write of the store costs the main thread while a worker makes checkpoints:
 *
 *   node test/bench/store-writes.ts FOLDER [WRITES] [CHECKPOINT_MS]
 *
 * Prints what one write keeps main busy for in all, and microseconds (median, 99th percentile, worst) of a row's
 * change. The folder decides about the file system.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PodSandboxConfig } from '../../proto/gen/cri.ts';
import type { CopyWriter } from '../../src/node/store/copies.ts';
import type { SandboxRow } from '../../src/node/store/sandbox.ts';
import { Store } from '../../src/node/store/store.ts';
import { Pool } from '../../src/node/threads/pool.ts';
import type { handlers } from '../../src/workers/store.ts';

const [top = '/tmp', writes = '20000', everyMs = '500'] = process.argv.slice(2);
/** Without the copies of rows (store.md) when the variable COPIES is 0. */
const COPIES = process.env.COPIES !== '0';
const folder = mkdtempSync(join(top, 'sluice-store-bench-'));
const pool = new Pool<typeof handlers>({
  name: 'store',
  file: new URL('../../src/workers/store.ts', import.meta.url),
  minThreads: 1,
  maxThreads: 1,
  callsPerThread: 1,
  maxQueue: 100,
});

function row(id: number): SandboxRow {
  const config = PodSandboxConfig.decode(new Uint8Array());
  config.labels = Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`label-${i}`, `value ${i} of pod ${id}`]));
  const text = 'x'.repeat(64);
  return {
    id: String(id).padStart(64, '0'),
    name: `pod-${id}_default_uid_0`,
    state: 'creating',
    createdAt: 1n,
    config,
    runtimeHandler: '',
    runtime: 'runc',
    netns: `/run/netns/${text}`,
    addresses: ['10.0.0.1'],
    image: text,
    snapshot: `/var/lib/sluice/snapshots/${text}`,
    bundle: `/run/sluice/bundles/${text}`,
    rootDir: text,
    stateDir: text,
    pid: 1,
  };
}

try {
  const rowsOf = (table: string) => join(folder, 'rows', table);
  const folders = {
    sandboxes: rowsOf('sandboxes'),
    containers: rowsOf('containers'),
    images: rowsOf('images'),
    layers: rowsOf('layers'),
  };
  const writer: CopyWriter = {
    writeCopies: (input) => pool.call('writeCopies', input),
    syncCopies: (input) => pool.call('syncCopies', input),
  };
  using store = new Store(join(folder, 'sluice.db'), COPIES ? { copies: { folders, writer } } : {});
  const rows = Array.from({ length: 200 }, (_, i) => row(i));
  for (const one of rows) store.sandboxes.put(one);
  let checkpoints = 0;
  const path = join(folder, 'sluice.db');
  const timer = setInterval(() => void pool.call('checkpoint', { path }).then(() => checkpoints++), Number(everyMs));
  const took: number[] = [];
  const cpu = performance.eventLoopUtilization();
  for (let n = 0; n < Number(writes); n++) {
    const one = rows[n % rows.length] as SandboxRow;
    one.pid = n;
    const began = performance.now();
    store.sandboxes.update(one);
    took.push((performance.now() - began) * 1000);
    // As in a storm of launches: some writes in one turn of the event loop, and a pause.
    if (n % 8 === 0) await sleep(2);
  }
  clearInterval(timer);
  const busyMs = performance.eventLoopUtilization(cpu).active;
  took.sort((a, b) => a - b);
  const at = (q: number) => Math.round(took[Math.floor(q * (took.length - 1))] ?? 0);
  const over = took.filter((us) => us > 2000).length;
  console.log({
    folder: top,
    writes: took.length,
    mainBusyUsPerWrite: Math.round((busyMs * 1000) / took.length),
    checkpoints,
    medianUs: at(0.5),
    p99Us: at(0.99),
    p999Us: at(0.999),
    worstUs: at(1),
    over2ms: over,
  });
} finally {
  await pool[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
}

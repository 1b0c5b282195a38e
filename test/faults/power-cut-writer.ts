/**
 * Changes a store while a worker makes checkpoints, and dies by SIGKILL after so many changes. The rows after each
 * change are appended to the history, a line a change, before the change is made.
 *
 *   node power-cut-writer.ts STORE HISTORY CHANGES
 */
import { appendFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Store } from '../../src/node/store/store.ts';
import { Pool } from '../../src/node/threads/pool.ts';
import type { handlers } from '../../src/workers/store.ts';

const [path = '', historyFile = '', changes = '0'] = process.argv.slice(2);
const IDS = 40;

const pool = new Pool<typeof handlers>({
  name: 'store',
  file: new URL('../../src/workers/store.ts', import.meta.url),
  minThreads: 1,
  maxThreads: 1,
  callsPerThread: 1,
  maxQueue: 10,
});
const checkpoint = () => pool.call('checkpoint', { path }).catch(() => {}); // fails once the power is cut
const store = new Store(path);
const rows = new Map<string, number>();
for (let n = 1; n <= Number(changes); n++) {
  // Each fifth change deletes a row that is there.
  const id = String(((n % 5 === 0 ? n - 2 : n) * 7) % IDS);
  if (n % 5 === 0) rows.delete(id);
  else rows.set(id, n);
  appendFileSync(
    historyFile,
    `${[...rows]
      .map(([id, size]) => `${id}:${size}`)
      .sort()
      .join(' ')}\n`,
  );
  // Rows of different lengths, so that pages split and join, and some that are long enough for overflow pages.
  const diffId = 'd'.repeat(n % 11 === 0 ? 9000 : 100 + ((n * 37) % 900));
  if (n % 5 === 0) store.layers.delete(id);
  else store.layers.put({ id, diffId, digest: '', size: n, base: '', bytes: 0, inodes: 0, ready: true });
  // Checkpoints beside writes, and some in a pause, so that they are complete and the WAL starts anew.
  if (n % 20 === 0 && n % 60 !== 0) void checkpoint();
  if (n % 10 === 0) await sleep(1);
  if (n % 60 === 0) {
    await sleep(20);
    await checkpoint();
  }
}
process.kill(process.pid, 'SIGKILL');

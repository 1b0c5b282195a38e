/**
 * Writes to a store while a worker makes checkpoints, under strace, and dies by SIGKILL. On standard output: the rows after each
 * change, one line a change.
 *
 *   node power-cut-writer.ts FILE CHANGES
 */
import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Store } from '../../src/node/store/store.ts';
import { Pool } from '../../src/node/threads/pool.ts';
import type { handlers } from '../../src/workers/store.ts';

const [path = '', changes = '0'] = process.argv.slice(2);
const IDS = 40;

const pool = new Pool<typeof handlers>({
  name: 'store',
  file: new URL('../../src/workers/store.ts', import.meta.url),
  minThreads: 1,
  maxThreads: 1,
  callsPerThread: 1,
  maxQueue: 10,
});
const store = new Store(path);
const history: string[] = [];
for (let n = 1; n <= Number(changes); n++) {
  const id = String((n * 7) % IDS);
  // Rows of different lengths, so that pages split and join, and some that are long enough for overflow pages.
  const diffId = 'd'.repeat(n % 11 === 0 ? 9000 : 100 + ((n * 37) % 900));
  if (n % 5 === 0) store.layers.delete(id);
  else store.layers.put({ id, diffId, digest: '', size: n, base: '', bytes: 0, inodes: 0, ready: true });
  history.push(
    [...store.layers.values()]
      .map((row) => `${row.id}:${row.size}`)
      .sort()
      .join(' '),
  );
  // Checkpoints beside writes, and some in a pause, so that they are complete and the WAL starts anew.
  if (n % 20 === 0 && n % 60 !== 0) void pool.call('checkpoint', { path });
  if (n % 10 === 0) await sleep(1);
  if (n % 60 === 0) {
    await sleep(20);
    await pool.call('checkpoint', { path });
  }
}
writeSync(1, history.join('\n'));
process.kill(process.pid, 'SIGKILL');

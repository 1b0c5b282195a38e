import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { mock, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { PendingWrites } from '../../src/node/store/pending-writes.ts';
import { Store } from '../../src/node/store/store.ts';
import { sandboxRow } from './store-fixture.ts';

test('what cannot be written is retried with growing pauses, reported once, and written once', () => {
  mock.timers.enable({ apis: ['setTimeout'] });
  try {
    let reason: string | undefined = 'disk full';
    const tries: number[] = [];
    const changes: [string | undefined, number][] = [];
    const pending = new PendingWrites({
      write: (rows) => {
        tries.push(rows.length);
        if (reason) throw new Error(reason);
      },
      onChange: (reason, writes) => void changes.push([reason, writes]),
    });
    pending.add({ table: 'pods', id: 'a' }, new Error('disk full'));
    pending.add({ table: 'pods', id: 'b' });
    pending.add({ table: 'pods', id: 'a' });
    assert.equal(pending.size, 2, 'a row is written once, however often it changes');
    mock.timers.tick(249);
    assert.equal(tries.length, 0);
    for (const [ms, expected] of [
      [1, 1],
      [499, 1],
      [1, 2],
      [999, 2],
      [1, 3],
    ] as const) {
      mock.timers.tick(ms);
      assert.equal(tries.length, expected);
    }
    for (let n = 0; n < 20; n++) mock.timers.tick(30_000);
    assert.ok(tries.length >= 20, 'at last every 30 s');
    reason = 'read-only';
    mock.timers.tick(30_000);
    reason = undefined;
    mock.timers.tick(30_000);
    assert.equal(pending.size, 0);
    assert.equal(pending.reason, undefined);
    assert.deepEqual(changes, [
      ['disk full', 1],
      ['read-only', 2],
      [undefined, 2],
    ]);
    const before = tries.length;
    mock.timers.tick(120_000);
    assert.equal(tries.length, before, 'nothing is left to be tried');
    pending[Symbol.dispose]();
  } finally {
    mock.timers.reset();
  }
});

test('changes that another connection holds up stay in memory, new rows are refused, and all is written afterwards', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-pending-'));
  const path = join(folder, 'sluice.db');
  const logged: string[] = [];
  const note = (_: unknown, message?: string) => void logged.push(message ?? '');
  try {
    using store = new Store(path, { log: { info: note, warn: note, error: note } });
    for (const id of ['a', 'b', 'c']) store.sandboxes.put(sandboxRow({ id, name: id }));
    const other = new DatabaseSync(path);
    other.exec('BEGIN IMMEDIATE');
    const row = store.sandboxes.get('a');
    assert.ok(row);
    row.pid = 7;
    store.sandboxes.update(row); // waits for a second, and does not throw
    row.pid = 8;
    store.sandboxes.update(row);
    store.sandboxes.delete('b');
    assert.equal(store.sandboxes.get('b'), undefined);
    assert.throws(() => store.sandboxes.put(sandboxRow({ id: 'd', name: 'd' })), /the store cannot be written/);
    assert.equal(store.sandboxes.get('d'), undefined);
    assert.equal(store.pendingWrites, 2);
    assert.match(store.trouble ?? '', /locked/);
    other.exec('ROLLBACK');
    other.close();
    for (let n = 0; store.pendingWrites > 0 && n < 100; n++) await sleep(50);
    assert.equal(store.pendingWrites, 0);
    assert.equal(store.trouble, undefined);
    store.sandboxes.put(sandboxRow({ id: 'd', name: 'd' }));
    using next = new Store(path);
    assert.deepEqual([...next.sandboxes.values()].map(({ id, pid }) => `${id} ${pid}`).sort(), ['a 8', 'c 0', 'd 0']);
    assert.equal(logged.filter((line) => line.includes('changes stay in memory')).length, 1);
    assert.equal(logged.filter((line) => line.includes('can be written again')).length, 1);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('what waits when the daemon ends is written then', () => {
  const written: string[] = [];
  let full = true;
  const pending = new PendingWrites({
    write: (rows) => {
      if (full) throw new Error('full');
      written.push(...rows.map(({ id }) => id));
    },
    onChange: () => {},
  });
  pending.add({ table: 't', id: 'x' }, new Error('full'));
  full = false;
  pending[Symbol.dispose]();
  assert.deepEqual(written, ['x']);
});

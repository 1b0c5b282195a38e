import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { codeOf } from '../../src/errors.ts';
import type { SandboxRow } from '../../src/node/store/sandbox.ts';
import { Store } from '../../src/node/store/store.ts';
import { takeBallast } from '../../src/workers/store/ballast.ts';
import { checkpoint } from '../../src/workers/store/checkpoint.ts';
import { emptyPod, podLinux, resources } from '../rig/messages.ts';
import { containerRow, sandboxRow } from './store-fixture.ts';

function folder(): Disposable & { path: string } {
  const path = mkdtempSync(join(tmpdir(), 'sluice-store-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

function sandbox(id: string): SandboxRow {
  return sandboxRow({
    id,
    state: 'ready',
    createdAt: 1_764_000_000_123_456_789n,
    config: emptyPod({
      metadata: { name: 'p', namespace: 'n', uid: 'u', attempt: 3 },
      labels: { app: '123n', other: '\u0000bigint:7' },
      linux: podLinux({
        cgroupParent: '/kube',
        sysctls: { 'kernel.shm_rmid_forced': '1' },
        resources: resources({
          cpuPeriod: 100_000n,
          cpuQuota: -1n,
          memoryLimitInBytes: 9_223_372_036_854_771_712n,
          hugepageLimits: [{ pageSize: '2MB', limit: 18_446_744_073_709_551_615n }],
        }),
      }),
    }),
    addresses: ['10.1.2.3', 'fd00::3'],
    shim: { binary: '/usr/bin/shim', address: '/run/s', version: 3 },
    pid: 7,
  });
}

test('what one store writes the next one reads, int64 to the last digit', () => {
  using dir = folder();
  const path = join(dir.path, 'sluice.db');
  const row = sandbox('a'.repeat(64));
  const container = containerRow({ id: 'c1', sandbox: row.id, createdAt: 1n, finishedAt: 2n ** 62n });
  {
    using store = new Store(path);
    store.sandboxes.put(row);
    store.containers.put(container);
    row.state = 'stopped';
    store.sandboxes.put(row);
    store.sandboxes.put(sandbox('b'));
    store.sandboxes.delete('b');
  }
  using store = new Store(path);
  assert.deepEqual([...store.sandboxes.values()], [row]);
  assert.deepEqual(store.containersOf(row.id), [container]);
});

test('a changed config is written, although an unchanged one is not encoded again', () => {
  using dir = folder();
  const path = join(dir.path, 'sluice.db');
  const row = sandbox('a');
  {
    using store = new Store(path);
    store.sandboxes.put(row);
    row.config = { ...row.config, hostname: 'changed' };
    store.sandboxes.put(row);
  }
  using store = new Store(path);
  assert.equal(store.sandboxes.get('a')?.config.hostname, 'changed');
});

test('rows that a crash left in the WAL alone are there after it, and a checkpoint moves them', () => {
  using dir = folder();
  const path = join(dir.path, 'sluice.db');
  using writer = new Store(path);
  writer.sandboxes.put(sandbox('a'));
  using reader = new Store(path); // as the next daemon would, the first one never having closed
  assert.equal(reader.sandboxes.size, 1);
  checkpoint({ path });
  using third = new Store(path);
  assert.equal(third.sandboxes.size, 1);
});

test('ids may be given by a prefix that only one has', () => {
  using dir = folder();
  using store = new Store(join(dir.path, 'sluice.db'));
  store.sandboxes.put(sandbox('abc1'));
  store.sandboxes.put(sandbox('abd2'));
  assert.equal(store.sandboxes.find('abc')?.id, 'abc1');
  assert.equal(store.sandboxes.find('abd2')?.id, 'abd2');
  assert.equal(store.sandboxes.find('x'), undefined);
  assert.equal(store.sandboxes.find(''), undefined);
  assert.throws(
    () => store.sandboxes.find('ab'),
    (error) => codeOf(error) === 'INVALID_REQUEST' && /ambiguous/.test(String(error)),
  );
});

test('room is kept for emptying a full node, and taken back', () => {
  using dir = folder();
  const path = join(dir.path, 'sluice.db');
  using _store = new Store(path);
  assert(existsSync(`${path}.ballast`));
  rmSync(`${path}.ballast`);
  takeBallast(path);
  assert(existsSync(`${path}.ballast`));
});

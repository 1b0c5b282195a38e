/** Whose addresses GC gives back, and whose it leaves alone. Without the kernel: a bridge without masquerading. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { cniGc } from '../../src/workers/net/gc.ts';
import type { NetworkConf } from '../../src/workers/net/types.ts';

const OLD = Date.now() / 1000 - 3600;

function setup(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-test-gc-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const cacheDir = join(dir, 'cache');
  const addresses = join(dir, 'ipam/net');
  mkdirSync(addresses, { recursive: true });
  const network: NetworkConf = {
    name: 'net',
    cniVersion: '1.0.0',
    source: 'test',
    plugins: [
      {
        type: 'bridge',
        ipam: { type: 'host-local', dataDir: join(dir, 'ipam'), ranges: [[{ subnet: '10.9.0.0/24' }]] },
      },
    ],
  };
  return {
    take(address: string, content: string, when = OLD) {
      writeFileSync(join(addresses, address), content);
      utimesSync(join(addresses, address), when, when);
    },
    record(container: string, more: { in?: string; ifName?: string; text?: string; networkName?: string } = {}) {
      const folder = join(cacheDir, more.in ?? '', 'results');
      mkdirSync(folder, { recursive: true });
      const { ifName = 'eth0', networkName = 'net' } = more;
      const record = { kind: 'cniCacheV1', containerId: container, ifName, networkName, config: 'e30=' };
      writeFileSync(join(folder, `net-${container}-${ifName}`), more.text ?? JSON.stringify(record));
    },
    taken: () => readdirSync(addresses).filter((name) => name.startsWith('10.')),
    gc: async (more: { dryRun?: boolean; minAgeMs?: number; valid?: { containerId: string; ifName: string }[] } = {}) =>
      (
        await cniGc({
          network,
          binDirs: [],
          cacheDir,
          valid: [],
          timeoutMs: 1000,
          inProcess: true,
          programs: false,
          ...more,
        })
      ).released,
  };
}

test('what a row or a record names stays, wherever the record is', async (t) => {
  const { take, record, taken, gc } = setup(t);
  take('10.9.0.2', 'row\r\neth0');
  take('10.9.0.3', 'ours\r\neth0');
  record('ours');
  take('10.9.0.4', 'dockerd\r\neth0');
  record('dockerd', { in: 'cache' });
  take('10.9.0.5', 'early'); // an early host-local named the container alone
  record('early');
  take('10.9.0.6', 'lost\r\neth0');
  const lost = ['address 10.9.0.6 of lost/eth0'];
  const valid = [{ containerId: 'row', ifName: 'eth0' }];
  assert.deepEqual(await gc({ valid, dryRun: true }), lost);
  assert.equal(taken().length, 5);
  assert.deepEqual(await gc({ valid }), lost);
  assert.deepEqual(taken(), ['10.9.0.2', '10.9.0.3', '10.9.0.4', '10.9.0.5']);
});

test('a record of another interface, of another network, or a damaged one, names nobody', async (t) => {
  const { take, record, taken, gc } = setup(t);
  take('10.9.0.2', 'a\r\neth0');
  record('a', { ifName: 'net1' });
  take('10.9.0.3', 'b\r\neth0');
  record('b', { networkName: 'other' });
  take('10.9.0.4', 'c\r\neth0');
  record('c', { text: '' });
  take('10.9.0.5', '');
  assert.equal((await gc()).length, 4);
  assert.deepEqual(taken(), []);
});

test('an address that was taken a moment ago stays: its record may come when ADD is done', async (t) => {
  const { take, taken, gc } = setup(t);
  take('10.9.0.2', 'new\r\neth0', Date.now() / 1000 - 60);
  assert.deepEqual(await gc(), []);
  assert.deepEqual(await gc({ minAgeMs: 30_000 }), ['address 10.9.0.2 of new/eth0']);
  assert.deepEqual(taken(), []);
});

test('no folder of addresses, none of records: nothing to do', async (t) => {
  const { gc } = setup(t);
  assert.deepEqual(await gc(), []);
});

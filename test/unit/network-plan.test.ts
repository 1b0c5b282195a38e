import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { HostMounts } from '../../src/workers/host-paths/host-mounts.ts';
import { planAdd, planLater } from '../../src/workers/net/in-process/plan.ts';
import type { PluginConf } from '../../src/workers/net/types.ts';

const folder = mkdtempSync(join(tmpdir(), 'sluice-plan-'));
after(() => rmSync(folder, { recursive: true }));

const IPAM = { type: 'host-local', ranges: [[{ subnet: '10.9.0.0/24' }]] };

function question(plugin: PluginConf, source?: string) {
  const network = { name: 'net', cniVersion: '1.0.0', plugins: [plugin], source };
  return {
    network: network as Parameters<typeof planAdd>[0]['network'],
    binDirs: [folder],
    inProcess: true as const,
    confOf: (one: PluginConf) => one,
    asksMac: false,
  };
}

test('a plugin whose folder lies on a mount that may hang runs as a process', async (t) => {
  const text = `1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:40 / ${folder}/nfs rw - nfs4 server:/share rw\n`;
  t.mock.method(HostMounts, 'recent', () => new HostMounts(text));
  const bridge = (ipam: object): PluginConf => ({ type: 'bridge', bridge: 'none0', ipam: { ...IPAM, ...ipam } });
  const here = async (plugin: PluginConf, source?: string) =>
    (await planAdd(question(plugin, source))).works[0] !== undefined;
  assert.equal(await here(bridge({ dataDir: join(folder, 'local') })), true);
  assert.equal(await here(bridge({ dataDir: join(folder, 'nfs/addresses') })), false);
  assert.equal(
    await here(bridge({ dataDir: join(folder, 'local'), resolvConf: join(folder, 'nfs/resolv.conf') })),
    false,
  );
  const flannel = { type: 'flannel', delegate: { bridge: 'none0' } };
  const later = async (plugin: PluginConf, made?: string[]) =>
    (await planLater(question(plugin), made))[0] !== undefined;
  assert.equal(await later(flannel), true);
  assert.equal(await later({ ...flannel, subnetFile: join(folder, 'nfs/subnet.env') }), false);
  assert.equal(
    await later({ ...flannel, dataDir: join(folder, 'nfs/data') }, ['flannel', 'bridge', 'host-local']),
    false,
  );
  // The built-in network keeps its addresses below root, which no daemon could do without.
  assert.equal(await here(bridge({ dataDir: join(folder, 'nfs/addresses') }), 'built-in'), true);
});

test('who did ADD does DEL, whatever the programs are now', async () => {
  const loopback = question({ type: 'loopback' });
  const made = async (types: string[] | undefined, inProcess: 'auto' | boolean) =>
    (await planLater({ ...loopback, inProcess }, types))[0] !== undefined;
  assert.equal(await made(['loopback'], false), true);
  assert.equal(await made([], true), false);
  assert.equal(await made(undefined, true), true);
  assert.equal(await made(undefined, false), false);
  assert.equal(await made(undefined, 'auto'), false, 'there is no reference program in the folder');
});

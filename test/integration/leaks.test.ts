/**
 * `sluice doctor --leaks [--fix]` against made-up leaks of all seven kinds, beside things that have a row or are not
 * the daemon's.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, before, test } from 'node:test';
import { doctorLeaks } from '../../src/main/cli/doctor.ts';
import type { Config } from '../../src/node/config/config.ts';
import { parseConfig } from '../../src/node/config/load.ts';
import { placesOf } from '../../src/node/leaks/leaks.ts';
import { networkInUse } from '../../src/node/network/in-use.ts';
import { sweepLeaks } from '../../src/pipeline/jobs/leaks.ts';
import { dropHolder, HOLDER, heldPath, namesInHolder, openHolder } from '../../src/sys/holder.ts';
import { createNetns, pinNamespaces, unpinNamespace } from '../../src/sys/netns.ts';
import { findResources, type Places, type Resource } from '../../src/workers/leaks/find.ts';
import { cgroupMounts } from '../../src/workers/stats/cgroups.ts';
import { writeScript } from '../faults/lab.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { isAlive } from './container-lab.ts';

const skip = skipUnlessRoot('mount');

const LEAKED = randomBytes(32).toString('hex');
const OWNED = randomBytes(32).toString('hex');
const FOREIGN = randomBytes(32).toString('hex');

let folder = '';
let config: Config;
const netnsOf = (id: string) => join(folder, 'netns', `${placesOf(config).netnsPrefix}${id.slice(0, 4)}`);
const shims: ChildProcess[] = [];
const paths: string[] = [];
const cgroup = (id: string) => {
  const { v1, unified } = cgroupMounts();
  const { mountpoint } = unified ?? v1.pids ?? { mountpoint: '/sys/fs/cgroup' };
  return join(mountpoint, `sluice-leaks-${process.pid}`, id);
};

before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-leaks');
  const at = (name: string) => JSON.stringify(join(folder, name));
  config = parseConfig(
    `socket = ${at('sluice.sock')}
root = ${at('root')}
state = ${at('state')}
[cni]
bin_dirs = [${at('bin')}]
cache_dir = ${at('cache')}
netns_dir = ${at('netns')}
`,
    'config.toml',
  );
  for (const dir of ['root', 'state', 'bin', 'cache/results', 'netns'])
    mkdirSync(join(folder, dir), { recursive: true });
  writeScript(
    join(folder, 'bin/ends'),
    `#!/bin/sh\necho "$CNI_COMMAND $CNI_CONTAINERID" >> ${join(folder, 'calls')}\n`,
  );
  const db = new DatabaseSync(join(folder, 'root/sluice.db'));
  db.exec(
    'CREATE TABLE sandboxes (id TEXT PRIMARY KEY, row TEXT); CREATE TABLE containers (id TEXT PRIMARY KEY, row TEXT)',
  );
  db.prepare('INSERT INTO sandboxes VALUES (?, ?)').run(OWNED, JSON.stringify({ netns: netnsOf(OWNED) }));
  db.close();
  openHolder(join(folder, 'state', HOLDER));
  for (const id of [LEAKED, OWNED]) {
    for (const place of ['root/snapshots', 'root/sandboxes', 'state/bundles', 'state/sandboxes', 'state/runc/k8s.io']) {
      const path = join(folder, place, id);
      mkdirSync(path, { recursive: true });
      paths.push(path);
    }
    const shm = join(folder, 'state/sandboxes', id, 'shm');
    mkdirSync(shm);
    await run('mount', ['-t', 'tmpfs', 'tmpfs', shm]);
    createNetns(netnsOf(id), { loopback: false });
    pinNamespaces({ ipc: heldPath(join(folder, 'state', HOLDER), `${id}.ipc`) }, () => {});
    const conf = Buffer.from(JSON.stringify({ name: 'net', cniVersion: '1.0.0', plugins: [{ type: 'ends' }] }));
    const record = {
      kind: 'cniCacheV1',
      containerId: id,
      config: conf.toString('base64'),
      ifName: 'eth0',
      networkName: 'net',
    };
    writeFileSync(
      join(folder, `cache/results/net-${id}-eth0`),
      JSON.stringify({ ...record, netns: netnsOf(id), cniArgs: [], capabilityArgs: {}, result: {} }),
    );
    const flags = ['-namespace', 'k8s.io', '-id', id, '-address', config.socket];
    shims.push(spawn('/bin/sh', ['-c', 'while :; do sleep 1; done', 'shim', ...flags], { stdio: 'ignore' }));
  }
  for (const id of [LEAKED, OWNED, FOREIGN]) mkdirSync(cgroup(id), { recursive: true });
  // Another daemon's namespace and shim.
  createNetns(join(folder, 'netns/cni-00000000-other'), { loopback: false });
  const others = ['-namespace', 'k8s.io', '-id', FOREIGN, '-address', '/run/other.sock'];
  shims.push(spawn('/bin/sh', ['-c', 'while :; do sleep 1; done', 'shim', ...others], { stdio: 'ignore' }));
});

after(async () => {
  if (skip) return;
  for (const shim of shims) shim.kill('SIGKILL');
  for (const id of [LEAKED, OWNED, FOREIGN]) await run('rmdir', [cgroup(id)], { check: false });
  await run('rmdir', [join(cgroup('x'), '..')], { check: false });
  for (const id of [LEAKED, OWNED])
    await run('umount', ['-l', join(folder, 'state/sandboxes', id, 'shm')], { check: false });
  for (const id of [LEAKED, OWNED]) {
    unpinNamespace(netnsOf(id));
    unpinNamespace(heldPath(join(folder, 'state', HOLDER), `${id}.ipc`));
  }
  dropHolder(join(folder, 'state', HOLDER));
  unpinNamespace(join(folder, 'netns/cni-00000000-other'));
  rmSync(folder, { recursive: true, force: true });
});

async function ask(fix: boolean, kill = false): Promise<{ status: number; found: (Resource & { done: boolean })[] }> {
  const parts: string[] = [];
  const status = await doctorLeaks(config, { write: (part) => parts.push(part) }, { fix, kill, json: true });
  return { status, found: JSON.parse(parts.join('')) };
}

test('all seven kinds are found, once for each thing, and nothing that is owned or not ours', { skip }, async () => {
  const { status, found } = await ask(false);
  assert.equal(status, 1);
  assert.deepEqual([...new Set(found.map(({ kind }) => kind))].sort(), [
    'address',
    'bundle',
    'cgroup',
    'mount',
    'netns',
    'shim',
    'snapshot',
  ]);
  const owners = new Set(found.filter(({ kind }) => kind !== 'netns').map(({ owner }) => owner));
  assert.deepEqual([...owners], [LEAKED]);
  assert.equal(found.length, 11);
});

test('--fix touches nothing while a shim without a row runs: its pod may have lost its row with the store', {
  skip,
}, async () => {
  const { status, found } = await ask(true);
  assert.equal(status, 1);
  assert.ok(found.every(({ done }) => !done));
  assert.deepEqual(await ask(false), { status: 1, found });
});

test('--fix --kill takes them away and leaves everything else', { skip }, async () => {
  const { status, found } = await ask(true, true);
  assert.deepEqual(
    found.filter(({ done }) => !done),
    [],
  );
  assert.equal(status, 0);
  assert.deepEqual(await ask(false), { status: 0, found: [] });
  for (const path of paths) assert.equal(existsSync(path), path.endsWith(OWNED), path);
  assert.ok(existsSync(join(folder, 'state/sandboxes', OWNED, 'shm')));
  assert.deepEqual(
    [LEAKED, OWNED, FOREIGN].map((id) => existsSync(cgroup(id))),
    [false, true, true],
  );
  assert.deepEqual(
    shims.map(({ pid }) => isAlive(pid ?? 0)),
    [false, true, true],
  );
  assert.ok(existsSync(join(folder, 'netns/cni-00000000-other')));
  assert.deepEqual(namesInHolder(join(folder, 'state', HOLDER)), [`${OWNED}.ipc`]);
});

test('without a store nothing is compared, and nothing removed', { skip }, async () => {
  await assert.rejects(
    doctorLeaks({ ...config, root: join(folder, 'none') }, process.stderr, { fix: true, kill: true, json: true }),
    {
      code: 'INVALID_REQUEST',
    },
  );
});

test('the daemon’s own sweep counts each leak once, by kind', { skip }, async () => {
  const path = join(folder, 'root/snapshots', LEAKED);
  mkdirSync(path);
  const counted: string[] = [];
  const logged: string[] = [];
  const ctx = {
    config,
    store: { sandboxes: new Map([[OWNED, { id: OWNED, netns: netnsOf(OWNED) }]]), containers: new Map() },
    pools: { shim: { call: (_op: string, places: Places) => findResources(places) } },
    metrics: { inc: (_name: string, { kind }: { kind: string }) => counted.push(kind) },
    log: {
      warn: (_fields: object, text: string) => logged.push(text),
      error: (fields: { err: unknown }) => assert.fail(String(fields.err)),
    },
    ending: new AbortController().signal,
  };
  const known = new Set<string>();
  for (let look = 0; look < 2; look++) await sweepLeaks(ctx as unknown as Parameters<typeof sweepLeaks>[0], known, 100);
  assert.deepEqual(counted, ['snapshot']);
  assert.equal(logged.length, 1);
  rmSync(path, { recursive: true });
  await sweepLeaks(ctx as unknown as Parameters<typeof sweepLeaks>[0], known, 100);
  assert.equal(known.size, 0);
});

test('addresses of the built-in network that no attachment has are found, and given back with --fix', {
  skip,
}, async () => {
  const own = { ...config, cni: { ...config.cni, conf_dir: join(folder, 'conf'), builtin_subnet: '10.254.252.0/24' } };
  const network = await networkInUse(own);
  assert.ok(network);
  const addresses = join(folder, 'root/cni', network.name);
  mkdirSync(addresses, { recursive: true });
  const HOUR_AGO = Date.now() / 1000 - 3600;
  const take = (address: string, owner: string, when = HOUR_AGO) => {
    writeFileSync(join(addresses, address), owner);
    utimesSync(join(addresses, address), when, when);
  };
  take('10.254.252.5', `${LEAKED}\r\neth0`);
  take('10.254.252.6', '');
  take('10.254.252.7', `${OWNED}\r\neth0`);
  take('10.254.252.8', `${FOREIGN}\r\neth0`, Date.now() / 1000);
  const db = new DatabaseSync(join(folder, 'root/sluice.db'));
  const attachment = { containerId: OWNED, ifName: 'eth0', network };
  const row = JSON.stringify({ netns: netnsOf(OWNED), network: attachment });
  db.prepare('UPDATE sandboxes SET row = ? WHERE id = ?').run(row, OWNED);
  db.close();
  const look = async (fix: boolean) => {
    const parts: string[] = [];
    const status = await doctorLeaks(own, { write: (part) => parts.push(part) }, { fix, kill: false, json: false });
    return { status, text: parts.join('') };
  };
  const found = [`address 10.254.252.5 of ${LEAKED}/eth0`, 'address 10.254.252.6 of nobody'];
  const said = (end: string) => found.map((what) => `${what}: no attachment has it${end}\n`).join('');
  assert.deepEqual(await look(false), { status: 1, text: `${said('')}2 without an owner, 2 left\n` });
  assert.deepEqual(await look(true), { status: 0, text: `${said(', given back')}2 without an owner, 0 left\n` });
  assert.deepEqual(await look(false), { status: 0, text: 'nothing without an owner\n' });
  assert.deepEqual(
    readdirSync(addresses)
      .filter((name) => name.startsWith('10'))
      .sort(),
    ['10.254.252.7', '10.254.252.8'],
    'what a row names, and what somebody may be about to record',
  );
});

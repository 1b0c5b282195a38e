import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { findLeaks, type LeakSources } from '../../src/pipeline/jobs/leaks.ts';
import { mount, unmount } from '../../src/sys/mount.ts';
import { type Leftover, scanLeftovers } from '../../src/workers/leftovers.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { waitFor } from '../rig/proc.ts';

const id = (letter: string) => letter.repeat(64);
const row = (letter: string) => ({ id: id(letter) }) as never;

function sources(looks: Leftover[][], owned: string[]): LeakSources {
  let look = 0;
  const table = new Map(owned.map((letter) => [id(letter), row(letter)]));
  return {
    store: { sandboxes: table, containers: new Map() } as never,
    config: { root: '/r', state: '/s', socket: '/s/x.sock' },
    cgroups: new Map(),
    scan: async () => looks[Math.min(look++, looks.length - 1)] ?? [],
    strays: async () => ({
      netns: ['/run/netns/cni-1'],
      attachments: [{ containerId: id('n'), network: { name: 'net' }, ifName: 'eth0' } as never],
    }),
  };
}

test('what no row owns is a leak of its kind, when a second look finds it too', async () => {
  const lasting: Leftover[] = [
    { kind: 'mount', id: id('a'), what: '/s/bundles/a/rootfs' },
    { kind: 'shim', id: id('a'), what: '17' },
    { kind: 'snapshot', id: id('a'), what: '/r/snapshots/a' },
    { kind: 'cgroup', id: id('a'), what: '/sys/fs/cgroup/a' },
    { kind: 'bundle', id: '', what: '/s/bundles/odd' },
    { kind: 'bundle', id: id('b'), what: '/s/bundles/b' },
  ];
  const passing: Leftover = { kind: 'shim', id: id('c'), what: '18' };
  const leaks = await findLeaks(sources([[...lasting, passing], lasting], ['b']), 1);
  assert.deepEqual(leaks.map(({ kind }) => kind).sort(), [
    'address',
    'bundle',
    'cgroup',
    'mount',
    'netns',
    'shim',
    'snapshot',
  ]);
  assert.ok(!leaks.some(({ what }) => what === '/s/bundles/b' || what === '18'));
});

test('the scan finds folders, mounts, shims and cgroups of this daemon, and none of others', {
  skip: skipUnlessRoot(),
}, async () => {
  await using tidy = new AsyncDisposableStack();
  const folder = mkdtempSync(join(tmpdir(), 'sluice-leaks-'));
  tidy.defer(() => rmSync(folder, { recursive: true, force: true }));
  const places = {
    root: join(folder, 'root'),
    state: join(folder, 'state'),
    usernsBundles: join(folder, 'state-userns'),
    socket: join(folder, 'cri.sock'),
    cgroups: { [id('d')]: `/sluice-leaks-none/${id('d')}` },
  };
  assert.deepEqual(await scanLeftovers(places), []);
  const bundle = join(places.state, 'bundles', id('a'));
  mkdirSync(join(bundle, 'rootfs'), { recursive: true });
  mkdirSync(join(places.root, 'snapshots', `.${id('b')}`), { recursive: true });
  mkdirSync(join(places.usernsBundles, id('c')), { recursive: true });
  mount({ source: 'x', target: join(bundle, 'rootfs'), type: 'tmpfs' });
  tidy.defer(() => unmount(join(bundle, 'rootfs')));
  // A script keeps its arguments on its command line, whatever it does with them.
  const start = (socket: string) =>
    spawn('/bin/sh', ['-c', 'sleep 60; :', 'shim', '-namespace', 'k8s.io', '-id', id('a'), '-address', socket], {
      stdio: 'ignore',
      detached: true,
    });
  const [ours, other] = [start(places.socket), start('/run/containerd/containerd.sock')];
  tidy.defer(async () => {
    for (const child of [ours, other]) {
      process.kill(-(child.pid ?? 0), 'SIGKILL');
      await once(child, 'exit');
    }
  });
  const found = await waitFor('the processes', 5000, async () => {
    const all = await scanLeftovers(places);
    return all.some(({ kind }) => kind === 'shim') ? all : undefined;
  });
  assert.deepEqual(
    found.map(({ kind, id: of, what }) => [kind, of[0], what.replace(folder, '').replace(String(ours.pid), 'PID')]),
    [
      ['snapshot', 'b', `/root/snapshots/.${id('b')}`],
      ['bundle', 'a', `/state/bundles/${id('a')}`],
      ['bundle', 'c', `/state-userns/${id('c')}`],
      ['mount', 'a', `/state/bundles/${id('a')}/rootfs`],
      ['shim', 'a', 'PID'],
    ],
  );
});

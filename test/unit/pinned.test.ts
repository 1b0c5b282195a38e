/**
 * Sandboxes without a process: which pods become one, what stands in for the pause container, and who shares a shim.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { NamespaceMode } from '../../proto/gen/cri.ts';
import { SluiceError } from '../../src/errors.ts';
import { containerNamespaces } from '../../src/node/oci/namespaces.ts';
import { buildPinnedSpec } from '../../src/node/oci/pinned-spec.ts';
import type { Shims } from '../../src/node/shims/shims.ts';
import type { SandboxRow, ShimRow } from '../../src/node/store/sandbox.ts';
import type { Store } from '../../src/node/store/store.ts';
import { JobError } from '../../src/pipeline/engine/engine.ts';
import { pinnedShim } from '../../src/pipeline/jobs/pinned-shim.ts';
import { planPod } from '../../src/pipeline/jobs/plan-pod.ts';
import { leaveSharedShim, podsByShim, shimWithRoom } from '../../src/pipeline/jobs/shared-shims.ts';
import { namespaces } from '../rig/messages.ts';
import { waitFor } from '../rig/proc.ts';
import { openJobLab } from './job-fixture.ts';
import { HOST, pod, podWith, userns } from './oci-fixtures.ts';
import { sandboxRow } from './store-fixture.ts';

const { POD, CONTAINER, NODE } = NamespaceMode;
const withPid = (pid: NamespaceMode, rest = {}) => podWith({ namespaceOptions: namespaces({ pid, ...rest }) });

suite('which pods are pinned', () => {
  const planned = (config: ReturnType<typeof pod>, change?: { sandbox_mode?: 'pause' | 'pinned'; shim?: string }) => {
    using lab = openJobLab();
    Object.assign(lab.ctx.config.runtimes.runc ?? {}, change);
    const { row } = planPod(lab.podRequest(config), lab.ctx);
    return { pinned: row.pinned, id: row.id, folder: lab.ctx.pinFolder };
  };

  test('a PID namespace for each container, or the host’s: pinned, with its IPC and UTS namespaces in the folder for them', () => {
    for (const pid of [CONTAINER, NODE]) {
      const { pinned, id, folder } = planned(withPid(pid));
      const [ipc, uts] = [`${folder}/${id}.ipc`, `${folder}/${id}.uts`];
      assert.deepEqual(pinned, { bootId: HOST.bootId, filesPending: true, ipc, uts });
    }
  });

  test('on the host network and IPC there is nothing to hold', () => {
    const { pinned } = planned(withPid(CONTAINER, { network: NODE, ipc: NODE }));
    assert.deepEqual(pinned, { bootId: HOST.bootId, filesPending: true });
  });

  test('a shared PID namespace, a user namespace, another shim, sandbox_mode pause: a pause process', () => {
    assert.equal(planned(withPid(POD)).pinned, undefined);
    assert.equal(planned(pod()).pinned, undefined, 'CRI’s default is POD');
    assert.equal(planned(withPid(CONTAINER, userns())).pinned, undefined);
    assert.equal(planned(withPid(CONTAINER), { shim: '/opt/kata/containerd-shim-kata-v2' }).pinned, undefined);
    assert.equal(planned(withPid(CONTAINER), { sandbox_mode: 'pause' }).pinned, undefined);
    assert.notEqual(planned(withPid(CONTAINER), { sandbox_mode: 'pinned' }).pinned, undefined);
  });
});

test('containers join pinned namespaces by path, and have a PID namespace of their own also where they ask for the pod’s', () => {
  const input = {
    config: withPid(CONTAINER),
    sandboxPid: 0,
    pinned: { ipc: '/ns/ipc', uts: '/ns/uts' },
    netns: '/ns/net',
    userns: undefined,
    targetPid: undefined,
    privileged: true,
    host: HOST,
  };
  for (const pid of [CONTAINER, POD]) {
    assert.deepEqual(containerNamespaces({ ...input, options: namespaces({ pid }) }), [
      { type: 'mount' },
      { type: 'network', path: '/ns/net' },
      { type: 'ipc', path: '/ns/ipc' },
      { type: 'uts', path: '/ns/uts' },
      { type: 'pid' },
    ]);
  }
});

test('the files of a pinned sandbox come with its first container, once, and again after a failure', async () => {
  using lab = openJobLab();
  const sandbox = await lab.launch(withPid(CONTAINER));
  assert.equal(sandbox.pinned?.filesPending, true);
  const made = () => lab.calls.filter((call) => call === 'shim.sandboxFiles').length;
  assert.equal(made(), 0);
  lab.hooks.set('shim.sandboxFiles', new SluiceError('DISK_FULL', 'no space'));
  await assert.rejects(lab.add(sandbox), (error) => error instanceof JobError && error.stage === 'files');
  assert.equal(sandbox.pinned?.filesPending, true);
  lab.hooks.delete('shim.sandboxFiles');
  const names = ['a', 'b', 'c'].map((name) => ({ metadata: { name, attempt: 0 } }));
  await Promise.all(names.map((over) => lab.add(sandbox, over)));
  assert.equal(made(), 2, 'containers at the same time share one making');
  assert.equal(sandbox.pinned?.filesPending, undefined);
  await lab.add(sandbox, { metadata: { name: 'd', attempt: 0 } });
  assert.equal(made(), 2);
  await lab.pods.remove(sandbox.id, {});
  assert.ok(lab.calls.includes('shim.removeSandboxFiles'), 'also of a pod whose making was cut off');
  lab.jobs.assertClosed();
});

test('the spec of a pinned sandbox: namespaces, hostname and the annotations that shims group by', () => {
  const config = { ...pod(), annotations: { 'a/b': '1', other: '2' } };
  const spec = buildPinnedSpec({
    id: 'pod1',
    config,
    netns: '/ns/net',
    pinned: { bootId: 'b', ipc: '/ns/ipc', uts: '/ns/uts' },
    podAnnotations: ['a/*'],
  });
  assert.deepEqual(spec.linux.namespaces, [
    { type: 'ipc', path: '/ns/ipc' },
    { type: 'uts', path: '/ns/uts' },
    { type: 'network', path: '/ns/net' },
  ]);
  assert.equal(spec.hostname, config.hostname);
  assert.equal(spec.annotations['io.kubernetes.cri.sandbox-id'], 'pod1');
  assert.equal(spec.annotations['a/b'], '1');
  assert.equal(spec.annotations.other, undefined);
});

suite('shared shims', () => {
  const shim = (address: string): ShimRow => ({ binary: '/bin/shim', address, version: 3 });
  const member = (id: string, address: string, over: Partial<SandboxRow> = {}) =>
    sandboxRow({ id, state: 'ready', pinned: { bootId: 'b', shimStarted: true }, shim: shim(address), ...over });

  function node(rows: SandboxRow[], dead: string[] = []) {
    const table = new Map(rows.map((row) => [row.id, row]));
    const forgotten: string[] = [];
    const shims = {
      get: (id: string) => (dead.includes(id) ? undefined : {}),
      forget: (id: string) => void forgotten.push(id),
    } as unknown as Shims;
    return { ctx: { store: { sandboxes: table } as unknown as Store, shims }, forgotten };
  }

  test('a further pod joins a living shim of its runtime that has room; the shim keeps its first pod’s id', () => {
    const { ctx } = node([member('a', '/s/1'), member('b', '/s/1'), member('x', '/s/2', { runtime: 'crun' })]);
    const next = sandboxRow({ id: 'c' });
    assert.deepEqual(shimWithRoom(next, 3, ctx), { ...shim('/s/1'), leader: 'a' });
    assert.equal(shimWithRoom(next, 2, ctx), undefined, 'full');
    assert.equal(shimWithRoom(next, 1, ctx), undefined, 'not shared');
    assert.deepEqual(shimWithRoom(sandboxRow({ id: 'y', runtime: 'crun' }), 3, ctx), { ...shim('/s/2'), leader: 'x' });
  });

  test('a dead shim, one that has ended and that of a pause process are not joined', () => {
    const pods = [
      member('dead', '/s/3'),
      member('over', '/s/4', { shimEnded: true }),
      member('pause', '/s/5', { pinned: undefined }),
    ];
    assert.equal(shimWithRoom(sandboxRow({ id: 'n' }), 8, node(pods, ['dead']).ctx), undefined);
  });

  test('pods at the same time wait for the shim that is being started, and for the next one when it is full', async () => {
    using lab = openJobLab();
    Object.assign(lab.ctx.config.runtimes.runc ?? {}, { pods_per_shim: 3 });
    const rows: SandboxRow[] = [];
    for (let at = 0; at < 6; at++) {
      const metadata = { name: `pod${at}`, uid: `uid${at}`, namespace: 'default', attempt: 0 };
      rows.push(await lab.launch({ ...withPid(CONTAINER), metadata }));
    }
    const starts: PromiseWithResolvers<void>[] = [];
    lab.hooks.set('shim.startShim', () => {
      const start = Promise.withResolvers<void>();
      starts.push(start);
      return start.promise;
    });
    const joined = rows.slice(0, 4).map((row) => pinnedShim(row, lab.ctx));
    await waitFor('two starts', 2000, () => starts.length === 2 || undefined);
    starts[0]?.resolve();
    await Promise.all(joined.slice(0, 3));
    // The first shim is there and full, the second one is still being started.
    joined.push(...rows.slice(4).map((row) => pinnedShim(row, lab.ctx)));
    await setImmediate();
    starts[1]?.resolve();
    await Promise.all(joined);
    assert.equal(starts.length, 2);
    assert.deepEqual(
      rows.map(({ shim: own }) => own?.address),
      ['/run/s/1', '/run/s/1', '/run/s/1', '/run/s/2', '/run/s/2', '/run/s/2'],
    );
  });

  test('when the shim that pods wait for does not start, they share the next one', async () => {
    using lab = openJobLab();
    Object.assign(lab.ctx.config.runtimes.runc ?? {}, { pods_per_shim: 3, shim_start: 'command' });
    const rows: SandboxRow[] = [];
    for (let at = 0; at < 3; at++) {
      const metadata = { name: `pod${at}`, uid: `uid${at}`, namespace: 'default', attempt: 0 };
      rows.push(await lab.launch({ ...withPid(CONTAINER), metadata }));
    }
    let starts = 0;
    lab.hooks.set('shim.startShim', () => {
      if (++starts === 1) throw new SluiceError('SHIM_FAILED', 'no');
    });
    const outcomes = await Promise.allSettled(rows.map((row) => pinnedShim(row, lab.ctx)));
    assert.deepEqual(
      outcomes.map(({ status }) => status),
      ['rejected', 'fulfilled', 'fulfilled'],
    );
    assert.equal(starts, 2);
    assert.equal(rows[1]?.shim?.address, rows[2]?.shim?.address);
  });

  test('the pods of each shim are counted; an ended shim and a pod without one count for nothing', () => {
    const rows = [
      member('a', '/s/1', { runtime: 'runc' }),
      member('b', '/s/1', { runtime: 'runc', shim: { ...shim('/s/1'), leader: 'a' } }),
      member('c', '/s/2', { runtime: 'crun', shim: { ...shim('/s/2'), leader: 'gone' } }),
      member('over', '/s/3', { shimEnded: true }),
      member('none', '', { shim: undefined }),
    ];
    assert.deepEqual(podsByShim(node(rows).ctx), [
      { runtime: 'runc', leader: 'a', pods: 2 },
      { runtime: 'crun', leader: 'gone', pods: 1 },
    ]);
  });

  test('of pods that leave at the same time only the last one has to end the shim', () => {
    const [a, b] = [member('p', '/s/6'), member('q', '/s/6')];
    const { ctx, forgotten } = node([a, b]);
    assert.deepEqual([leaveSharedShim(a, ctx), leaveSharedShim(b, ctx)], [true, false]);
    assert.deepEqual(forgotten, ['p']);
    assert.equal(shimWithRoom(sandboxRow({ id: 'r' }), 8, ctx), undefined, 'nobody joins a shim that is being left');
  });

  test('a pod with a shim of its own, or with a pause process, ends it itself', () => {
    const own = member('own', '/s/7');
    const pause = member('pp', '/s/8', { pinned: undefined });
    const { ctx } = node([own, pause]);
    assert.deepEqual([leaveSharedShim(own, ctx), leaveSharedShim(pause, ctx)], [false, false]);
  });
});

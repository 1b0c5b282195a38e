/** What is decided before anything is made: rows of pods and containers, reserved names, look-ups, priorities. */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { NamespaceMode } from '../../proto/gen/cri.ts';
import { codeOf, type ErrorCode, explain } from '../../src/errors.ts';
import { getContainer, getSandbox, runningContainer } from '../../src/pipeline/jobs/lookup.ts';
import { planContainer } from '../../src/pipeline/jobs/plan-container.ts';
import { planPod } from '../../src/pipeline/jobs/plan-pod.ts';
import { launchPriority, PRIORITY } from '../../src/pipeline/jobs/priority.ts';
import { ReservedNames } from '../../src/pipeline/jobs/reserved-names.ts';
import { namespaces } from '../rig/messages.ts';
import { openJobLab } from './job-fixture.ts';
import { pod, podWith, userns } from './oci-fixtures.ts';

const refuses = (code: ErrorCode, words: RegExp) => (error: unknown) =>
  codeOf(error) === code && words.test(explain(error));
const UNTRUSTED = { 'io.kubernetes.cri.untrusted-workload': 'true' };

suite('the plan of a pod', () => {
  test('every path has the id in it, under the folders of the configuration, and nothing is stored yet', () => {
    using lab = openJobLab();
    const { row, runtime } = planPod(lab.podRequest(), lab.ctx);
    const { root, state } = lab.ctx.config;
    assert.match(row.id, /^[0-9a-f]{64}$/);
    assert.equal(row.name, 'web_shop_u-1_2');
    assert.equal(row.state, 'creating');
    assert.equal(row.createdAt, 0n);
    assert.deepEqual(
      [row.snapshot, row.rootDir, row.bundle, row.stateDir],
      [
        `${root}/snapshots/${row.id}`,
        `${root}/sandboxes/${row.id}`,
        `${state}/bundles/${row.id}`,
        `${state}/sandboxes/${row.id}`,
      ],
    );
    assert.deepEqual([row.runtimeHandler, row.runtime, runtime], ['', 'runc', lab.ctx.config.runtimes.runc]);
    assert.equal(lab.ctx.store.sandboxes.size, 0);
    assert.equal(lab.ctx.sandboxNames.owner(row.name), undefined);
  });

  test('two plans of one request have different ids and namespaces', () => {
    using lab = openJobLab();
    const [a, b] = [planPod(lab.podRequest(), lab.ctx).row, planPod(lab.podRequest(), lab.ctx).row];
    assert.notEqual(a.id, b.id);
    assert.notEqual(a.netns, b.netns);
    assert.equal(a.network?.containerId, a.id);
    assert.equal(a.network?.netns, a.netns);
  });

  test('a pod on the host network has no namespace to make and no network to leave', () => {
    using lab = openJobLab();
    const config = podWith({ namespaceOptions: namespaces({ network: NamespaceMode.NODE }) });
    const { row } = planPod(lab.podRequest(config), lab.ctx);
    assert.deepEqual([row.netns, row.network, row.userns], ['', undefined, undefined]);
  });

  test('a pod with a user namespace has it pinned beside its network namespace; a runtime without idmap has none', () => {
    using lab = openJobLab();
    const config = podWith({ namespaceOptions: namespaces(userns()) });
    const { row } = planPod(lab.podRequest(config), lab.ctx);
    assert.equal(row.userns, `${row.netns}-user`);
    lab.ctx.features.runc = { recursiveReadOnly: false, idmap: false };
    assert.throws(() => planPod(lab.podRequest(config), lab.ctx), refuses('INVALID_REQUEST', /user namespaces/));
  });

  test('a request that lacks what every pod has is refused by its field', () => {
    using lab = openJobLab();
    const { ctx } = lab;
    assert.throws(() => planPod({ config: undefined, runtimeHandler: '' }, ctx), refuses('INVALID_REQUEST', /config/));
    assert.throws(() => planPod(lab.podRequest({ metadata: undefined }), ctx), refuses('INVALID_REQUEST', /metadata/));
  });

  test('the runtime is the handler’s, or the default', () => {
    using lab = openJobLab();
    const { runtimes } = lab.ctx.config;
    const own = { ...(runtimes.runc ?? assert.fail('no runtime')), binary: 'crun' };
    runtimes.crun = own;
    assert.equal(planPod(lab.podRequest({}, 'crun'), lab.ctx).runtime, own);
    lab.ctx.config.default_runtime = 'crun';
    const { row, runtime } = planPod(lab.podRequest(), lab.ctx);
    assert.deepEqual([runtime, row.runtime, row.runtimeHandler], [own, 'crun', '']);
    assert.throws(() => planPod(lab.podRequest({}, 'kata'), lab.ctx), refuses('UNKNOWN_RUNTIME', /"kata"/));
  });

  test('an untrusted workload takes the untrusted runtime, no other handler and nothing of the host', () => {
    using lab = openJobLab();
    const { ctx } = lab;
    const plan = (handler = '', config = pod()) =>
      planPod(lab.podRequest({ ...config, annotations: UNTRUSTED }, handler), ctx);
    assert.throws(() => plan(), refuses('UNKNOWN_RUNTIME', /"untrusted"/));
    ctx.config.runtimes.untrusted = ctx.config.runtimes.runc ?? assert.fail('no runtime');
    ctx.features.untrusted = ctx.features.runc ?? assert.fail('no features');
    assert.equal(plan().row.runtime, 'untrusted');
    assert.equal(plan('untrusted').row.runtime, 'untrusted');
    assert.throws(() => plan('runc'), refuses('INVALID_REQUEST', /explicit runtime handler "runc"/));
    for (const kind of ['network', 'pid', 'ipc'] as const) {
      const config = podWith({ namespaceOptions: namespaces({ [kind]: NamespaceMode.NODE }) });
      assert.throws(() => plan('', config), refuses('INVALID_REQUEST', /host access/), kind);
    }
  });
});

suite('the plan of a container', () => {
  test('every path has the id in it, and the row names its pod, its log, its streams and its cgroup', async () => {
    using lab = openJobLab();
    const sandbox = await lab.launch();
    const row = planContainer(lab.containerRequest(sandbox.id), sandbox, lab.ctx);
    const { root, state } = lab.ctx.config;
    assert.match(row.id, /^[0-9a-f]{64}$/);
    assert.deepEqual([row.name, row.sandbox, row.state], ['app_web_shop_u-1_1', sandbox.id, 'creating']);
    assert.deepEqual(
      [row.snapshot, row.rootDir, row.bundle, row.stateDir],
      [
        `${root}/snapshots/${row.id}`,
        `${root}/containers/${row.id}`,
        `${state}/bundles/${row.id}`,
        `${state}/containers/${row.id}`,
      ],
    );
    assert.equal(row.logPath, '/var/log/pods/web/app/0.log');
    assert.deepEqual(row.io, { stdin: '', stdout: `${row.stateDir}/stdout`, stderr: `${row.stateDir}/stderr` });
    assert.equal(row.cgroupsPath, `kubepods-pod1.slice:sluice:${row.id}`);
    assert.deepEqual([row.createdAt, row.startedAt, row.finishedAt, row.pid], [0n, 0n, 0n, 0]);
    assert.equal(lab.ctx.store.containers.size, 0);
  });

  test('stdin is there when asked for; a terminal has no stderr of its own', async () => {
    using lab = openJobLab();
    const sandbox = await lab.launch();
    const { io, stateDir } = planContainer(
      lab.containerRequest(sandbox.id, { stdin: true, tty: true }),
      sandbox,
      lab.ctx,
    );
    assert.deepEqual(io, { stdin: `${stateDir}/stdin`, stdout: `${stateDir}/stdout`, stderr: '' });
  });

  test('a log path that leads out of the pod’s folder is refused', async () => {
    using lab = openJobLab();
    const sandbox = await lab.launch();
    const request = lab.containerRequest(sandbox.id, { logPath: '../other/0.log' });
    assert.throws(() => planContainer(request, sandbox, lab.ctx), refuses('INVALID_REQUEST', /log_path/));
  });

  test('a request without an image is refused', async () => {
    using lab = openJobLab();
    const sandbox = await lab.launch();
    const request = lab.containerRequest(sandbox.id, { image: undefined });
    assert.throws(() => planContainer(request, sandbox, lab.ctx), refuses('INVALID_REQUEST', /image/));
  });
});

suite('reserved names', () => {
  test('a name belongs to the id that took it first, until that one releases it', () => {
    const names = new ReservedNames('sandbox');
    names.take('web', 'a');
    names.take('web', 'a');
    assert.equal(names.owner('web'), 'a');
    assert.throws(() => names.take('web', 'b'), refuses('NAME_TAKEN', /"web" belongs to a/));
    names.release('web', 'b');
    assert.equal(names.owner('web'), 'a', 'only its owner releases it');
    names.release('web', 'a');
    names.take('web', 'b');
    assert.equal(names.owner('web'), 'b');
    assert.equal(names.owner('other'), undefined);
  });
});

suite('looking up by id', () => {
  test('a whole id or a beginning that only one has', async () => {
    using lab = openJobLab();
    const sandbox = await lab.launch();
    const row = await lab.add(sandbox);
    assert.equal(getSandbox(sandbox.id.slice(0, 12), lab.ctx), sandbox);
    assert.equal(getContainer(row.id.slice(0, 12), lab.ctx), row);
    lab.ctx.store.containers.put({ ...row, id: `${row.id.slice(0, 20)}x` });
    assert.equal(getContainer(row.id, lab.ctx), row);
    assert.throws(() => getContainer(row.id.slice(0, 12), lab.ctx), refuses('INVALID_REQUEST', /ambiguous/));
  });

  test('an id that nobody has is named in the error', () => {
    using lab = openJobLab();
    assert.throws(() => getSandbox('nobody', lab.ctx), refuses('SANDBOX_NOT_FOUND', /"nobody"/));
    assert.throws(() => getContainer('nobody', lab.ctx), refuses('CONTAINER_NOT_FOUND', /"nobody"/));
    assert.throws(() => getContainer('', lab.ctx), refuses('CONTAINER_NOT_FOUND', /""/));
  });

  test('a running container comes with its shim; one that does not run, or whose shim is dead, is refused', async () => {
    using lab = openJobLab();
    const sandbox = await lab.launch();
    const row = await lab.add(sandbox, {}, { start: false });
    await assert.rejects(runningContainer(row.id, lab.ctx), refuses('NOT_READY', /created/));
    await lab.containers.start(row.id, {});
    const shim = lab.shims.get(sandbox.id) ?? assert.fail('no shim');
    assert.deepEqual(await runningContainer(row.id, lab.ctx), { row, shim: shim.shim });
    shim.state = 'unknown';
    await assert.rejects(runningContainer(row.id, lab.ctx), refuses('SHIM_FAILED', /neither alive nor dead/));
    shim.state = 'dead';
    await assert.rejects(runningContainer(row.id, lab.ctx), refuses('SHIM_FAILED', /dead/));
  });
});

test('ends go before beginnings, and kube-system’s launches before others', () => {
  assert.ok(PRIORITY.teardown > launchPriority('kube-system'));
  assert.ok(launchPriority('kube-system') > launchPriority('default'));
  assert.equal(launchPriority('default'), launchPriority(''));
});

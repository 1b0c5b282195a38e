/**
 * A daemon that is killed while a container starts, in a pod whose shim lives on: the next one tells how the start
 * ended, and nothing that the shim, or the runtime, made of it afterwards stays behind.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ContainerState, type ContainerStatus } from '../../proto/gen/cri.ts';
import { GRPC } from '../../src/errors.ts';
import { imageRegistry } from '../rig/images.ts';
import { cgroupsOf, mountsBelow } from '../rig/leftovers.ts';
import { containerConfig, podConfig } from '../rig/messages.ts';
import { privateFolder, program } from '../rig/paths.ts';
import { processesOf, waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import { inventory, type Lab, openLab, SKIP_WITH_REGISTRY, writeScript } from './lab.ts';

const skip = SKIP_WITH_REGISTRY;
const BUSYBOX = 'docker.io/library/busybox:latest';
const HANDLER = 'slow';
/** The runtime's pause, and some. */
const SLOW_MS = 3500;

let lab: Lab;
let folder: string;
let registry: Registry;

/** Where the runtime stands when the daemon is killed. */
const WINDOWS = {
  'runc create has yet to begin, and will': 'later create',
  'runc create has done its work, and not said so': 'create later',
  'runc start has done its work, and not said so': 'start later',
};

/**
 * The file `window` says which command takes its time, before its work or after it, or is refused. Before: in a process
 * of its own, which goes on when the shim kills the runtime that it knows, as it does for a caller who has hung up.
 */
const slowRuntime = (folder: string, runc: string) => `#!/bin/sh
[ -e ${folder}/window ] && window=$(cat ${folder}/window)
case "$window $* " in
  "later create "*" create "*) (echo >${folder}/entered; sleep 3; exec ${runc} "$@") & wait $! ;;
  "create later "*" create "* | "start later "*" start "*)
    ${runc} "$@" || exit
    echo >${folder}/entered
    sleep 3 ;;
  "refuse delete "*" delete "*)
    echo "the rig refuses delete" >&2
    exit 1 ;;
  *) exec ${runc} "$@" ;;
esac
`;

before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-start');
  registry = await imageRegistry(folder);
  lab = await openLab({
    index: 18,
    registry,
    keepImages: [BUSYBOX],
    runtimes: (lab) => {
      const binary = writeScript(join(lab, 'slow-runc'), slowRuntime(lab, program('runc')));
      return { [HANDLER]: { binary, shim: program('containerd-shim-runc-v2') } };
    },
  });
});
after(async () => {
  await lab?.[Symbol.asyncDispose]();
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** Launches a pod for the test and takes it away afterwards; then the node must be sound. */
async function inPod(name: string, body: (id: string) => Promise<void>): Promise<void> {
  const id = await lab.launch(name, { handler: HANDLER });
  try {
    await body(id);
  } finally {
    setWindow(undefined);
    await lab.stopAndRemove(id);
  }
  await lab.assertSound();
}

function setWindow(window: string | undefined): void {
  const file = join(lab.folder, 'window');
  if (window) writeFileSync(file, window);
  else rmSync(file, { force: true });
}

async function create(podSandboxId: string, podName: string, attempt = 0): Promise<string> {
  const metadata = { name: 'c', attempt };
  const config = containerConfig('c', BUSYBOX, ['sleep', '3600'], { metadata });
  const sandboxConfig = podConfig(podName, { cgroupParent: lab.daemon.cgroupParent });
  return (await lab.daemon.cri.createContainer({ podSandboxId, config, sandboxConfig })).containerId;
}

/**
 * Starts a container, kills the daemon in the window, and starts the next one, when the window is `then`. Gives the
 * container's id.
 */
async function cutStart(pod: string, name: string, window: string, then?: string): Promise<string> {
  const entered = join(lab.folder, 'entered');
  rmSync(entered, { force: true });
  const containerId = await create(pod, name);
  setWindow(window);
  const cut = assert.rejects(lab.daemon.cri.startContainer({ containerId }));
  await waitFor('the runtime to stand in the window', 10_000, () => existsSync(entered) || undefined);
  await lab.daemon.stop('SIGKILL');
  await cut;
  setWindow(then);
  await lab.daemon.start();
  return containerId;
}

async function statusOf(containerId: string): Promise<ContainerStatus> {
  const { status } = await lab.daemon.cri.containerStatus({ containerId });
  assert.ok(status, 'the answer has a status');
  return status;
}

async function assertFailedStart(containerId: string): Promise<void> {
  const status = await waitFor('the container to be told exited', 15_000, async () => {
    const status = await statusOf(containerId);
    return status.state === ContainerState.CONTAINER_EXITED ? status : undefined;
  });
  assert.deepEqual([status.exitCode, status.reason], [128, 'StartError']);
  assert.equal(status.message, 'the daemon ended while the container was started');
  assert.deepEqual(traces(containerId), []);
}

/** One line for each thing of the container's task that is there: processes, mounts, cgroups, the runtime's state. */
function traces(id: string): string[] {
  const { folder, state, cgroupParent } = lab.daemon;
  const processes = processesOf(folder).filter(({ command }) => command.includes(id));
  const cgroups = cgroupsOf(basename(cgroupParent)).flatMap((parent) =>
    readdirSync(parent).flatMap((name) => (name.includes(id) ? [join(parent, name)] : [])),
  );
  const runtime = join(state, 'runc/k8s.io', id);
  return [
    ...processes.map(({ pid, command }) => `process ${pid} ${command}`),
    ...mountsBelow(folder).filter((path) => path.includes(id)),
    ...cgroups,
    ...(existsSync(runtime) ? [runtime] : []),
  ];
}

/** The container is gone, and its files. */
async function assertRemoved(containerId: string): Promise<void> {
  await assert.rejects(lab.daemon.cri.containerStatus({ containerId }), { code: GRPC.NOT_FOUND });
  assert.deepEqual(traces(containerId), []);
  const files = () => inventory(lab.daemon).filter((path) => path.includes(containerId));
  // The copy of the row goes a moment after the row.
  await waitFor('its files to be gone', 5_000, () => files().length === 0 || undefined).catch(() => {});
  assert.deepEqual(files(), []);
}

for (const [when, window] of Object.entries(WINDOWS)) {
  const cut = `killed when ${when}`;

  test(`${cut}: the start has failed, its task is gone, and the next attempt runs`, {
    skip,
    timeout: 60_000,
  }, async () => {
    await inPod('told', async (pod) => {
      const { cri } = lab.daemon;
      const first = await cutStart(pod, 'told', window);
      await assertFailedStart(first);
      const second = await create(pod, 'told', 1);
      await cri.startContainer({ containerId: second });
      // What was on its way has had the time to come through, had it not been ended.
      await sleep(SLOW_MS);
      assert.deepEqual(traces(first), []);
      assert.equal((await statusOf(second)).state, ContainerState.CONTAINER_RUNNING);
      for (const containerId of [first, second]) {
        await cri.removeContainer({ containerId });
        await assertRemoved(containerId);
      }
    });
  });

  test(`${cut}: the container can be removed at once`, { skip, timeout: 60_000 }, async () => {
    await inPod('removed', async (pod) => {
      const containerId = await cutStart(pod, 'removed', window);
      await lab.daemon.cri.removeContainer({ containerId });
      await assertRemoved(containerId);
      await sleep(SLOW_MS);
      await assertRemoved(containerId);
    });
  });
}

test('a task that cannot be taken away yet: the daemon starts, tells no end, and tries until it can', {
  skip,
  timeout: 60_000,
}, async () => {
  await inPod('stuck', async (pod) => {
    const { cri } = lab.daemon;
    const containerId = await cutStart(pod, 'stuck', 'create later', 'refuse delete');
    await waitFor(
      'the first try to fail',
      10_000,
      () => /the undo of a failed start failed/.test(lab.daemon.log()) || undefined,
    );
    assert.equal((await statusOf(containerId)).state, ContainerState.CONTAINER_CREATED);
    await assert.rejects(cri.removeContainer({ containerId }), /the rig refuses delete/);
    assert.equal((await statusOf(containerId)).state, ContainerState.CONTAINER_CREATED);
    setWindow(undefined);
    await assertFailedStart(containerId);
    await cri.removeContainer({ containerId });
    await assertRemoved(containerId);
  });
});

test('a task that cannot be deleted at its end goes with its container, or with its pod', {
  skip,
  timeout: 60_000,
}, async () => {
  await inPod('kept', async (pod) => {
    const { cri } = lab.daemon;
    const [removed = '', left = ''] = [await create(pod, 'kept'), await create(pod, 'kept', 1)];
    for (const containerId of [removed, left]) await cri.startContainer({ containerId });
    setWindow('refuse delete');
    for (const containerId of [removed, left]) {
      await cri.stopContainer({ containerId, timeout: 0n });
      assert.equal((await statusOf(containerId)).exitCode, 137);
      assert.notDeepEqual(traces(containerId), [], 'the runtime still has it');
    }
    await assert.rejects(cri.removeContainer({ containerId: removed }), /delete/);
    setWindow(undefined);
    await cri.removeContainer({ containerId: removed });
    await assertRemoved(removed);
    // `left` goes with the pod, which the end of this test stops and removes.
  });
});

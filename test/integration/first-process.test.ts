/**
 * A daemon that is started as the first process of a PID namespace, as in a container without an init: everything that
 * has lost its parent there would be its child.
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { writeScript } from '../faults/lab.ts';
import { startSluice } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, imageSpec, podConfig } from '../rig/messages.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder, ROOT } from '../rig/paths.ts';
import { processes, waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';

const skip = skipUnlessRoot('runc', 'containerd-shim-runc-v2', 'docker-registry', 'unshare');
const BUSYBOX = 'docker.io/library/busybox:latest';
/** The shell that the process is started in ends before it. */
const ORPHAN = 'sleep 0.2 & exit 0';

let folder: string;
let registry: Registry;
before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-first');
  registry = await imageRegistry(folder);
});
after(async () => {
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

test('as the first process it collects orphans, passes signals on and ends as the daemon does', { skip }, async () => {
  const program = join(folder, 'sluiced');
  // Signals do not get past unshare: it is asked to end with what it has started, and tells its status.
  const unshare = 'unshare --pid --fork --kill-child --mount-proc';
  writeScript(program, `#!/bin/sh\nexec ${unshare} ${ROOT}/bin/sluiced "$@"\n`);
  await using daemon = await startSluice({ registry, index: 37, program });
  const { cri, cgroupParent } = daemon;
  const childrenOf = (pid: number) => processes().filter(({ parent }) => parent === pid);
  const [first] = childrenOf(daemon.pid());
  assert.ok(first && /^(\/bin\/)?sh /.test(first.command), first?.command);

  await cri.pullImage({ image: imageSpec(BUSYBOX) });
  const sandboxConfig = podConfig('first-process', { cgroupParent });
  const { podSandboxId } = await cri.runPodSandbox({ config: sandboxConfig });
  const config = containerConfig('main', BUSYBOX, ['sleep', '3600']);
  const { containerId } = await cri.createContainer({ podSandboxId, sandboxConfig, config });
  await cri.startContainer({ containerId });
  for (let at = 0; at < 3; at++) {
    const { exitCode } = await cri.execSync({ containerId, cmd: ['sh', '-c', ORPHAN], timeout: 20n });
    assert.equal(exitCode, 0);
  }
  await cri.removePodSandbox({ podSandboxId });
  await daemon.assertNothingLeft();
  const others = () => childrenOf(first.pid).filter(({ command }) => !command.includes('src/main/sluiced.ts'));
  await waitFor('orphans to be collected', 10_000, () => others().length === 0 || undefined).catch((error: unknown) => {
    assert.deepEqual(others(), [], String(error));
  });

  process.kill(first.pid, 'SIGHUP');
  const log = () => daemon.log();
  await waitFor('a reload', 10_000, () => log().includes('configuration reloaded') || undefined);
  process.kill(first.pid, 'SIGUSR1');
  await waitFor('a report', 10_000, () => log().includes('report of what the daemon does') || undefined);
  process.kill(first.pid, 'SIGTERM');
  assert.equal(await daemon.ended(), 0);
});

/**
 * A runtime that stops working while pods run: its program was removed or replaced by a broken one, or the node has no
 * process number left for it. Containers can be stopped all the same, and are removed when it works again.
 */
import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { NamespaceMode } from '../../proto/gen/cri.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, linux, namespaces, podConfig } from '../rig/messages.ts';
import { privateFolder, program } from '../rig/paths.ts';
import { processes, waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import { type Lab, openLab, SKIP_WITH_REGISTRY, writeScript } from './lab.ts';

const skip = SKIP_WITH_REGISTRY;
const BUSYBOX = 'docker.io/library/busybox:latest';
const HANDLERS = ['pinned', 'pause'] as const;

let lab: Lab;
let folder: string;
let registry: Registry;
let broken: string;
before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-runtime-gone');
  broken = join(folder, 'broken');
  registry = await imageRegistry(folder);
  const binary = writeScript(
    join(folder, 'runc'),
    `#!/bin/sh\n[ ! -e ${broken} ] || { echo 'the rig has no runtime' >&2; exit 1; }\nexec ${program('runc')} "$@"\n`,
  );
  const runtime = { binary, shim: program('containerd-shim-runc-v2') };
  lab = await openLab({
    index: 28,
    registry,
    keepImages: [BUSYBOX],
    runtimes: () => Object.fromEntries(HANDLERS.map((mode) => [mode, { ...runtime, sandbox_mode: mode }])),
  });
});
after(async () => {
  await lab?.[Symbol.asyncDispose]();
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** Processes of the host with this command line. */
const running = (...argv: string[]): number[] =>
  processes()
    .filter(({ command }) => command === argv.join(' '))
    .map(({ pid }) => pid);

for (const handler of HANDLERS) {
  test(`containers of a ${handler} pod are stopped without their runtime`, { skip, timeout: 120_000 }, async (t) => {
    t.after(() => rmSync(broken, { force: true }));
    const { cri, cgroupParent } = lab.daemon;
    const name = `gone-${handler}`;
    const pod = await lab.launch(name, { handler });
    const sandboxConfig = podConfig(name, { cgroupParent });
    const start = async (container: string, script: string, pid: NamespaceMode) => {
      const config = containerConfig(container, BUSYBOX, ['sh', '-c', script], {
        linux: linux({ security: { namespaceOptions: namespaces({ pid }) } }),
      });
      const { containerId } = await cri.createContainer({ podSandboxId: pod, config, sandboxConfig });
      await cri.startContainer({ containerId });
      return containerId;
    };
    const stop = async (containerId: string, timeout: bigint) => {
      await cri.stopContainer({ containerId, timeout });
      return (await cri.containerStatus({ containerId })).status?.exitCode;
    };
    const polite = await start('polite', 'trap "exit 7" TERM; while :; do sleep 0.1; done', NamespaceMode.CONTAINER);
    // Without a PID namespace of its own a first process leaves its children behind.
    const child = ['sleep', `36${process.pid}`];
    const deaf = await start('deaf', `trap "" TERM; ${child.join(' ')} & wait`, NamespaceMode.NODE);
    await waitFor('the child', 10_000, () => running(...child).length === 1 || undefined);
    const endless = await start('endless', 'sleep 3600', NamespaceMode.CONTAINER);

    writeFileSync(broken, '');
    assert.equal(await stop(polite, 30n), 7, 'the stop signal reaches the first process');
    assert.equal(await stop(deaf, 1n), 137);
    assert.deepEqual(running(...child), []);
    await assert.rejects(cri.stopPodSandbox({ podSandboxId: pod }), /the rig has no runtime/);
    const { status } = await cri.containerStatus({ containerId: endless });
    assert.equal(status?.exitCode, 137, 'the stop of the pod has killed what was left, although it failed');
    await waitFor('each signal to be in the log', 10_000, () => {
      const lines = lab.daemon.log().split('\n');
      const said = lines.filter((line) => line.includes('signalled a container without its runtime'));
      const signals = [polite, deaf, deaf, endless].map((id) => said.filter((line) => line.includes(id)).length);
      return signals.join() === '1,2,2,1' || undefined;
    });

    rmSync(broken);
    await lab.stopAndRemove(pod);
    await lab.assertSound();
  });
}

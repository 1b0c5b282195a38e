/**
 * What a daemon was started in (folder, environment, signals, descriptors, names of its folders, kernel) makes no
 * difference to its pods.
 */
import assert from 'node:assert/strict';
import { mkdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { writeScript } from '../faults/lab.ts';
import { startSluice } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, imageSpec, podConfig } from '../rig/messages.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder, ROOT } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';

const skip = skipUnlessRoot('runc', 'containerd-shim-runc-v2', 'docker-registry', 'unshare', 'gcc');
const BUSYBOX = 'docker.io/library/busybox:latest';
const SLUICED = `exec ${ROOT}/bin/sluiced "$@"`;
/** Signals that are ignored or blocked, umask, and the modes of files that the daemon has made. */
const LOOK = 'grep -hE "^Sig(Ign|Blk)" /proc/1/status; umask; stat -c %a /etc/hosts /etc/resolv.conf /dev/shm';

let folder: string;
let registry: Registry;
before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-surroundings');
  await run('gcc', ['-O2', '-Wall', '-o', join(folder, 'old-kernel'), join(ROOT, 'test/rig/old-kernel.c')]);
  registry = await imageRegistry(folder);
});
after(async () => {
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const SURROUNDINGS: { what: string; script: string; folders?: { root: string; state: string } }[] = [
  { what: 'a folder that is gone', script: `cd "$(mktemp -d)" && rmdir "$PWD" && ${SLUICED}` },
  {
    what: 'a mount namespace of its own, without environment and standard input, with ignored signals',
    script: `
      trap '' INT HUP PIPE CHLD TERM; umask 077
      exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin unshare --mount --propagation private sh -c '${SLUICED} <&-' sh "$@"`,
  },
  { what: 'an old kernel', script: `exec OLD_KERNEL ${SLUICED.replace('exec ', '')}` },
  {
    what: 'folders with odd names',
    script: SLUICED,
    folders: { root: 'r, o:o\\t "ü"/root', state: "st: a\\t 'e'/state" },
  },
];

for (const [index, { what, script, folders }] of SURROUNDINGS.entries()) {
  test(`a daemon in ${what}: its pods are as others`, { skip }, async () => {
    const program = join(folder, `sluiced-${index}`);
    writeScript(program, `#!/bin/sh\n${script.replace('OLD_KERNEL', join(folder, 'old-kernel'))}\n`);
    const config: Record<string, unknown> = {};
    for (const [key, name] of Object.entries(folders ?? {})) {
      config[key] = join(folder, name);
      mkdirSync(dirname(join(folder, name)));
    }
    await using daemon = await startSluice({ registry, index: 27, program, config });
    const { cri, cgroupParent } = daemon;
    await cri.pullImage({ image: imageSpec(BUSYBOX) });
    const sandboxConfig = podConfig('surroundings', { cgroupParent });
    const { podSandboxId } = await cri.runPodSandbox({ config: sandboxConfig });
    const { containerId } = await cri.createContainer({
      podSandboxId,
      sandboxConfig,
      config: containerConfig('main', BUSYBOX, ['sleep', '3600']),
    });
    await cri.startContainer({ containerId });
    const { stdout } = await cri.execSync({ containerId, cmd: ['sh', '-c', LOOK], timeout: 20n });
    const none = '0000000000000000';
    assert.deepEqual(Buffer.from(stdout).toString().trim().split('\n'), [
      `SigBlk:\t${none}`,
      `SigIgn:\t${none}`,
      '0022',
      '644',
      '644',
      '1777',
    ]);
    await cri.removePodSandbox({ podSandboxId });
    await daemon.assertNothingLeft();
    assert.equal(await daemon.stop(), 0);
  });
}

/**
 * What mounts that are already there cost the launch of a pod and its container: how much of a full node's slowness is
 * theirs. In a mount namespace of its own, with the mounts of so many pods, and no pods.
 *
 *   node test/bench/mounts.ts [--of 0,500] [--pods 16] [--parallel 4] [--rounds 2] [--each 3|5] [--containerd 2.4.2|none]
 *
 * Prints, per pod, the CPU of the daemon and that of the shim with the runcs it has started. Other work on the machine
 * is in neither.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { C } from '../../src/sys/libc.ts';
import { mount, unmount } from '../../src/sys/mount.ts';
import { containerdPrograms } from '../rig/build.ts';
import { removePods } from '../rig/cri.ts';
import type { RigDaemon } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { privateFolder, program } from '../rig/paths.ts';
import { phase } from './load.ts';
import { machine, otherWork } from './machine.ts';
import { cpuOf, launchPodAndContainer, warmUp } from './pods.ts';
import { releaseFor } from './release.ts';
import { type Side, startSide } from './sides.ts';

const { values: options } = parseArgs({
  options: {
    of: { type: 'string', default: '0,500' },
    pods: { type: 'string', default: '16' },
    parallel: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '2' },
    containerd: { type: 'string', default: '2.4.2' },
    each: { type: 'string', default: '3' },
  },
});

/** CPU milliseconds per pod. */
interface Cost {
  daemon: number;
  shim: number;
}

async function cost(daemon: RigDaemon, round: string): Promise<Cost> {
  const pods = Number(options.pods);
  const before = cpuOf(daemon);
  const names = Array.from({ length: pods }, (_, at) => `${round}-${at}`);
  await phase(names, Number(options.parallel), undefined, (name) => launchPodAndContainer(daemon, name));
  const perPod = (seconds: number) => (seconds * 1000) / pods;
  const after = cpuOf(daemon);
  const spent = { daemon: perPod(after.daemon - before.daemon), shim: perPod(after.shims - before.shims) };
  await removePods(daemon.cri);
  return spent;
}

/**
 * The mounts of a pod with a container, in paths as long as theirs: what reads the mount table reads all of it. Three,
 * or five as before IPC and UTS namespaces were held elsewhere.
 */
function mountsOfPod(folder: string, pod: number): string[] {
  const id = createHash('sha256').update(String(pod)).digest('hex');
  const own = join(folder, 'bundles', id);
  const targets = ['net', 'ipc', 'uts'].slice(0, Number(options.each) - 2).map((kind) => join(folder, `${id}.${kind}`));
  for (const target of targets) {
    writeFileSync(target, '');
    mount({ source: `/proc/self/ns/${target.slice(-3)}`, target, flags: C.MS_BIND });
  }
  const [lower = '', upper, work, shm = '', rootfs = ''] = ['lower', 'upper', 'work', 'shm', 'rootfs'].map((name) =>
    join(own, name),
  );
  for (const path of [lower, upper, work, shm, rootfs]) if (path) mkdirSync(path, { recursive: true });
  mount({ source: 'shm', target: shm, type: 'tmpfs', data: 'mode=1777,size=67108864' });
  mount({
    source: 'overlay',
    target: rootfs,
    type: 'overlay',
    data: `lowerdir=${lower},upperdir=${upper},workdir=${work}`,
  });
  return [...targets, shm, rootfs];
}

async function main(): Promise<void> {
  const wanted = options.of.split(',').map(Number);
  const { containerd, shim = program('containerd-shim-runc-v2') } = await containerdPrograms(options.containerd);
  console.log(`${machine()}\nother work before: ${await otherWork()}`);
  const folder = privateFolder('sluice-mounts');
  const registry = await imageRegistry(folder);
  const many = join(folder, 'many');
  mkdirSync(many);
  mount({ source: 'many', target: many, type: 'tmpfs' });
  mount({ source: '', target: many, flags: C.MS_SHARED });
  try {
    const release = await releaseFor(folder, { sources: false });
    const common = {
      registry,
      shim,
      runc: program('runc'),
      containerd,
      sandboxImage: 'registry.k8s.io/pause:3.10',
      release,
    };
    const sides: Side[] = containerd ? ['pinned', 'containerd'] : ['pinned'];
    await using stack = new AsyncDisposableStack();
    const daemons = new Map<Side, RigDaemon>();
    for (const [at, side] of sides.entries()) {
      const daemon = stack.use(await startSide(side, at, common));
      await warmUp(daemon, []);
      await removePods(daemon.cri);
      daemons.set(side, daemon);
    }
    const costs = new Map<string, Cost[]>();
    for (let round = 0; round < Number(options.rounds); round++) {
      for (const count of wanted) {
        const targets = Array.from({ length: count }, (_, pod) => mountsOfPod(many, pod)).flat();
        for (const [side, daemon] of daemons) {
          const key = `${side.padEnd(12)}mounts of ${String(count).padStart(4)} pods`;
          costs.set(key, [...(costs.get(key) ?? []), await cost(daemon, `m${round}x${count}`)]);
        }
        for (const target of targets) unmount(target);
        for (const name of readdirSync(many)) rmSync(join(many, name), { recursive: true });
      }
    }
    const mean = (values: number[]) => (values.reduce((a, b) => a + b, 0) / values.length).toFixed(1).padStart(7);
    for (const [key, all] of [...costs].sort(([a], [b]) => a.localeCompare(b))) {
      console.log(
        `${key}: daemon ${mean(all.map((one) => one.daemon))} ms, shim and runc ${mean(all.map((one) => one.shim))} ms of CPU per pod`,
      );
    }
    console.log(`other work after: ${await otherWork()}`);
  } finally {
    unmount(many);
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.env.SLUICE_MOUNTS_OWN === undefined) {
  // A mount namespace belongs to a thread, and this process has several by now.
  const env = { ...process.env, SLUICE_MOUNTS_OWN: 'yes' };
  execFileSync('unshare', ['--mount', '--propagation', 'private', process.execPath, ...process.argv.slice(1)], {
    env,
    stdio: 'inherit',
  });
} else await main();

/** The same pods, launched by the containerd that is installed: what the demo prints beside its own numbers. */
import { join } from 'node:path';
import { startContainerd } from '../rig/containerd.ts';
import { removePods } from '../rig/cri.ts';
import { podConfig } from '../rig/messages.ts';
import { findProgram } from '../rig/paths.ts';
import { writePauseArchive } from '../rig/pause-archive.ts';
import { run } from '../rig/proc.ts';
import { type Phase, phase } from './load.ts';

const PAUSE = 'sluice.internal/pause:demo';

export interface Beside {
  /** As containerd says it. */
  version: string;
  launched: Phase;
}

/**
 * `undefined` where containerd, its ctr, its shim, runc or the CNI plugins are missing. Rejects with the reason of
 * `interrupted`, with everything taken away.
 */
export async function launchWithContainerd(
  pods: number,
  parallel: number,
  interrupted?: AbortSignal,
): Promise<Beside | undefined> {
  const find = (name: string) => findProgram(name);
  const [containerd, ctr, shim, runc] = ['containerd', 'ctr', 'containerd-shim-runc-v2', 'runc'].map(find);
  if (!containerd || !ctr || !shim || !runc) return undefined;
  await using daemon = await startContainerd({ containerd, shim, runc, index: 1, sandboxImage: PAUSE });
  const archive = join(daemon.folder, 'pause.tar');
  writePauseArchive(archive, PAUSE);
  await run(ctr, ['--address', daemon.socket, '--namespace', 'k8s.io', 'images', 'import', archive]);
  const launch = (name: string) => {
    interrupted?.throwIfAborted();
    const config = podConfig(name, { namespace: 'demo', cgroupParent: daemon.cgroupParent });
    return daemon.cri.runPodSandbox({ config }, { timeoutMs: 240_000 });
  };
  // The first pod also loads what the others share.
  await launch('warm-up');
  const names = Array.from({ length: pods }, (_, i) => `demo-${i}`);
  const launched = await phase(names, parallel, daemon.pid(), launch);
  await removePods(daemon.cri, undefined, parallel);
  const words = (await run(containerd, ['--version'])).stdout.split(' ');
  return { version: words[2] ?? '', launched };
}

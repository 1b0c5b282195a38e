/**
 * Pods and containers as the benchmarks launch them: the configuration that kubelet sends, the same for every daemon.
 */
import { join } from 'node:path';
import type { RigDaemon } from '../rig/daemon.ts';
import { containerConfig, imageSpec, podConfig } from '../rig/messages.ts';
import { cpuSeconds, processesOf, pss } from '../rig/proc.ts';
import { load } from './load.ts';

export const BUSYBOX = 'docker.io/library/busybox:latest';
export const SLEEP = ['sleep', '3600'];
const PATIENCE = { timeoutMs: 240_000 };

/** What load() needs to know of a daemon. */
export const pods = (daemon: RigDaemon) => ({
  cri: daemon.cri,
  pid: daemon.pid(),
  cgroupParent: daemon.cgroupParent,
});

/** Code, caches and images are warm before the first row. */
export async function warmUp(daemon: RigDaemon, handlers: readonly string[]): Promise<void> {
  await daemon.cri.pullImage({ image: imageSpec(BUSYBOX) }, { timeoutMs: 120_000 });
  await load({ ...pods(daemon), pods: 12, parallel: 4 });
  for (const handler of handlers) await launchPodAndContainer(daemon, `warm-${handler}`, handler);
}

export async function launchPod(daemon: RigDaemon, name: string, logs = false): Promise<string> {
  const config = podConfig(`bench-${name}-${Date.now()}`, sharedConfig(daemon, name, logs));
  return (await daemon.cri.runPodSandbox({ config }, PATIENCE)).podSandboxId;
}

/** RunPodSandbox, CreateContainer and StartContainer: what a pod costs until its container runs. */
export async function launchPodAndContainer(daemon: RigDaemon, name: string, handler = ''): Promise<void> {
  const config = podConfig(`bench-${name}`, sharedConfig(daemon, name, false));
  const { podSandboxId } = await daemon.cri.runPodSandbox({ config, runtimeHandler: handler }, PATIENCE);
  const { containerId } = await daemon.cri.createContainer(
    { podSandboxId, config: containerConfig('main', BUSYBOX, SLEEP), sandboxConfig: config },
    PATIENCE,
  );
  await daemon.cri.startContainer({ containerId }, PATIENCE);
}

/**
 * A container in a pod that launchPod() has launched; gives its id. With `logs` the pod must have been launched with
 * them too.
 */
export async function startContainer(
  daemon: RigDaemon,
  pod: string,
  name: string,
  command: string[],
  logs = false,
): Promise<string> {
  const { status } = await daemon.cri.podSandboxStatus({ podSandboxId: pod });
  const { containerId } = await daemon.cri.createContainer(
    {
      podSandboxId: pod,
      config: containerConfig(name, BUSYBOX, command, { logPath: logs ? `${name}.log` : '' }),
      sandboxConfig: podConfig(status?.metadata?.name ?? '', sharedConfig(daemon, name, logs)),
    },
    PATIENCE,
  );
  await daemon.cri.startContainer({ containerId }, PATIENCE);
  return containerId;
}

function sharedConfig(daemon: RigDaemon, name: string, logs: boolean) {
  return { cgroupParent: daemon.cgroupParent, logDirectory: logs ? join(daemon.folder, 'logs', name) : '' };
}

/** CPU seconds that the daemon has used, and its shims with what they have started and waited for (runc). */
export function cpuOf(daemon: RigDaemon): { daemon: number; shims: number } {
  return {
    daemon: cpuSeconds(daemon.pid()),
    shims: shimsOf(daemon).reduce((sum, { pid }) => sum + cpuSeconds(pid), 0),
  };
}

/** Proportional set size in bytes of the daemon, and of all its shims together. */
export function memoryOf(daemon: RigDaemon): { daemon: number; shims: number } {
  return { daemon: pss(daemon.pid()), shims: shimsOf(daemon).reduce((sum, { pid }) => sum + pss(pid), 0) };
}

const shimsOf = (daemon: RigDaemon) =>
  processesOf(daemon.folder).filter(
    ({ pid, command, state }) => pid !== daemon.pid() && state !== 'Z' && command.includes('containerd-shim'),
  );

/**
 * The requests that take a pod through its life, each with its notes in the ledger: what is asked for before the
 * request, what was acknowledged after its answer.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type ContainerConfig, PortMapping, Protocol } from '../../proto/gen/cri.ts';
import type { Cri } from '../rig/cri.ts';
import { containerConfig, podConfig } from '../rig/messages.ts';
import { GivenUp, waitFor } from '../rig/proc.ts';
import {
  awaitEnd,
  type ContainerEntry,
  checkEnd,
  logPath,
  noteLaunch,
  type PodEntry,
  type Report,
  wrongLog,
} from './ledger.ts';

/** What all callers of a storm share. */
export interface Scene {
  cri: Cri;
  /** Private folder: logs of containers go below it. */
  folder: string;
  cgroupParent: string;
  report: Report;
  /** False from the end of the daemon to its next start. */
  alive: () => boolean;
  /** All pods that the daemon was asked for and that are not removed. */
  pods: Set<PodEntry>;
  /** Ids of pods and containers whose removal was acknowledged. */
  removed: Set<string>;
  counts: Record<'launches' | 'containers' | 'removals' | 'pulls', number>;
}

export const TIMEOUT = { timeoutMs: 120_000 };

/** Runtime handlers by name: the default one, pods with a pause process, pods that share shims. */
export const HANDLERS: Record<string, Record<string, unknown>> = {
  '': {},
  pause: { binary: 'runc', sandbox_mode: 'pause' },
  shared: { binary: 'runc', pods_per_shim: 4 },
};

/** A pod that nobody has asked for yet. */
export function newPod({ folder, cgroupParent }: Scene, name: string, handler: string, hostPort?: number): PodEntry {
  const logDirectory = join(folder, 'logs', name);
  mkdirSync(logDirectory, { recursive: true });
  const port = { ...PortMapping.decode(new Uint8Array()), protocol: Protocol.TCP, containerPort: 80 };
  const portMappings = hostPort === undefined ? [] : [{ ...port, hostPort }];
  const config = podConfig(name, { cgroupParent, logDirectory, portMappings });
  return { phase: 'launching', config, handler, id: '', address: '', createdAt: 0n, containers: [] };
}

export interface Program {
  name: string;
  image: string;
  /** It prints so many counted lines, */
  lines: number;
  /** slowly, so that the daemon often dies between two, */
  slow: boolean;
  /** and ends with this code, */
  exitCode: number;
  /** by itself or, after a further line, at SIGTERM. */
  endsAlone: boolean;
  /** Shell text that comes first. */
  first?: string;
}

/** A container that nobody has asked for yet. */
export function newContainer(pod: PodEntry, program: Program, more: Partial<ContainerConfig> = {}): ContainerEntry {
  const { name, image, lines, slow, exitCode, endsAlone, first = '' } = program;
  const print = `${first}i=1; while [ $i -le ${lines} ]; do echo "line $i"; i=$((i+1)); ${slow ? 'sleep 0.02;' : ''} done`;
  const wait = `trap 'echo "line ${lines + 1}"; exit ${exitCode}' TERM; ${print}; sleep 3600 & wait`;
  const command = ['sh', '-c', endsAlone ? `${print}; exit ${exitCode}` : wait];
  const config = containerConfig(name, image, command, { logPath: `${name}.log`, ...more });
  const logFile = logPath(pod.config, config);
  const fresh = { phase: 'creating', id: '', spoilt: false, killed: false, wrong: false } as const;
  return { ...fresh, config, logFile, lines, endsAlone, exitCode };
}

export async function launch({ cri, pods, counts }: Scene, pod: PodEntry): Promise<void> {
  pods.add(pod);
  pod.id = (await cri.runPodSandbox({ config: pod.config, runtimeHandler: pod.handler }, TIMEOUT)).podSandboxId;
  pod.phase = 'ready';
  counts.launches++;
  await noteLaunch(cri, pod);
}

export async function create({ cri }: Scene, pod: PodEntry, container: ContainerEntry): Promise<void> {
  if (!pod.containers.includes(container)) pod.containers.push(container);
  const request = { podSandboxId: pod.id, config: container.config, sandboxConfig: pod.config };
  container.id = (await cri.createContainer(request, TIMEOUT)).containerId;
  container.phase = 'created';
}

/** The next request of a container's life. */
export async function advance(scene: Scene, pod: PodEntry, container: ContainerEntry): Promise<void> {
  const { cri, counts, report } = scene;
  switch (container.phase) {
    case 'creating':
      return create(scene, pod, container);
    case 'created':
      container.phase = 'starting';
      await cri.startContainer({ containerId: container.id }, TIMEOUT);
      container.phase = 'started';
      counts.containers++;
      return;
    case 'started':
      if (container.spoilt) return removeContainer(scene, pod, container);
      if (container.endsAlone) {
        await awaitEnd(cri, container, scene.alive);
      } else {
        await awaitLines(scene, container);
        container.phase = 'stopping';
        await cri.stopContainer({ containerId: container.id, timeout: 30n }, TIMEOUT);
      }
      container.phase = 'ended';
      return checkEnd(cri, pod, container, report);
    case 'stopping':
      await cri.stopContainer({ containerId: container.id, timeout: 30n }, TIMEOUT);
      container.phase = 'ended';
      return checkEnd(cri, pod, container, report);
    default:
      return removeContainer(scene, pod, container);
  }
}

/** A stop in between would cut the lines short. What is missing then is found at the container's end. */
async function awaitLines({ alive }: Scene, { logFile, lines }: ContainerEntry): Promise<void> {
  const look = () => {
    if (!alive()) throw new GivenUp('the daemon has been killed');
    return wrongLog(logFile, lines) === undefined || undefined;
  };
  await waitFor(`${lines} lines in ${logFile}`, 5000, look).catch((error: Error) => {
    if (error instanceof GivenUp) throw error;
  });
}

export async function removeContainer({ cri, removed }: Scene, pod: PodEntry, container: ContainerEntry) {
  container.phase = 'removing';
  await cri.removeContainer({ containerId: container.id }, TIMEOUT);
  removed.add(container.id);
  pod.containers.splice(pod.containers.indexOf(container), 1);
}

export async function stopPod({ cri }: Scene, pod: PodEntry): Promise<void> {
  killsContainers(pod);
  pod.phase = 'stopping';
  await cri.stopPodSandbox({ podSandboxId: pod.id }, TIMEOUT);
  pod.phase = 'stopped';
}

export async function removePod({ cri, pods, removed, counts }: Scene, pod: PodEntry): Promise<void> {
  killsContainers(pod);
  pod.phase = 'removing';
  await cri.removePodSandbox({ podSandboxId: pod.id }, TIMEOUT);
  for (const { id } of [pod, ...pod.containers]) removed.add(id);
  pods.delete(pod);
  counts.removals++;
}

function killsContainers({ containers }: PodEntry): void {
  for (const container of containers) if (container.phase !== 'ended') container.killed = true;
}

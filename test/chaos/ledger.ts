/**
 * What the daemon has acknowledged, and what it was asked for without an answer. After each restart the node is
 * compared with it: an acknowledged fact must hold, an unanswered request may have been carried out or not.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Container,
  type ContainerConfig,
  ContainerState,
  type ContainerStatus,
  type PodSandbox,
  type PodSandboxConfig,
  PodSandboxState,
} from '../../proto/gen/cri.ts';
import type { Cri } from '../rig/cri.ts';
import { GivenUp, waitFor } from '../rig/proc.ts';

/**
 * How far a pod or container has come. The forms in -ing stand for a request without an answer; each other one for a
 * request that was answered with success.
 */
export type PodPhase = 'launching' | 'ready' | 'stopping' | 'stopped' | 'removing';
export type ContainerPhase = 'creating' | 'created' | 'starting' | 'started' | 'stopping' | 'ended' | 'removing';

export interface PodEntry {
  phase: PodPhase;
  config: PodSandboxConfig;
  handler: string;
  id: string;
  address: string;
  createdAt: bigint;
  containers: ContainerEntry[];
}

export interface ContainerEntry {
  phase: ContainerPhase;
  config: ContainerConfig;
  id: string;
  logFile: string;
  /** The lines `line 1` to `line N` that it prints. */
  lines: number;
  /** It ends by itself; otherwise it waits for SIGTERM and prints one line more then. */
  endsAlone: boolean;
  /** The exit code of its program, however it ends but by SIGKILL. */
  exitCode: number;
  /** A start that was interrupted may be undone: the container is then only good for its removal. */
  spoilt: boolean;
  /** The pod's own stop ends it by SIGKILL. */
  killed: boolean;
  /** Its end was found wrong, which is reported once. */
  wrong: boolean;
}

/** One line for each promise that was not kept. */
export type Report = (problem: string) => void;

export const nameOf = (pod: PodEntry) => pod.config.metadata?.name ?? '';

/** Compares the node with what was acknowledged, and settles what was not answered by what is there now. */
export async function compare(cri: Cri, pods: Set<PodEntry>, removed: ReadonlySet<string>, report: Report) {
  const listed = new Map((await cri.listPodSandbox()).items.map((pod) => [pod.id, pod]));
  const containers = (await cri.listContainers()).containers;
  for (const id of removed) {
    if (listed.has(id)) report(`pod ${id} is listed after its removal was acknowledged`);
    if (containers.some((one) => one.id === id)) report(`container ${id} is listed after its removal was acknowledged`);
  }
  for (const pod of [...pods]) await comparePod(cri, pod, { pods, listed, containers, report });
  const known = new Set([...pods].map((pod) => pod.id));
  for (const [id, pod] of listed) {
    if (!known.has(id))
      report(`pod ${pod.metadata?.name} (${id}) is listed, and nobody asked for it or it was removed`);
  }
}

interface Found {
  pods: Set<PodEntry>;
  listed: Map<string, PodSandbox>;
  containers: Container[];
  report: Report;
}

async function comparePod(cri: Cri, pod: PodEntry, { pods, listed, containers, report }: Found): Promise<void> {
  const name = nameOf(pod);
  const here = pod.phase === 'launching' ? find([...listed.values()], name) : listed.get(pod.id);
  if (!here) {
    if (pod.phase === 'launching' || pod.phase === 'removing') pods.delete(pod);
    else report(`pod ${name} (${pod.phase}) is gone`);
    return;
  }
  if (pod.phase === 'launching') {
    // A kubelet adopts what it lists.
    pod.id = here.id;
    pod.phase = here.state === PodSandboxState.SANDBOX_READY ? 'ready' : 'stopped';
    if (pod.phase === 'ready') await noteLaunch(cri, pod);
  } else if (pod.phase === 'ready' && pod.createdAt === 0n) {
    await noteLaunch(cri, pod); // the daemon died between its answer and the look at the status
  } else if (pod.phase === 'ready') {
    const { status } = await cri.podSandboxStatus({ podSandboxId: pod.id });
    if (status?.state !== PodSandboxState.SANDBOX_READY) report(`pod ${name} was ready and is not any more`);
    if (status?.network?.ip !== pod.address) report(`pod ${name} had ${pod.address} and has ${status?.network?.ip}`);
    if (status?.createdAt !== pod.createdAt) report(`pod ${name} was created at another time`);
  } else if (pod.phase === 'stopped' && here.state === PodSandboxState.SANDBOX_READY) {
    report(`pod ${name} was stopped and is ready again`);
  }
  const own = containers.filter((one) => one.podSandboxId === pod.id);
  for (const container of [...pod.containers]) await compareContainer(cri, pod, container, own, report);
  for (const one of own) {
    const known = pod.containers.some(({ id }) => id === one.id);
    if (!known) report(`container ${one.metadata?.name} of pod ${name} is listed, and nobody asked for it`);
  }
}

const find = (pods: PodSandbox[], name: string) => pods.find((pod) => pod.metadata?.name === name);

export async function noteLaunch(cri: Cri, pod: PodEntry): Promise<void> {
  const { status } = await cri.podSandboxStatus({ podSandboxId: pod.id });
  pod.address = status?.network?.ip ?? '';
  pod.createdAt = status?.createdAt ?? 0n;
}

async function compareContainer(
  cri: Cri,
  pod: PodEntry,
  container: ContainerEntry,
  listed: Container[],
  report: Report,
): Promise<void> {
  const metadata = container.config.metadata;
  const what = `container ${metadata?.name} of pod ${nameOf(pod)} (${container.phase})`;
  const here = listed.find((one) =>
    container.phase === 'creating' ? one.metadata?.name === metadata?.name : one.id === container.id,
  );
  // A pod that is being removed, or whose removal begins with a stop, takes its containers along.
  if (!here) {
    const mayBeGone = container.phase === 'creating' || container.phase === 'removing' || pod.phase === 'removing';
    if (mayBeGone) pod.containers.splice(pod.containers.indexOf(container), 1);
    else report(`${what} is gone`);
    return;
  }
  const { CONTAINER_CREATED: CREATED, CONTAINER_RUNNING: RUNNING, CONTAINER_EXITED: EXITED } = ContainerState;
  const podGoes = pod.phase !== 'ready';
  if (podGoes && container.phase !== 'ended') container.killed = true;
  switch (container.phase) {
    case 'creating':
      container.id = here.id;
      container.phase = 'created';
      break;
    case 'created':
      if (here.state !== CREATED && !podGoes) report(`${what} has state ${here.state}`);
      break;
    case 'starting':
      // Shown as created while the daemon takes the interrupted start back.
      container.spoilt = here.state !== RUNNING && !(here.state === EXITED && (await endedByItself(cri, container)));
      container.phase = 'started';
      break;
    case 'started':
    case 'stopping': {
      if (container.spoilt || container.killed) break;
      if (here.state !== RUNNING && here.state !== EXITED) report(`${what} has state ${here.state}`);
      const mustRun = container.phase === 'started' && !container.endsAlone;
      if (mustRun && here.state !== RUNNING) report(`${what} was running and is not any more`);
      break;
    }
    case 'ended':
      if (here.state !== EXITED) report(`${what} has state ${here.state}`);
      else await checkEnd(cri, pod, container, report);
      break;
    case 'removing':
      break;
  }
}

async function endedByItself(cri: Cri, { id, exitCode }: ContainerEntry): Promise<boolean> {
  const { status } = await cri.containerStatus({ containerId: id });
  return status?.reason !== 'StartError' && status?.exitCode === exitCode;
}

/** Waits for the end of a container that ends by itself, as long as `alive` holds. */
export function awaitEnd(cri: Cri, container: ContainerEntry, alive: () => boolean): Promise<ContainerStatus> {
  return waitFor(`container ${container.config.metadata?.name} to end`, 60_000, async () => {
    if (!alive()) throw new GivenUp('the daemon has been killed');
    const { status } = await cri.containerStatus({ containerId: container.id });
    return status?.state === ContainerState.CONTAINER_EXITED ? status : undefined;
  });
}

/** Exit code and log of an ended container are what its program made them. */
export async function checkEnd(cri: Cri, pod: PodEntry, container: ContainerEntry, report: Report): Promise<void> {
  const { exitCode, endsAlone, lines, spoilt, killed, wrong: reported, id } = container;
  if (spoilt || killed || reported) return;
  const what = `container ${container.config.metadata?.name} of pod ${nameOf(pod)}`;
  const { status } = await cri.containerStatus({ containerId: id });
  if (status?.exitCode !== exitCode) {
    report(`${what} ended with ${status?.exitCode} (${status?.reason} ${status?.message}), not with ${exitCode}`);
  }
  const wrong = wrongLog(container.logFile, endsAlone ? lines : lines + 1);
  if (wrong) report(`${what}: ${wrong}`);
  container.wrong = status?.exitCode !== exitCode || wrong !== undefined;
}

/** What is wrong with a log that must have the lines 1 to `lines`; undefined when it has. */
export function wrongLog(file: string, lines: number): string | undefined {
  const got = existsSync(file) ? logLines(readFileSync(file, 'utf8')) : [];
  const expected = Array.from({ length: lines }, (_, at) => `line ${at + 1}`);
  if (got.join('\n') === expected.join('\n')) return undefined;
  const missing = expected.filter((line) => !got.includes(line));
  const twice = got.filter((line, at) => got.indexOf(line) !== at);
  const strange = got.filter((line) => !expected.includes(line));
  const told = Object.entries({ missing, twice, strange }).filter(([, some]) => some.length > 0);
  const how = told.map(([name, some]) => `${name}: ${some.slice(0, 5).join(', ')}`).join('; ') || 'another order';
  return `its log has ${got.length} of ${lines} lines (${how})`;
}

/** The text of each line of a CRI log, parts joined. */
function logLines(text: string): string[] {
  const lines: string[] = [];
  let part = '';
  for (const line of text.split('\n')) {
    const [, , tag = '', ...words] = line.split(' ');
    if (tag === '') continue;
    part += words.join(' ');
    if (tag !== 'F') continue;
    lines.push(part);
    part = '';
  }
  return lines;
}

export const logPath = (pod: PodSandboxConfig, container: ContainerConfig) => join(pod.logDirectory, container.logPath);

/** A daemon with a registry, one pod after another, and containers in them: what the container tests have in common. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type ContainerConfig,
  ContainerState,
  type ContainerStatus,
  type ExecSyncResponse,
  type PodSandboxConfig,
} from '../../proto/gen/cri.ts';
import type { Cri } from '../rig/cri.ts';
import { type SluiceDaemon, type SluiceOptions, startSluice } from '../rig/daemon.ts';
import { imageRegistry, writableImageRegistry } from '../rig/images.ts';
import { containerConfig, imageSpec, type PodOptions, podConfig } from '../rig/messages.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder } from '../rig/paths.ts';
import { run, waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';

export const SKIP = skipUnlessRoot('runc', 'containerd-shim-runc-v2', 'docker-registry', 'iptables');

export const BUSYBOX = 'docker.io/library/busybox:latest';
export const SLEEP = ['sleep', '3600'];

export interface ContainerLab extends AsyncDisposable {
  daemon: SluiceDaemon;
  cri: Cri;
  registry: Registry;
  folder: string;
  /** Launches a pod; removed at disposal. */
  pod(name: string, change?: PodOptions & Pick<Partial<PodSandboxConfig>, 'linux'>): Promise<TestPod>;
  pull(image: string): Promise<string>;
}

export interface TestPod extends AsyncDisposable {
  id: string;
  config: PodSandboxConfig;
  logs: string;
  create(name: string, command: string[], change?: Partial<ContainerConfig>, image?: string): Promise<string>;
  /** Creates and starts. */
  run(name: string, command: string[], change?: Partial<ContainerConfig>, image?: string): Promise<string>;
  /** The log of a container that was given no log path of its own. */
  log(name: string): string;
}

export interface ContainerLabOptions extends SluiceOptions {
  /** A registry that takes pushes. */
  writable?: boolean;
}

export async function openContainerLab({ writable, ...options }: ContainerLabOptions): Promise<ContainerLab> {
  const folder = privateFolder('sluice-ctr');
  const registry = await (writable ? writableImageRegistry(folder) : imageRegistry(folder));
  let daemon: SluiceDaemon;
  try {
    daemon = await startSluice({ registry, ...options });
  } catch (error) {
    await registry.stop();
    await run('rm', ['-rf', folder]);
    throw error;
  }
  const { cri } = daemon;
  const pull = async (image: string) => (await cri.pullImage({ image: imageSpec(image) })).imageRef;
  await pull(BUSYBOX);
  return {
    daemon,
    cri,
    registry,
    folder,
    pull,
    async pod(name, change = {}) {
      const logs = join(folder, 'logs', name);
      mkdirSync(logs, { recursive: true });
      const { linux, ...rest } = change;
      const config = podConfig(name, { cgroupParent: daemon.cgroupParent, logDirectory: logs, ...rest });
      if (linux) config.linux = linux;
      const { podSandboxId } = await cri.runPodSandbox({ config });
      return testPod(cri, podSandboxId, config, logs);
    },
    async [Symbol.asyncDispose]() {
      await daemon[Symbol.asyncDispose]();
      await registry.stop();
      await run('rm', ['-rf', folder]);
    },
  };
}

function testPod(cri: Cri, id: string, config: PodSandboxConfig, logs: string): TestPod {
  const create: TestPod['create'] = async (name, command, change = {}, image = BUSYBOX) => {
    const own = containerConfig(name, image, command, { logPath: `${name}.log`, ...change });
    return (await cri.createContainer({ podSandboxId: id, config: own, sandboxConfig: config })).containerId;
  };
  return {
    id,
    config,
    logs,
    create,
    async run(...args) {
      const containerId = await create(...args);
      await cri.startContainer({ containerId });
      return containerId;
    },
    log: (name) => readFileSync(join(logs, `${name}.log`), 'utf8'),
    async [Symbol.asyncDispose]() {
      await cri.stopPodSandbox({ podSandboxId: id });
      await cri.removePodSandbox({ podSandboxId: id });
    },
  };
}

export async function statusOf(cri: Cri, containerId: string): Promise<ContainerStatus> {
  const { status } = await cri.containerStatus({ containerId });
  assert.ok(status);
  return status;
}

export function exited(cri: Cri, containerId: string, ms = 15_000): Promise<ContainerStatus> {
  return waitFor(`container ${containerId.slice(0, 8)} to end`, ms, async () => {
    const status = await statusOf(cri, containerId);
    return status.state === ContainerState.CONTAINER_EXITED ? status : undefined;
  });
}

/** Runs a shell line in a container and gives what it printed; a failure throws. */
export async function sh(cri: Cri, containerId: string, line: string): Promise<string> {
  const { stdout, stderr, exitCode } = await execSync(cri, containerId, ['sh', '-c', line]);
  if (exitCode !== 0) throw new Error(`${line}: status ${exitCode}: ${Buffer.from(stderr)}`);
  return Buffer.from(stdout).toString().trimEnd();
}

export function execSync(cri: Cri, containerId: string, cmd: string[], timeout = 0n): Promise<ExecSyncResponse> {
  return cri.execSync({ containerId, cmd, timeout });
}

/** Is a host's process there (and no zombie)? */
export function isAlive(pid: number): boolean {
  if (!existsSync(`/proc/${pid}`)) return false;
  return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
}

export async function pidOf(cri: Cri, containerId: string): Promise<number> {
  const { info } = await cri.containerStatus({ containerId, verbose: true });
  return (JSON.parse(info.info ?? '{}') as { pid: number }).pid;
}

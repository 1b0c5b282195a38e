/** The life of a busy node: pods that come and go, exec probes, logs and pulls. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SluiceDaemon } from '../rig/daemon.ts';
import { containerConfig, imageSpec, podConfig } from '../rig/messages.ts';

const IMAGE = 'docker.io/library/busybox:latest';
const OTHERS = ['1', '2', '3'].map((n) => `registry.k8s.io/k8s-staging-cri-tools/test-image-${n}:latest`);
/** How long a pod lives, and how often it is probed. */
const LIFE_MS = 8000;
const PROBE_MS = 1000;

export interface Done {
  pods: number;
  probes: number;
  pulls: number;
}

/** Keeps `pods` pods alive, each for some seconds, until `end` aborts; then all are gone. Rejects when a call fails. */
export async function churn(daemon: SluiceDaemon, folder: string, pods: number, end: AbortSignal): Promise<Done> {
  const done: Done = { pods: 0, probes: 0, pulls: 0 };
  await pull(daemon, IMAGE);
  const slots = Array.from({ length: pods }, async (_, slot) => {
    await sleep((slot * LIFE_MS) / pods); // spread over a life, so that the number under way stays the same
    for (let number = 0; !end.aborted; number++) await onePod(daemon, folder, `soak-${slot}-${number}`, done);
  });
  const pulls = async () => {
    for (let number = 0; !end.aborted; number++) {
      const image = OTHERS[number % OTHERS.length] ?? IMAGE;
      await pull(daemon, image);
      await daemon.cri.removeImage({ image: imageSpec(image) });
      done.pulls++;
      await sleep(2000);
    }
  };
  await Promise.all([...slots, pulls()]);
  return done;
}

async function onePod({ cri, cgroupParent }: SluiceDaemon, folder: string, name: string, done: Done): Promise<void> {
  const logDirectory = join(folder, 'logs', name);
  mkdirSync(logDirectory, { recursive: true });
  const sandboxConfig = podConfig(name, { cgroupParent, logDirectory });
  const { podSandboxId } = await cri.runPodSandbox({ config: sandboxConfig });
  const command = ['sh', '-c', 'while :; do echo "a line of a log, as long as lines often are"; sleep 0.1; done'];
  const config = containerConfig('main', IMAGE, command, { logPath: 'main.log' });
  const { containerId } = await cri.createContainer({ podSandboxId, config, sandboxConfig });
  await cri.startContainer({ containerId });
  const until = Date.now() + LIFE_MS;
  while (Date.now() < until) {
    const { exitCode } = await cri.execSync({ containerId, cmd: ['true'], timeout: 10n });
    if (exitCode !== 0) throw new Error(`a probe of ${name} ended with ${exitCode}`);
    done.probes++;
    await sleep(PROBE_MS);
  }
  await cri.stopPodSandbox({ podSandboxId });
  await cri.removePodSandbox({ podSandboxId });
  rmSync(logDirectory, { recursive: true });
  done.pods++;
}

const pull = ({ cri }: SluiceDaemon, image: string) => cri.pullImage({ image: imageSpec(image) });

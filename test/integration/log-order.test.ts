/** The order of stdout and stderr in a log, through the real shim, which copies the streams side by side. */
import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type Lab, openLab, SKIP } from '../faults/lab.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, podConfig } from '../rig/messages.ts';
import { findProgram, privateFolder } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';

const skip = SKIP || (findProgram('docker-registry') ? false : 'needs docker-registry');
const BUSYBOX = 'docker.io/library/busybox:latest';
const TIMES = 20;

let lab: Lab;
let folder: string;
let registry: Registry;
before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-order');
  registry = await imageRegistry(folder);
  lab = await openLab({ index: 21, registry, keepImages: [BUSYBOX] });
});
after(async () => {
  await lab?.[Symbol.asyncDispose]();
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** The logs of {@link TIMES} containers that run `script`, each as its words in the order of the file. */
async function logsOf(name: string, script: string): Promise<string[]> {
  const { cri } = lab.daemon;
  const logDirectory = join(folder, name);
  const sandboxConfig = podConfig(name, { cgroupParent: lab.daemon.cgroupParent, logDirectory });
  const { podSandboxId } = await cri.runPodSandbox({ config: sandboxConfig });
  const logs: string[] = [];
  for (let i = 0; i < TIMES; i++) {
    const config = containerConfig(`c${i}`, BUSYBOX, ['sh', '-c', script], { logPath: `${i}.log` });
    const { containerId } = await cri.createContainer({ podSandboxId, config, sandboxConfig });
    await cri.startContainer({ containerId });
    await waitFor('the end', 20_000, async () => {
      const { status } = await cri.containerStatus({ containerId });
      return status?.state === 2 || undefined;
    });
    const lines = readFileSync(join(logDirectory, `${i}.log`), 'utf8')
      .trim()
      .split('\n');
    logs.push(lines.map((line) => line.split(' ').at(-1)).join(''));
  }
  await lab.stopAndRemove(podSandboxId);
  return logs;
}

test('three lines to stdout and one to stderr, a millisecond apart, keep their order', { skip }, async () => {
  const logs = await logsOf('apart', 'for i in 1 2 3; do echo $i; usleep 1000; done; echo 4 >&2');
  assert.deepEqual(logs, Array(TIMES).fill('1234'));
});

test('the same at once: no line is lost, and few are out of order', { skip }, async (t) => {
  const logs = await logsOf('at-once', 'sleep 0.2; echo 1; echo 2; echo 3; echo 4 >&2');
  for (const log of logs) assert.equal([...log].sort().join(''), '1234');
  t.diagnostic(`${logs.filter((log) => log !== '1234').length} of ${TIMES} are out of order`);
});

/** What the comparison measures: each row one number of one daemon, on an empty node, with its target. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RigDaemon } from '../rig/daemon.ts';
import { containerConfig, imageSpec, podConfig } from '../rig/messages.ts';
import { load, phase } from './load.ts';
import { loopDelayDuring } from './loop-delay.ts';
import { execThroughput, forwardThroughput, MIB } from './streams.ts';

export interface Row {
  name: string;
  unit: string;
  digits?: number;
  /** Measured in one round only, because it is long. */
  once?: boolean;
  /** Of one daemon alone: nothing in the other is like it. */
  only?: RigDaemon['kind'];
  target: { of: 'ratio' | 'sluice'; at: 'most' | 'least'; value: number };
  /** `quick` means a tenth of the work, for a look. A rejection with a gRPC code goes into the table. */
  measure: (daemon: RigDaemon, quick: boolean) => Promise<number>;
}

const BUSYBOX = 'docker.io/library/busybox:latest';

const pods = (daemon: RigDaemon) => ({ cri: daemon.cri, pid: daemon.pid(), cgroupParent: daemon.cgroupParent });

/** Code, caches and images are warm before the first row. */
export async function warmUp(daemon: RigDaemon): Promise<void> {
  await daemon.cri.pullImage({ image: imageSpec(BUSYBOX) }, { timeoutMs: 120_000 });
  await load({ ...pods(daemon), pods: 12, parallel: 4 });
}

export const ROWS: readonly Row[] = [
  {
    name: 'RunPodSandbox p50, one at a time',
    unit: 'ms',
    target: { of: 'ratio', at: 'most', value: 0.7 },
    measure: async (daemon, quick) => {
      const { run } = await load({ ...pods(daemon), pods: quick ? 5 : 25, parallel: 1, ops: ['run'] });
      return run?.calls.p50 ?? Number.NaN;
    },
  },
  {
    name: 'pods launched per second, 32 at once',
    unit: '/s',
    target: { of: 'ratio', at: 'least', value: 1.3 },
    measure: async (daemon, quick) => {
      const { run } = await load({ ...pods(daemon), pods: quick ? 32 : 128, parallel: 32, ops: ['run'] });
      return run?.podsPerSecond ?? Number.NaN;
    },
  },
  {
    name: 'StopPodSandbox p50, one at a time',
    unit: 'ms',
    target: { of: 'ratio', at: 'most', value: 0.8 },
    measure: async (daemon, quick) => {
      const { stop } = await load({ ...pods(daemon), pods: quick ? 5 : 25, parallel: 1, ops: ['run', 'stop'] });
      return stop?.calls.p50 ?? Number.NaN;
    },
  },
  {
    name: 'StopPodSandbox p50, 32 at once',
    unit: 'ms',
    target: { of: 'ratio', at: 'most', value: 0.8 },
    measure: async (daemon, quick) => {
      const { stop } = await load({ ...pods(daemon), pods: quick ? 32 : 96, parallel: 32, ops: ['run', 'stop'] });
      return stop?.calls.p50 ?? Number.NaN;
    },
  },
  {
    name: 'ListPodSandbox p99 while 200 pods launch, 32 at once',
    unit: 'ms',
    once: true,
    target: { of: 'sluice', at: 'most', value: 25 },
    measure: async (daemon, quick) => {
      const { list } = await load({ ...pods(daemon), pods: quick ? 40 : 200, parallel: 32, ops: ['run', 'list'] });
      return list?.p99 ?? Number.NaN;
    },
  },
  {
    name: 'delay of main’s event loop p99 while 200 pods launch',
    unit: 'ms',
    once: true,
    only: 'sluice',
    target: { of: 'sluice', at: 'most', value: 20 },
    measure: (daemon, quick) =>
      loopDelayDuring(daemon, () => load({ ...pods(daemon), pods: quick ? 40 : 200, parallel: 32, ops: ['run'] })),
  },
  {
    name: 'daemon memory (PSS) with 100 pods',
    unit: 'MiB',
    once: true,
    target: { of: 'sluice', at: 'most', value: 200 },
    measure: async (daemon, quick) => {
      const { daemonPss } = await load({ ...pods(daemon), pods: quick ? 20 : 100, parallel: 16, ops: ['run'] });
      return (daemonPss ?? Number.NaN) / MIB;
    },
  },
  {
    name: 'machine CPU per launched pod, 8 at once',
    unit: 'ms',
    target: { of: 'ratio', at: 'most', value: 1 },
    measure: async (daemon, quick) => {
      const { run } = await load({ ...pods(daemon), pods: quick ? 16 : 64, parallel: 8, ops: ['run'] });
      return run?.machineCpuMs ?? Number.NaN;
    },
  },
  {
    name: 'CreateContainer + StartContainer p50, one at a time',
    unit: 'ms',
    target: { of: 'ratio', at: 'most', value: 0.8 },
    measure: async (daemon, quick) => {
      const pod = await launchPod(daemon, 'one');
      const names = Array.from({ length: quick ? 5 : 25 }, (_, i) => `c${i}`);
      return (await phase(names, 1, undefined, (name) => startContainer(daemon, pod, name, SLEEP))).calls.p50;
    },
  },
  {
    name: 'containers started per second, 16 at once in 8 pods',
    unit: '/s',
    target: { of: 'ratio', at: 'least', value: 1.2 },
    measure: async (daemon, quick) => {
      const all = await Promise.all(Array.from({ length: 8 }, (_, i) => launchPod(daemon, `p${i}`)));
      const names = Array.from({ length: quick ? 16 : 96 }, (_, i) => i);
      const started = await phase(names, 16, undefined, async (i) => {
        const pod = all[i % all.length];
        if (pod) await startContainer(daemon, pod, `c${i}`, SLEEP);
      });
      return started.podsPerSecond;
    },
  },
  {
    name: 'ExecSync of true p50',
    unit: 'ms',
    target: { of: 'ratio', at: 'most', value: 0.9 },
    measure: async (daemon, quick) => {
      const id = await startContainer(daemon, await launchPod(daemon, 'exec'), 'main', SLEEP);
      const calls = Array.from({ length: quick ? 10 : 50 }, (_, i) => i);
      const done = await phase(calls, 1, undefined, async () => {
        const { exitCode } = await daemon.cri.execSync({ containerId: id, cmd: ['true'], timeout: 30n });
        if (exitCode !== 0) throw new Error(`true ended with ${exitCode}`);
      });
      return done.calls.p50;
    },
  },
  {
    name: 'RunPodSandbox p50 beside a container that logs 100 MB/s',
    unit: 'ms',
    target: { of: 'ratio', at: 'most', value: 1 },
    measure: async (daemon, quick) => {
      const pod = await launchPod(daemon, 'writer', true);
      // 100 MB/s: a MiB of short lines each 10 ms, by a shell that sleeps in between.
      const script =
        'yes "a line of some hundred bytes, as programs print them when they have a lot to say about little" | head -c 1048576 > /tmp/m; while :; do cat /tmp/m; usleep 10000; done';
      await startContainer(daemon, pod, 'writer', ['sh', '-c', script], true);
      await sleep(500);
      const { run } = await load({ ...pods(daemon), pods: quick ? 5 : 20, parallel: 1, ops: ['run'] });
      return run?.calls.p50 ?? Number.NaN;
    },
  },
  {
    name: 'exec cat, 1 GiB through it and back',
    unit: 'MiB/s',
    target: { of: 'ratio', at: 'least', value: 0.8 },
    measure: async (daemon, quick) => {
      const id = await startContainer(daemon, await launchPod(daemon, 'stream'), 'main', SLEEP);
      return execThroughput(daemon, id, quick ? 64 : 1024);
    },
  },
  {
    name: 'port-forward, 1 GiB out of the pod',
    unit: 'MiB/s',
    target: { of: 'ratio', at: 'least', value: 0.8 },
    measure: async (daemon, quick) => {
      const pod = await launchPod(daemon, 'forward');
      await startContainer(daemon, pod, 'main', ZEROS);
      return forwardThroughput(daemon, pod, quick ? 64 : 1024);
    },
  },
  {
    name: 'delay of main’s event loop p99 while these two run',
    unit: 'ms',
    once: true,
    only: 'sluice',
    target: { of: 'sluice', at: 'most', value: 20 },
    measure: async (daemon, quick) => {
      const pod = await launchPod(daemon, 'streams');
      const cat = await startContainer(daemon, pod, 'cat', SLEEP);
      await startContainer(daemon, pod, 'zeros', ZEROS);
      const mib = quick ? 64 : 1024;
      return loopDelayDuring(daemon, async () => {
        await execThroughput(daemon, cat, mib);
        await forwardThroughput(daemon, pod, mib);
      });
    },
  },
];

const SLEEP = ['sleep', '3600'];
/** Zeros without end to whoever connects to port 7000. */
const ZEROS = ['sh', '-c', 'while :; do nc -l -p 7000 -e cat /dev/zero; done'];

async function launchPod(daemon: RigDaemon, name: string, logs = false): Promise<string> {
  const logDirectory = logs ? join(daemon.folder, 'logs', name) : '';
  const config = podConfig(`bench-${name}-${Date.now()}`, { cgroupParent: daemon.cgroupParent, logDirectory });
  return (await daemon.cri.runPodSandbox({ config }, { timeoutMs: 120_000 })).podSandboxId;
}

async function startContainer(
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
      sandboxConfig: podConfig(status?.metadata?.name ?? '', {
        cgroupParent: daemon.cgroupParent,
        logDirectory: logs ? join(daemon.folder, 'logs', name) : '',
      }),
    },
    { timeoutMs: 120_000 },
  );
  await daemon.cri.startContainer({ containerId }, { timeoutMs: 120_000 });
  return containerId;
}

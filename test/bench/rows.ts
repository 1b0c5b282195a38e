/**
 * What the comparison measures: each measurement gives one number or more of one daemon, on an empty node; each number
 * is a row, with what the configurations of Sluice must reach in it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RigDaemon } from '../rig/daemon.ts';
import { listTimes } from './list-times.ts';
import { favourClient, load, type Phase, phase } from './load.ts';
import { loopDelayDuring } from './loop-delay.ts';
import { launchPod, launchPodAndContainer, memoryOf, pods, SLEEP, startContainer } from './pods.ts';
import type { SluiceSide } from './sides.ts';
import { execThroughput, forwardThroughput, MIB } from './streams.ts';

/** `ratio`: of the medians, Sluice by containerd. `value`: of Sluice alone. */
export interface Target {
  of: 'ratio' | 'value';
  at: 'most' | 'least';
  limit: number;
}

export interface Row {
  name: string;
  unit: string;
  digits?: number;
  /** Only the configurations with a target are measured; `null` measures one without. */
  targets: Partial<Record<SluiceSide, Target | null>>;
}

export interface Measurement {
  rows: readonly Row[];
  /** In one round only, because it is long. */
  once?: boolean;
  /** Sluice alone: nothing in containerd is like it, or nothing is compared. */
  alone?: boolean;
  /** Needs the handler "crun". */
  crun?: boolean;
  /**
   * One number for each row. `quick` means a tenth of the work, for a look. A rejection with a gRPC code goes into the
   * table.
   */
  measure: (daemon: RigDaemon, quick: boolean) => Promise<readonly number[]>;
}

const ratio = (at: Target['at'], limit: number): Target => ({ of: 'ratio', at, limit });
const value = (at: Target['at'], limit: number): Target => ({ of: 'value', at, limit });

/** Milliseconds of the median call; throws where the phase was not run. */
const p50 = (done: Phase | undefined) => present(done).calls.p50;

function present<T>(done: T | undefined): T {
  if (done === undefined) throw new Error('the load has not run what is measured');
  return done;
}

export const MEASUREMENTS: readonly Measurement[] = [
  {
    rows: [
      {
        name: 'RunPodSandbox p50, one at a time',
        unit: 'ms',
        targets: { plugins: ratio('most', 0.5), pause: ratio('most', 0.35), pinned: ratio('most', 0.08) },
      },
      {
        name: 'StopPodSandbox p50, one at a time',
        unit: 'ms',
        targets: { plugins: ratio('most', 0.6), pause: ratio('most', 0.3), pinned: ratio('most', 0.08) },
      },
    ],
    measure: async (daemon, quick) => {
      const { run, stop } = await load({ ...pods(daemon), pods: quick ? 5 : 25, parallel: 1, ops: ['run', 'stop'] });
      return [p50(run), p50(stop)];
    },
  },
  {
    rows: [
      {
        name: 'pods launched per second, 32 at once',
        unit: '/s',
        targets: { plugins: ratio('least', 1.6), pause: ratio('least', 2.2), pinned: ratio('least', 8) },
      },
      {
        name: 'machine CPU per launched pod, 32 at once',
        unit: 'ms',
        targets: { plugins: null, pause: null, pinned: null },
      },
      {
        name: 'StopPodSandbox p50, 32 at once',
        unit: 'ms',
        targets: { plugins: ratio('most', 0.8), pause: ratio('most', 0.8), pinned: ratio('most', 0.8) },
      },
    ],
    measure: async (daemon, quick) => {
      const { run, stop } = await load({ ...pods(daemon), pods: quick ? 32 : 128, parallel: 32, ops: ['run', 'stop'] });
      return [present(run).podsPerSecond, present(run).machineCpuMs, p50(stop)];
    },
  },
  podAndContainer('runc', { each: 0.5, rate: 2.5 }),
  podAndContainer('crun', { each: 0.35, rate: 3.5 }),
  {
    rows: [
      {
        name: 'daemon memory (PSS) with 100 pods of one container',
        unit: 'MiB',
        targets: { shared: ratio('most', 1.2), pinned: null, pause: null },
      },
      {
        name: 'memory of all shims (PSS) with them',
        unit: 'MiB',
        targets: { shared: ratio('most', 0.25), pinned: null, pause: null },
      },
    ],
    once: true,
    measure: async (daemon, quick) => {
      const names = Array.from({ length: quick ? 20 : 100 }, (_, i) => `m${i}`);
      await phase(names, 16, undefined, (name) => launchPodAndContainer(daemon, name));
      // The garbage of the launches is not what the pods cost.
      await sleep(quick ? 1000 : 5000);
      const { daemon: own, shims } = memoryOf(daemon);
      return [own / MIB, shims / MIB];
    },
  },
  {
    rows: [
      {
        name: 'rate of the first 200 pods after the start, 32 at once, by the next 200',
        unit: '',
        digits: 2,
        targets: { pinned: value('least', 0.9) },
      },
      {
        name: 'ListPodSandbox p99 while the first 200 launch',
        unit: 'ms',
        targets: { pinned: value('most', 25) },
      },
      {
        name: 'ListPodSandbox p99 while the next 200 launch',
        unit: 'ms',
        targets: { pinned: value('most', 25) },
      },
    ],
    alone: true,
    measure: async (daemon, quick) => {
      await daemon.stop();
      await daemon.start();
      const burst = () =>
        load({ ...pods(daemon), pods: quick ? 40 : 200, parallel: 32, ops: ['run', 'list', 'stop', 'remove'] });
      const cold = await burst();
      const warm = await burst();
      return [
        present(cold.run).podsPerSecond / present(warm.run).podsPerSecond,
        present(cold.list).p99,
        present(warm.list).p99,
      ];
    },
  },
  {
    rows: [{ name: 'ExecSync of true p50', unit: 'ms', targets: { pinned: ratio('most', 0.85) } }],
    measure: async (daemon, quick) => {
      const id = await startContainer(daemon, await launchPod(daemon, 'exec'), 'main', SLEEP);
      const calls = Array.from({ length: quick ? 10 : 50 }, (_, i) => i);
      using _ahead = favourClient();
      const done = await phase(calls, 1, undefined, async () => {
        const { exitCode } = await daemon.cri.execSync({ containerId: id, cmd: ['true'], timeout: 30n });
        if (exitCode !== 0) throw new Error(`true ended with ${exitCode}`);
      });
      return [p50(done)];
    },
  },
  {
    rows: [
      { name: 'ListPodSandbox of 500 pods p50', unit: 'ms', digits: 2, targets: { pinned: null } },
      { name: 'ListPodSandbox of 500 pods p99', unit: 'ms', digits: 2, targets: { pinned: value('most', 10) } },
    ],
    once: true,
    measure: async (daemon, quick) => {
      await load({ ...pods(daemon), pods: quick ? 50 : 500, parallel: 32, ops: ['run'] });
      // The kernel's work that the launches left behind is not what a list costs.
      await sleep(quick ? 500 : 2000);
      const { p50: half, p99 } = await listTimes(daemon.socket, quick ? 50 : 300);
      return [half, p99];
    },
  },
  {
    rows: [
      {
        name: 'delay of main’s event loop p99 while 200 pods launch',
        unit: 'ms',
        targets: { pinned: value('most', 20) },
      },
    ],
    once: true,
    alone: true,
    measure: async (daemon, quick) => [
      await loopDelayDuring(daemon, () =>
        load({ ...pods(daemon), pods: quick ? 40 : 200, parallel: 32, ops: ['run'] }),
      ),
    ],
  },
  {
    rows: [
      {
        name: 'CreateContainer + StartContainer p50, one at a time',
        unit: 'ms',
        targets: { pinned: ratio('most', 0.8) },
      },
    ],
    measure: async (daemon, quick) => {
      const pod = await launchPod(daemon, 'one');
      const names = Array.from({ length: quick ? 5 : 25 }, (_, i) => `c${i}`);
      using _ahead = favourClient();
      return [p50(await phase(names, 1, undefined, (name) => startContainer(daemon, pod, name, SLEEP)))];
    },
  },
  {
    rows: [
      {
        name: 'containers started per second, 16 at once in 8 pods',
        unit: '/s',
        targets: { pinned: ratio('least', 1.2) },
      },
    ],
    measure: async (daemon, quick) => {
      const all = await Promise.all(Array.from({ length: 8 }, (_, i) => launchPod(daemon, `p${i}`)));
      const names = Array.from({ length: quick ? 16 : 96 }, (_, i) => i);
      using _ahead = favourClient();
      const started = await phase(names, 16, undefined, async (i) => {
        const pod = all[i % all.length];
        if (pod) await startContainer(daemon, pod, `c${i}`, SLEEP);
      });
      return [started.podsPerSecond];
    },
  },
  {
    rows: [
      {
        name: 'RunPodSandbox p50 beside a container that logs 100 MB/s',
        unit: 'ms',
        targets: { pinned: ratio('most', 1) },
      },
    ],
    measure: async (daemon, quick) => {
      const pod = await launchPod(daemon, 'writer', true);
      // 100 MB/s: a MiB of short lines each 10 ms, by a shell that sleeps in between.
      const script =
        'yes "a line of some hundred bytes, as programs print them when they have a lot to say about little" | head -c 1048576 > /tmp/m; while :; do cat /tmp/m; usleep 10000; done';
      await startContainer(daemon, pod, 'writer', ['sh', '-c', script], true);
      await sleep(500);
      const { run } = await load({ ...pods(daemon), pods: quick ? 5 : 20, parallel: 1, ops: ['run'] });
      return [p50(run)];
    },
  },
  {
    rows: [{ name: 'exec cat, 1 GiB through it and back', unit: 'MiB/s', targets: { pinned: ratio('least', 0.8) } }],
    measure: async (daemon, quick) => {
      const id = await startContainer(daemon, await launchPod(daemon, 'stream'), 'main', SLEEP);
      return [await execThroughput(daemon, id, quick ? 64 : 1024)];
    },
  },
  {
    rows: [{ name: 'port-forward, 1 GiB out of the pod', unit: 'MiB/s', targets: { pinned: ratio('least', 0.8) } }],
    measure: async (daemon, quick) => {
      const pod = await launchPod(daemon, 'forward');
      await startContainer(daemon, pod, 'main', ZEROS);
      return [await forwardThroughput(daemon, pod, quick ? 64 : 1024)];
    },
  },
  {
    rows: [
      {
        name: 'delay of main’s event loop p99 while these two run',
        unit: 'ms',
        targets: { pinned: value('most', 20) },
      },
    ],
    once: true,
    alone: true,
    measure: async (daemon, quick) => {
      const pod = await launchPod(daemon, 'streams');
      const cat = await startContainer(daemon, pod, 'cat', SLEEP);
      await startContainer(daemon, pod, 'zeros', ZEROS);
      const mib = quick ? 64 : 1024;
      const delay = await loopDelayDuring(daemon, async () => {
        await execThroughput(daemon, cat, mib);
        await forwardThroughput(daemon, pod, mib);
      });
      return [delay];
    },
  },
];

function podAndContainer(handler: string, wanted: { each: number; rate: number }): Measurement {
  return {
    rows: [
      {
        name: `a pod and its running container with ${handler} p50, one at a time`,
        unit: 'ms',
        targets: { pinned: ratio('most', wanted.each), shared: null, pause: null },
      },
      {
        name: `pods with a running container per second, 16 at once, with ${handler}`,
        unit: '/s',
        targets: { pinned: ratio('least', wanted.rate), shared: null, pause: null },
      },
    ],
    crun: handler === 'crun',
    measure: async (daemon, quick) => {
      const names = (prefix: string, count: number) => Array.from({ length: count }, (_, i) => `${prefix}${i}`);
      const launch = (name: string) => launchPodAndContainer(daemon, name, handler);
      using _ahead = favourClient();
      const each = await phase(names('one', quick ? 5 : 25), 1, undefined, launch);
      const many = await phase(names('many', quick ? 16 : 64), 16, undefined, launch);
      return [p50(each), many.podsPerSecond];
    },
  };
}

/** Zeros without end to whoever connects to port 7000. */
const ZEROS = ['sh', '-c', 'while :; do nc -l -p 7000 -e cat /dev/zero; done'];

/**
 * A node that fills up: pinned pods of one container each, a hundred at a time, until there are many.
 *
 *   npm run bench:density [-- --pods 500] [--parallel 16] [--containerd 2.4.2|none] [--beside 300] [--runtime PATH|NAME] [--shared]
 *     [--no-link-local] [--sources] [--svg FILE] [--json FILE]
 *
 * After each hundred: pods per second, CPU per pod of the machine, the daemon and the shims, memory, p99 of List and
 * Status, mounts. A straight line through all hundreds but the last is checked against the last one, and the line
 * through all says what 1000 and 2500 pods would take. containerd is filled with `--beside` pods in the same run (0:
 * with none): how it slows down on this machine stands beside it. `--no-link-local`: Sluice's pods have no IPv6
 * addresses of their own (`ipv6LinkLocal` in the CNI configuration, which containerd's plugins do not know). Ends with
 * status 1 when a target is missed.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { containerdPrograms } from '../rig/build.ts';
import { COLOURS, drawChart, type Panel, round } from '../rig/chart.ts';
import { removePods } from '../rig/cri.ts';
import type { RigDaemon } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { mountsBelow } from '../rig/leftovers.ts';
import { privateFolder, program } from '../rig/paths.ts';
import { listTimes } from './list-times.ts';
import { callTimes, favourClient, phase } from './load.ts';
import { machine, otherWork, versionOf } from './machine.ts';
import { fit } from './model.ts';
import { cpuOf, launchPodAndContainer, memoryOf, warmUp } from './pods.ts';
import { releaseFor, SOURCES } from './release.ts';
import { type Common, startSide } from './sides.ts';
import { MIB } from './streams.ts';

const { values: options } = parseArgs({
  options: {
    pods: { type: 'string', default: '500' },
    parallel: { type: 'string', default: '16' },
    containerd: { type: 'string', default: '2.4.2' },
    beside: { type: 'string', default: '300' },
    runtime: { type: 'string', default: 'runc' },
    shared: { type: 'boolean', default: false },
    'no-link-local': { type: 'boolean', default: false },
    sources: SOURCES,
    svg: { type: 'string' },
    json: { type: 'string' },
  },
});
const STEP = 100;
const CALLS = 200;
const FORECASTS = [1000, 2500];

/** What is measured when this many pods run. */
interface Sample {
  pods: number;
  podsPerSecond: number;
  /** Of the whole machine, other work included. */
  cpuMsPerPod: number;
  /** Of the daemon, and of the shims with the runcs that they have started: other work is in neither. */
  daemonMsPerPod: number;
  shimMsPerPod: number;
  listP99: number;
  statusP99: number;
  daemonMib: number;
  shimsMib: number;
  mountsPerPod: number;
}

async function fill(daemon: RigDaemon, pods: number, parallel: number): Promise<Sample[]> {
  const samples: Sample[] = [];
  const mountsBefore = mountsBelow(daemon.folder).length;
  for (let have = 0; have < pods; have += STEP) {
    const names = Array.from({ length: STEP }, (_, i) => `d${have + i}`);
    const before = cpuOf(daemon);
    const launched = await (async () => {
      using _ahead = favourClient();
      return phase(names, parallel, undefined, (name) => launchPodAndContainer(daemon, name));
    })();
    const after = cpuOf(daemon);
    const perPod = (seconds: number) => (seconds * 1000) / STEP;
    // The garbage of the launches is not what the pods cost.
    await sleep(2000);
    const count = have + STEP;
    const ids = (await daemon.cri.listPodSandbox()).items.map(({ id }) => id);
    const list = await listTimes(daemon.socket, CALLS);
    const status = await callTimes(CALLS, (at) =>
      daemon.cri.podSandboxStatus({ podSandboxId: ids[(at * 7) % ids.length] ?? '' }),
    );
    const memory = memoryOf(daemon);
    samples.push({
      pods: count,
      podsPerSecond: launched.podsPerSecond,
      cpuMsPerPod: launched.machineCpuMs,
      daemonMsPerPod: perPod(after.daemon - before.daemon),
      shimMsPerPod: perPod(after.shims - before.shims),
      listP99: list.p99,
      statusP99: status.p99,
      daemonMib: memory.daemon / MIB,
      shimsMib: memory.shims / MIB,
      mountsPerPod: (mountsBelow(daemon.folder).length - mountsBefore) / count,
    });
    process.stderr.write('.');
  }
  process.stderr.write('\n');
  return samples;
}

/** Mounts that containerd makes for one such pod, and its way to `pods` of them. */
async function ofContainerd(common: Common, pods: number): Promise<{ mounts: number; samples: Sample[] }> {
  const few = 10;
  await using daemon = await startSide('containerd', 1, common);
  await warmUp(daemon, []);
  await removePods(daemon.cri);
  const before = mountsBelow(daemon.folder).length;
  for (let i = 0; i < few; i++) await launchPodAndContainer(daemon, `m${i}`);
  const mounts = (mountsBelow(daemon.folder).length - before) / few;
  await removePods(daemon.cri);
  const samples = await fill(daemon, pods, Number(options.parallel));
  await removePods(daemon.cri, undefined, 16);
  return { mounts, samples };
}

const COLUMNS: { name: string; unit: string; of: (sample: Sample) => number; modelled: boolean }[] = [
  { name: 'pods per second', unit: '/s', of: (sample) => sample.podsPerSecond, modelled: false },
  { name: 'CPU per pod', unit: 'ms', of: (sample) => sample.cpuMsPerPod, modelled: true },
  { name: 'daemon', unit: 'ms', of: (sample) => sample.daemonMsPerPod, modelled: true },
  { name: 'shim, runc', unit: 'ms', of: (sample) => sample.shimMsPerPod, modelled: true },
  { name: 'List p99', unit: 'ms', of: (sample) => sample.listP99, modelled: true },
  { name: 'Status p99', unit: 'ms', of: (sample) => sample.statusP99, modelled: true },
  { name: 'daemon PSS', unit: 'MiB', of: (sample) => sample.daemonMib, modelled: true },
  { name: 'shims PSS', unit: 'MiB', of: (sample) => sample.shimsMib, modelled: true },
  { name: 'mounts per pod', unit: '', of: (sample) => sample.mountsPerPod, modelled: false },
];

function table(samples: readonly Sample[]): string {
  const row = (cells: string[]) => cells.map((cell, i) => (i === 0 ? cell.padEnd(8) : cell.padStart(16))).join('');
  return [
    row(['pods', ...COLUMNS.map(({ name, unit }) => (unit ? `${name}, ${unit}` : name))]),
    ...samples.map((sample) => row([`${sample.pods}`, ...COLUMNS.map(({ of }) => of(sample).toFixed(2))])),
  ].join('\n');
}

/** The line through all points but the last, checked against the last; the line through all, carried on. */
function forecast(samples: readonly Sample[]): string[] {
  const last = samples.at(-1);
  if (!last || samples.length < 3) return ['too few hundreds for a model'];
  return COLUMNS.filter(({ modelled }) => modelled).map(({ name, unit, of }) => {
    const points = samples.map((sample) => ({ pods: sample.pods, value: of(sample) }));
    const checked = fit(points.slice(0, -1)).at(last.pods);
    const all = fit(points);
    const ahead = FORECASTS.map((pods) => `${pods} pods: ${all.at(pods).toFixed(1)} ${unit}`);
    const line = `${all.base.toFixed(2)} + ${all.perPod.toFixed(4)} per pod`;
    const check = `at ${last.pods} foreseen ${checked.toFixed(2)}, measured ${of(last).toFixed(2)}`;
    return `${name.padEnd(12)} ${line}; ${check}; ${ahead.join(', ')}`;
  });
}

/** How both slow down over as many pods. */
function slowing(ours: readonly Sample[], theirs: readonly Sample[]): string[] {
  const count = Math.min(ours.length, theirs.length);
  const of = (samples: readonly Sample[], value: (sample: Sample) => number) => {
    const [first, last] = [samples[0], samples[count - 1]];
    return first && last ? value(last) / value(first) : Number.NaN;
  };
  return [
    { name: 'pods per second', value: (sample: Sample) => sample.podsPerSecond },
    { name: 'CPU of shim and runc per pod', value: (sample: Sample) => sample.shimMsPerPod },
    { name: 'CPU of the daemon per pod', value: (sample: Sample) => sample.daemonMsPerPod },
  ].map(
    ({ name, value }) =>
      `hundred ${count} by the first, ${name}: Sluice ${of(ours, value).toFixed(2)}, containerd ${of(theirs, value).toFixed(2)}`,
  );
}

const DRAWN = COLUMNS.filter(({ name }) => !['daemon', 'shim, runc', 'mounts per pod'].includes(name));

function picture(samples: readonly Sample[]): string {
  const ticks = [0, ...samples.map(({ pods }) => pods)].map((x) => ({ x, label: `${x}` }));
  const panels = DRAWN.map(({ name, unit, of }, at): Panel => {
    const last = samples.at(-1);
    return {
      name: `${name}, ${unit}`,
      note: last ? `${round(of(last))} ${unit} at ${last.pods}` : '',
      ticks,
      lines: [
        {
          colour: COLOURS[at % COLOURS.length] ?? COLOURS[0],
          points: samples.map((sample) => ({ x: sample.pods, y: of(sample) })),
          dots: true,
        },
      ],
    };
  });
  return drawChart(
    `${samples.at(-1)?.pods ?? 0} pinned pods of one container each, ${options.shared ? '16 of them per shim' : 'a shim each'}, a hundred at a time`,
    panels,
  );
}

async function main(): Promise<number> {
  if (process.getuid?.() !== 0) throw new Error('needs root: it starts daemons');
  const [pods, parallel, beside] = [options.pods, options.parallel, options.beside].map(Number) as [
    number,
    number,
    number,
  ];
  if (!Number.isInteger(beside / STEP)) throw new Error(`--beside wants a multiple of ${STEP}`);
  if (!Number.isInteger(pods / STEP) || pods < STEP || pods > 1000) {
    throw new Error(`--pods wants a multiple of ${STEP}, 1000 at most: a bridge has 1024 ports`);
  }
  const { containerd, shim } = await containerdPrograms(options.containerd);
  if (!shim) throw new Error('there is neither Go to build the shim with nor one in PATH');
  const runc = program(options.runtime);
  console.log(`${machine()}\nruntime: ${await versionOf(runc)}\nother work before: ${await otherWork()}`);
  const folder = privateFolder('sluice-bench');
  const registry = await imageRegistry(folder);
  try {
    const release = await releaseFor(folder, options);
    const sandboxImage = 'registry.k8s.io/pause:3.10';
    const linkLocal = !options['no-link-local'];
    const common: Common = { registry, shim, runc, containerd, sandboxImage, release, linkLocal };
    const theirs = containerd ? await ofContainerd(common, beside) : undefined;
    await using daemon = await startSide(options.shared ? 'shared' : 'pinned', 0, common);
    await warmUp(daemon, []);
    await removePods(daemon.cri);
    const samples = await fill(daemon, pods, parallel);
    const [first, last] = [samples[0], samples.at(-1)];
    if (!first || !last) throw new Error('nothing was measured');
    const began = performance.now();
    await removePods(daemon.cri, undefined, 16);
    const seconds = (performance.now() - began) / 1000;
    await daemon.assertNothingLeft(20_000);
    const targets = [
      {
        name: 'rate of the last hundred by the first',
        value: last.podsPerSecond / first.podsPerSecond,
        at: 'least',
        limit: 0.8,
      },
      { name: 'List p99, ms', value: last.listP99, at: 'most', limit: 10 },
      { name: 'Status p99, ms', value: last.statusP99, at: 'most', limit: 10 },
      { name: 'daemon PSS, MiB', value: last.daemonMib, at: 'most', limit: 200 },
      ...(theirs === undefined
        ? []
        : [
            {
              name: 'mounts per pod, containerd’s as the limit',
              value: last.mountsPerPod,
              at: 'most',
              limit: theirs.mounts,
            },
          ]),
    ].map((target) => ({
      ...target,
      met: target.at === 'most' ? target.value <= target.limit : target.value >= target.limit,
    }));
    const words = targets.map(
      ({ name, value, at, limit, met }) =>
        `${name.padEnd(44)}${value.toFixed(2).padStart(9)}  ${at === 'most' ? '≤' : '≥'} ${limit}  ${met ? 'met' : 'MISSED'}`,
    );
    const model = forecast(samples);
    console.log([`other work after: ${await otherWork()}`, table(samples), ...words, ...model].join('\n'));
    if (theirs && theirs.samples.length > 0)
      console.log([`containerd`, table(theirs.samples), ...slowing(samples, theirs.samples)].join('\n'));
    console.log(`removed in ${seconds.toFixed(1)} s: ${(pods / seconds).toFixed(1)} pods/s`);
    if (options.svg) writeFileSync(options.svg, picture(samples));
    if (options.json) {
      const all = { samples, containerd: theirs?.samples, targets, model };
      writeFileSync(options.json, `${JSON.stringify(all, undefined, 2)}\n`);
    }
    return targets.every(({ met }) => met) ? 0 : 1;
  } finally {
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

process.exitCode = await main();

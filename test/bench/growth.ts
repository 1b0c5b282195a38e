/**
 * How the cost of a launch grows with the launches at once, and with the threads that make networks: pinned pods
 * without containers.
 *
 *   npm run bench:growth [-- --pods 200] [--rounds 3] [--parallel 1,2,4,8,16,32,64] [--threads 1,2,4] [--svg FILE] [--json FILE]
 *
 * One daemon for each number of threads (net-threads.ts), all at once, in turns. Medians over the rounds.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { builtOrSystem } from '../rig/build.ts';
import { COLOURS, drawChart, type Panel, round } from '../rig/chart.ts';
import { removePods } from '../rig/cri.ts';
import type { RigDaemon, SluiceDaemon } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { privateFolder, program } from '../rig/paths.ts';
import { load } from './load.ts';
import { machine, otherWork } from './machine.ts';
import { pods, warmUp } from './pods.ts';
import { startSide } from './sides.ts';
import { median } from './statistics.ts';

const { values: options } = parseArgs({
  options: {
    pods: { type: 'string', default: '200' },
    rounds: { type: 'string', default: '3' },
    parallel: { type: 'string', default: '1,2,4,8,16,32,64' },
    threads: { type: 'string', default: '1,2,4' },
    svg: { type: 'string' },
    json: { type: 'string' },
  },
});

interface Cell {
  threads: number;
  parallel: number;
  podsPerSecond: number[];
  /** Of the whole machine but the client. */
  cpuMs: number[];
  /** Of the daemon. */
  daemonCpuMs: number[];
}

function numbers(text: string, what: string): number[] {
  return text.split(',').map((word) => {
    const value = Number(word);
    if (!Number.isInteger(value) || value < 1) throw new Error(`--${what} wants whole numbers, not ${word}`);
    return value;
  });
}

/** Ends the run when net-threads.ts has changed nothing. */
async function assertThreads(daemon: RigDaemon, threads: number): Promise<void> {
  const text = await (daemon as SluiceDaemon).scrape();
  const seen = /^sluice_pool_threads\{pool="net"\} (\d+)$/m.exec(text)?.[1];
  if (Number(seen) !== threads) throw new Error(`the net pool has ${seen} threads, not ${threads}`);
}

function panel(name: string, unit: string, cells: readonly Cell[], of: (cell: Cell) => readonly number[]): Panel {
  const threads = [...new Set(cells.map((cell) => cell.threads))];
  const ticks = [...new Set(cells.map(({ parallel }) => parallel))].map((x) => ({ x, label: `${x}` }));
  const best = Math.max(...cells.map((cell) => median(of(cell))));
  return {
    name,
    note: `highest: ${round(best)} ${unit}`,
    ticks,
    logarithmic: true,
    lines: threads.map((count, at) => ({
      label: count === 1 ? '1 net thread' : `${count} net threads`,
      colour: COLOURS[at % COLOURS.length] ?? COLOURS[0],
      points: cells.filter((cell) => cell.threads === count).map((cell) => ({ x: cell.parallel, y: median(of(cell)) })),
      dots: true,
    })),
  };
}

async function main(): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error('needs root: it starts daemons');
  const [count = 200] = numbers(options.pods, 'pods');
  const [rounds = 3] = numbers(options.rounds, 'rounds');
  const parallel = numbers(options.parallel, 'parallel');
  const threads = numbers(options.threads, 'threads');
  const shim = await builtOrSystem('containerd-shim-runc-v2');
  if (!shim) throw new Error('there is neither Go to build the shim with nor one in PATH');
  console.log(`${machine()}\nother work before: ${await otherWork()}`);
  const folder = privateFolder('sluice-bench');
  const registry = await imageRegistry(folder);
  const daemons: RigDaemon[] = [];
  try {
    for (const [index, number] of threads.entries()) {
      const env = {
        NODE_OPTIONS: `--import=${import.meta.resolve('./net-threads.ts')}`,
        SLUICE_BENCH_NET_THREADS: `${number}`,
      };
      const sandboxImage = 'registry.k8s.io/pause:3.10';
      const daemon = await startSide('pinned', index, { registry, shim, runc: program('runc'), sandboxImage, env });
      daemons.push(daemon);
      await warmUp(daemon, []);
      await removePods(daemon.cri);
      await assertThreads(daemon, number);
    }
    const cells = threads.flatMap((number) =>
      parallel.map((p): Cell => ({ threads: number, parallel: p, podsPerSecond: [], cpuMs: [], daemonCpuMs: [] })),
    );
    for (let turn = 0; turn < rounds; turn++) {
      for (const cell of cells) {
        const daemon = daemons[threads.indexOf(cell.threads)];
        if (!daemon) continue;
        const { run } = await load({ ...pods(daemon), pods: count, parallel: cell.parallel, ops: ['run'] });
        await removePods(daemon.cri, undefined, 16);
        if (!run) continue;
        cell.podsPerSecond.push(run.podsPerSecond);
        cell.cpuMs.push(run.machineCpuMs);
        cell.daemonCpuMs.push(run.daemonCpuMs ?? Number.NaN);
        process.stderr.write('.');
      }
    }
    process.stderr.write('\n');
    console.log(`other work after: ${await otherWork()}`);
    console.log('net threads  at once   pods/s   CPU ms/pod   daemon CPU ms/pod');
    for (const cell of cells) {
      const [rate, cpu, own] = [cell.podsPerSecond, cell.cpuMs, cell.daemonCpuMs].map((all) => median(all).toFixed(1));
      console.log(
        `${`${cell.threads}`.padStart(11)}${`${cell.parallel}`.padStart(9)}${rate?.padStart(9)}${cpu?.padStart(13)}${own?.padStart(20)}`,
      );
    }
    if (options.svg) {
      const title = `Pinned pods without containers, ${count} at each point: launches at once, from 1 to ${Math.max(...parallel)}`;
      const panels = [
        panel('pods per second', '/s', cells, (cell) => cell.podsPerSecond),
        panel('CPU of the machine per pod, ms', 'ms', cells, (cell) => cell.cpuMs),
      ];
      writeFileSync(options.svg, drawChart(title, panels));
    }
    if (options.json) writeFileSync(options.json, `${JSON.stringify(cells, undefined, 2)}\n`);
    for (const daemon of daemons) await daemon.assertNothingLeft();
  } finally {
    for (const daemon of daemons) await daemon[Symbol.asyncDispose]();
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

await main();

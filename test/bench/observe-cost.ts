/**
 * What observing (metrics, records for `sluice trace`, log lines; tracing off) adds to a launch: two Sluices, one as it
 * is and one in which observing does nothing (observe-off.ts), launch pods in turns A B B A.
 *
 *   npm run bench:observe [-- --rounds N] [--pods N] [--parallel N] [--runtime PATH|NAME] [--json FILE]
 *
 * Prints the CPU per launch of both, and the difference in per cent of what a launch costs the machine, with an
 * interval. Observing happens in the daemon's own process alone, so the first row, without the noise of plugins, shims
 * and runc, is the one that decides. Ends with status 1 unless the whole interval is below the target; fewer than 6
 * rounds give no interval that could say so.
 */
import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { builtOrSystem } from '../rig/build.ts';
import { removePods } from '../rig/cri.ts';
import { type SluiceDaemon, startSluice } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { privateFolder, program } from '../rig/paths.ts';
import { cpuSeconds } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';
import { load } from './load.ts';
import { versionOf } from './machine.ts';
import { warmUp } from './pods.ts';
import { median, medianInterval } from './statistics.ts';

/** Per cent of the machine's CPU per launch. */
const TARGET = 2;
/**
 * Two daemons that run the same code differ a little for as long as they live (code compiled, heap): so new ones after
 * these rounds.
 */
const ROUNDS_OF_A_PAIR = 4;
/** Log lines are written up to 250 ms late; and what a removal leaves to do shall not be told as the next launch's. */
const SETTLE_MS = 500;

const SIDES = ['on', 'off'] as const;
type Side = (typeof SIDES)[number];

/** CPU milliseconds per launch. */
interface Cost {
  /** The daemon's process, its children left out. */
  daemon: number;
  /** Everything but the client and the daemon whose turn it is not. */
  machine: number;
}

type Round = Record<Side, Cost>;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '12' },
    pods: { type: 'string', default: '48' },
    parallel: { type: 'string', default: '8' },
    runtime: { type: 'string', default: 'runc' },
    json: { type: 'string' },
  },
});

function count(name: 'rounds' | 'pods' | 'parallel'): number {
  const value = Number(options[name]);
  if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} wants a number of 1 or more`);
  return value;
}

const own = (daemon: SluiceDaemon) => cpuSeconds(daemon.pid(), { children: false });

/** One side's turn, on an empty node. */
async function launch(daemon: SluiceDaemon, other: SluiceDaemon): Promise<Cost> {
  const pods = count('pods');
  const before = { daemon: own(daemon), other: own(other) };
  const { run: launched } = await load({
    cri: daemon.cri,
    cgroupParent: daemon.cgroupParent,
    pods,
    parallel: count('parallel'),
    ops: ['run'],
  });
  const otherMs = ((own(other) - before.other) * 1000) / pods;
  await sleep(SETTLE_MS);
  const daemonMs = ((own(daemon) - before.daemon) * 1000) / pods;
  await removePods(daemon.cri);
  await sleep(SETTLE_MS);
  process.stderr.write('.');
  return { daemon: daemonMs, machine: (launched?.machineCpuMs ?? Number.NaN) - otherMs };
}

/** The stages that a daemon says it has seen. */
async function stagesSeen(daemon: SluiceDaemon): Promise<number> {
  const counts = (await daemon.scrape()).matchAll(/^sluice_stage_duration_seconds_count\{.*\} (\d+)$/gm);
  return [...counts].reduce((sum, [, value]) => sum + Number(value), 0);
}

/** Both daemons, new, for some rounds. `pair` says which one is started first and has which network. */
async function measurePair(pair: number, rounds: number, config: object, registry: Registry): Promise<Round[]> {
  const start = (side: Side) =>
    startSluice({
      registry,
      index: side === 'on' ? pair % 2 : (pair + 1) % 2,
      stateInMemory: true,
      config: { ...config },
      env: side === 'off' ? { NODE_OPTIONS: `--import=${import.meta.resolve('./observe-off.ts')}` } : {},
    });
  const [first, second] = pair % 2 === 0 ? SIDES : SIDES.toReversed();
  await using one = await start(first as Side);
  await using two = await start(second as Side);
  const daemons = first === 'on' ? { on: one, off: two } : { on: two, off: one };
  const turn = (side: Side) => launch(daemons[side], daemons[side === 'on' ? 'off' : 'on']);

  for (const side of SIDES) {
    await warmUp(daemons[side], ['runc']);
    await turn(side);
  }
  const done: Round[] = [];
  for (let round = 0; round < rounds; round++) {
    const costs: Partial<Round> = {};
    for (const side of (pair + round) % 2 === 0 ? SIDES : SIDES.toReversed()) costs[side] = await turn(side);
    done.push(costs as Round);
  }
  const launches = (rounds + 1) * count('pods');
  assert.equal(await stagesSeen(daemons.off), 0, 'the daemon without observing has observed');
  assert.ok((await stagesSeen(daemons.on)) > launches, 'the daemon that observes has seen too little');
  for (const side of SIDES) await daemons[side].assertNothingLeft();
  return done;
}

interface Result {
  on: number;
  off: number;
  /** Of the rounds' differences: median, and an interval that holds the true one at this level. */
  added: { median: number; low: number; high: number; level: number };
}

function compare(rounds: readonly Round[], of: keyof Cost): Result {
  const differences = rounds.map(({ on, off }) => on[of] - off[of]);
  return {
    on: median(rounds.map(({ on }) => on[of])),
    off: median(rounds.map(({ off }) => off[of])),
    added: { median: median(differences), ...medianInterval(differences) },
  };
}

/** The table, and whether the target is met: undefined when the interval does not say. */
function report(rounds: readonly Round[]): { text: string; met: boolean | undefined } {
  const results = { 'the daemon itself': compare(rounds, 'daemon'), 'the machine': compare(rounds, 'machine') };
  const launchMs = results['the machine'].off;
  const signed = (value: number, digits: number) => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(digits)}`;
  const row = (cells: string[]) => cells.map((cell, i) => (i === 0 ? cell.padEnd(18) : cell.padStart(12))).join('');
  const lines = [row(['CPU per launch', 'observing', 'without', 'added', 'of a launch', 'from', 'to'])];
  for (const [name, { on, off, added }] of Object.entries(results)) {
    const share = (ms: number) => `${signed((ms / launchMs) * 100, 2)} %`;
    lines.push(
      row([
        name,
        `${on.toFixed(2)} ms`,
        `${off.toFixed(2)} ms`,
        `${signed(added.median, 2)} ms`,
        share(added.median),
        share(added.low),
        share(added.high),
      ]),
    );
  }
  const { low, high, level } = results['the daemon itself'].added;
  const limit = (TARGET / 100) * launchMs;
  const met = level < 0.95 ? undefined : high < limit ? true : low >= limit ? false : undefined;
  const verdict = met === undefined ? 'LOST IN NOISE (more rounds, or a quieter machine)' : met ? 'met' : 'MISSED';
  lines.push(
    `from, to: ${(level * 100).toFixed(1)} % interval of the median of ${rounds.length} differences`,
    `target: the daemon's own adds < ${TARGET} % of a launch: ${verdict}`,
  );
  return { text: lines.join('\n'), met };
}

async function main(): Promise<number> {
  if (process.getuid?.() !== 0) throw new Error('needs root: it starts two daemons');
  const total = count('rounds');
  const shim = await builtOrSystem('containerd-shim-runc-v2');
  if (!shim) throw new Error('there is neither Go to build the shim with nor one in PATH');
  const binary = program(options.runtime);
  console.log(`shim: ${shim}\nruntime: ${await versionOf(binary)}`);
  console.log(`${total} rounds of ${count('pods')} pods, ${count('parallel')} at once`);
  const config = {
    default_runtime: 'runc',
    runtimes: { runc: { binary, shim } },
    images: { sandbox_image: 'registry.k8s.io/pause:3.10' },
    log: { level: 'info' },
  };
  const folder = privateFolder('sluice-bench');
  const registry = await imageRegistry(folder);
  const rounds: Round[] = [];
  try {
    for (let pair = 0; rounds.length < total; pair++) {
      const some = Math.min(ROUNDS_OF_A_PAIR, total - rounds.length);
      rounds.push(...(await measurePair(pair, some, config, registry)));
    }
  } finally {
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
  }
  process.stderr.write('\n');
  const { text, met } = report(rounds);
  console.log(text);
  if (options.json) writeFileSync(options.json, `${JSON.stringify(rounds, undefined, 2)}\n`);
  return met ? 0 : 1;
}

process.exitCode = await main();

/**
 * Sluice beside containerd, like for like: one shim, one runc, the same CNI plugins and settings, the same images, in turns A B A B.
 *
 *   npm run bench [-- --rounds N] [--rows REGEX] [--quick] [--runtime PATH|NAME] [--only sluice|containerd]
 *     [--json FILE]
 *
 * For each row the median over the rounds of both, and their ratio beside the target. containerd is 2.3.4 built from Go modules, or
 * Debian's where Go is absent. Ends with status 1 when a target is missed; rows whose calls a daemon lacks say so and count as open.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { builtOrSystem } from '../rig/build.ts';
import { startContainerd } from '../rig/containerd.ts';
import { removePods } from '../rig/cri.ts';
import { type RigDaemon, startSluice } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { findProgram, privateFolder, program } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { ROWS, type Row, warmUp } from './rows.ts';
import { median } from './statistics.ts';

const UNIMPLEMENTED = 12;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    rows: { type: 'string', default: '.' },
    quick: { type: 'boolean', default: false },
    runtime: { type: 'string', default: 'runc' },
    only: { type: 'string' },
    json: { type: 'string' },
  },
});

interface Measured {
  /** One value for each round. */
  values: number[];
  /** Why there are none. */
  problem?: string;
}

type Pair = { sluice: Measured; containerd: Measured };

async function measure(daemons: RigDaemon[], rows: readonly Row[], rounds: number): Promise<Map<Row, Pair>> {
  const results = new Map<Row, Pair>();
  for (const row of rows) {
    const pair: Pair = { sluice: { values: [] }, containerd: { values: [] } };
    results.set(row, pair);
    const times = row.once ? 1 : rounds;
    for (let round = 0; round < times; round++) {
      for (const daemon of daemons) {
        const measured = pair[daemon.kind];
        if (measured.problem || (row.only && row.only !== daemon.kind)) continue;
        try {
          measured.values.push(await row.measure(daemon, options.quick));
          process.stderr.write('.');
        } catch (error) {
          const lacks = (error as { code?: unknown }).code === UNIMPLEMENTED;
          const words = error instanceof Error ? error.message : String(error);
          measured.problem = lacks ? 'UNIMPLEMENTED' : words.split('\n', 1)[0]?.slice(0, 200);
          process.stderr.write('x');
        } finally {
          await clear(daemon);
        }
      }
    }
  }
  process.stderr.write('\n');
  return results;
}

/** Every row finds an empty node. */
async function clear(daemon: RigDaemon): Promise<void> {
  await removePods(daemon.cri);
}

function table(results: Map<Row, Pair>): { text: string; missed: number } {
  let missed = 0;
  const lines: string[] = [];
  const add = (cells: string[]) =>
    lines.push(cells.map((cell, i) => (i === 0 ? cell.padEnd(56) : cell.padStart(i === 5 ? 9 : 13))).join(' '));
  add(['row', 'Sluice', 'containerd', 'ratio', 'target', '']);
  for (const [row, { sluice, containerd }] of results) {
    const shown = ({ values, problem }: Measured) => {
      if (problem) return problem === 'UNIMPLEMENTED' ? 'unimpl.' : 'failed';
      return values.length > 0 ? `${median(values).toFixed(row.digits ?? 1)} ${row.unit}` : '-';
    };
    const ratio =
      sluice.values.length && containerd.values.length ? median(sluice.values) / median(containerd.values) : undefined;
    const { target } = row;
    const value = target.of === 'ratio' ? ratio : sluice.values.length ? median(sluice.values) : undefined;
    const sign = target.at === 'most' ? '≤' : '≥';
    const met = value === undefined ? undefined : target.at === 'most' ? value <= target.value : value >= target.value;
    if (met === false) missed++;
    const wanted = `${sign} ${target.value}${target.of === 'ratio' ? '' : ` ${row.unit}`}`;
    add([
      row.name,
      shown(sluice),
      shown(containerd),
      ratio?.toFixed(2) ?? '-',
      wanted,
      met === undefined ? 'open' : met ? 'met' : 'MISSED',
    ]);
    for (const [name, measured] of Object.entries({ Sluice: sluice, containerd })) {
      if (measured.problem && measured.problem !== 'UNIMPLEMENTED') lines.push(`    ${name}: ${measured.problem}`);
    }
  }
  return { text: lines.join('\n'), missed };
}

async function main(): Promise<number> {
  if (process.getuid?.() !== 0) throw new Error('needs root: it starts two daemons');
  const rounds = Number(options.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error('--rounds wants a number of 1 or more');
  const rows = ROWS.filter((row) => new RegExp(options.rows, 'i').test(row.name));
  if (rows.length === 0)
    throw new Error(`--rows matches nothing; there are:\n${ROWS.map((row) => row.name).join('\n')}`);
  const containerd = await builtOrSystem('containerd');
  const shim = await builtOrSystem('containerd-shim-runc-v2');
  const runtime = findProgram(options.runtime) ?? program('runc');
  if (!containerd || !shim) throw new Error('there is neither Go to build containerd with nor a containerd in PATH');
  const version = async (path: string) => (await run(path, ['--version'])).stdout.split('\n', 1)[0];
  console.log(`containerd: ${await version(containerd)}\nshim: ${shim}\nruntime: ${await version(runtime)}`);

  const folder = privateFolder('sluice-bench');
  const registry = await imageRegistry(folder);
  const daemons: RigDaemon[] = [];
  try {
    const image = 'registry.k8s.io/pause:3.10';
    if (options.only !== 'containerd') {
      daemons.push(
        await startSluice({
          registry,
          index: 0,
          stateInMemory: true,
          config: {
            default_runtime: 'runc',
            runtimes: { runc: { binary: runtime, shim } },
            images: { sandbox_image: image },
            log: { level: 'info' },
          },
        }),
      );
    }
    if (options.only !== 'sluice') {
      const like = { registry, index: 1, stateInMemory: true, shim, runc: runtime, sandboxImage: image };
      daemons.push(await startContainerd({ ...like, containerd }));
    }
    for (const daemon of daemons) {
      await warmUp(daemon);
      await clear(daemon);
    }
    const results = await measure(daemons, rows, options.quick ? 1 : rounds);
    const { text, missed } = table(results);
    console.log(text);
    if (options.json) {
      const plain = [...results].map(([row, pair]) => ({
        name: row.name,
        unit: row.unit,
        target: row.target,
        ...pair,
      }));
      writeFileSync(options.json, `${JSON.stringify(plain, undefined, 2)}\n`);
    }
    for (const daemon of daemons) await daemon.assertNothingLeft();
    return missed > 0 ? 1 : 0;
  } finally {
    for (const daemon of daemons) await daemon[Symbol.asyncDispose]();
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

process.exitCode = await main();

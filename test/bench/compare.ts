/**
 * Sluice beside containerd, like for like: one shim, one runc, the same CNI plugins and settings, the same images, in
 * turns A B A B.
 *
 *   npm run bench [-- --rounds N] [--rows REGEX] [--quick] [--containerd 2.4.2|2.3.4|system] [--sides plugins,pause,pinned,shared,containerd]
 *     [--runtime PATH|NAME] [--crun PATH|NAME] [--cgroups-v1] [--sources] [--json FILE] [--markdown FILE]
 *
 * Sluice is a release that is built first (`--sources`: the tree as it is), and runs in four configurations (sides.ts).
 * For each row the median over the rounds of both, and the ratio of the medians beside the target, with the lowest and
 * the highest ratio of a round. containerd is built from Go modules, or Debian's where Go is absent or `system` is
 * asked for. Rows with crun need `--cgroups-v1` on a host with both cgroup versions, which then hides the second one
 * from all sides, and a containerd whose specs crun reads (`system`). Ends with status 1 when a target is missed; rows
 * whose calls a daemon lacks say so and count as open.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { containerdPrograms } from '../rig/build.ts';
import { removePods } from '../rig/cri.ts';
import type { RigDaemon } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { findProgram, privateFolder, program } from '../rig/paths.ts';
import { withoutUnified } from './cgroups-v1.ts';
import { machine, otherWork, versionOf } from './machine.ts';
import { launchPodAndContainer, warmUp } from './pods.ts';
import { releaseFor, SOURCES } from './release.ts';
import { MEASUREMENTS, type Measurement, type Row, type Target } from './rows.ts';
import { SIDE_NAMES, SIDES, type Side, type SluiceSide, startSide } from './sides.ts';
import { median } from './statistics.ts';

const UNIMPLEMENTED = 12;
/** Shims and namespaces of the row before end a moment after the answer. */
const SETTLE_MS = 500;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    rows: { type: 'string', default: '.' },
    quick: { type: 'boolean', default: false },
    containerd: { type: 'string', default: '2.4.2' },
    sides: { type: 'string', default: SIDE_NAMES.join(',') },
    runtime: { type: 'string', default: 'runc' },
    crun: { type: 'string', default: 'crun' },
    'cgroups-v1': { type: 'boolean', default: false },
    sources: SOURCES,
    json: { type: 'string' },
    markdown: { type: 'string' },
  },
});

interface Measured {
  /** For each round, one number for each row of the measurement. */
  rounds: (readonly number[])[];
  /** Why there are none. */
  problem?: string;
}

type Results = Map<Measurement, Map<Side, Measured>>;

function sidesOf(measurement: Measurement, daemons: ReadonlyMap<Side, RigDaemon>): Side[] {
  const wanted = (side: Side) =>
    side === 'containerd' ? !measurement.alone : measurement.rows.some(({ targets }) => side in targets);
  return [...daemons.keys()].filter(wanted);
}

async function measure(
  daemons: ReadonlyMap<Side, RigDaemon>,
  measurements: readonly Measurement[],
  crunRefusals: ReadonlyMap<Side, string>,
  rounds: number,
  save: (results: Results) => void,
): Promise<Results> {
  const results: Results = new Map();
  for (const measurement of measurements) {
    const sides = sidesOf(measurement, daemons).filter((side) => !(measurement.crun && crunRefusals.has(side)));
    const measured = new Map<Side, Measured>(sides.map((side) => [side, { rounds: [] }]));
    results.set(measurement, measured);
    for (let round = 0; round < (measurement.once ? 1 : rounds); round++) {
      for (const side of sides) {
        const daemon = daemons.get(side);
        const own = measured.get(side);
        if (!daemon || !own || own.problem) continue;
        try {
          own.rounds.push(await measurement.measure(daemon, options.quick));
          process.stderr.write('.');
        } catch (error) {
          const lacks = (error as { code?: unknown }).code === UNIMPLEMENTED;
          const words = error instanceof Error ? error.message : String(error);
          own.problem = lacks ? 'UNIMPLEMENTED' : words.split('\n', 1)[0]?.slice(0, 200);
          process.stderr.write('x');
        } finally {
          await clear(daemon);
        }
      }
    }
    save(results);
  }
  process.stderr.write('\n');
  return results;
}

/** Every row finds an empty node. */
async function clear(daemon: RigDaemon): Promise<void> {
  await removePods(daemon.cri, undefined, 16);
  await sleep(SETTLE_MS);
}

interface Line {
  row: string;
  configuration: string;
  sluice: string;
  containerd: string;
  ratio: string;
  target: string;
  verdict: 'met' | 'MISSED' | 'open' | '';
  problems: string[];
}

function linesOf(results: Results): Line[] {
  const lines: Line[] = [];
  for (const [measurement, measured] of results) {
    const containerd = measured.get('containerd');
    for (const [at, row] of measurement.rows.entries()) {
      for (const [side, target] of Object.entries(row.targets) as [SluiceSide, Target | null][]) {
        const sluice = measured.get(side);
        if (sluice) lines.push(lineOf(row, at, side, target, sluice, containerd));
      }
    }
  }
  return lines;
}

function lineOf(
  row: Row,
  at: number,
  side: SluiceSide,
  target: Target | null,
  sluice: Measured,
  containerd: Measured | undefined,
): Line {
  const values = ({ rounds }: Measured) => rounds.map((numbers) => numbers[at] ?? Number.NaN);
  const digits = row.digits ?? 1;
  const shown = (measured: Measured | undefined) => {
    if (measured?.problem) return measured.problem === 'UNIMPLEMENTED' ? 'unimpl.' : 'failed';
    return measured?.rounds.length ? `${median(values(measured)).toFixed(digits)} ${row.unit}`.trim() : '-';
  };
  const own = sluice.rounds.length > 0 ? median(values(sluice)) : undefined;
  let ratio: number | undefined;
  let ratioText = '-';
  if (own !== undefined && containerd?.rounds.length) {
    const theirs = values(containerd);
    ratio = own / median(theirs);
    const each = values(sluice).flatMap((value, round) => (theirs[round] ? [value / theirs[round]] : []));
    const spread = each.length > 1 ? ` (${Math.min(...each).toFixed(2)}–${Math.max(...each).toFixed(2)})` : '';
    ratioText = `${ratio.toFixed(2)}${spread}`;
  }
  const subject = target?.of === 'ratio' ? ratio : own;
  const met = target && subject !== undefined ? within(subject, target) : undefined;
  return {
    row: row.name,
    configuration: SIDES[side].meaning,
    sluice: shown(sluice),
    containerd: shown(containerd),
    ratio: ratioText,
    target: target
      ? `${target.at === 'most' ? '≤' : '≥'} ${target.limit}${target.of === 'ratio' ? '' : ` ${row.unit}`}`.trim()
      : '',
    verdict: target ? (met === undefined ? 'open' : met ? 'met' : 'MISSED') : '',
    problems: [sluice, containerd].flatMap((one) => (one?.problem ? [one.problem] : [])),
  };
}

const within = (value: number, { at, limit }: Target) => (at === 'most' ? value <= limit : value >= limit);

const HEAD = ['row', 'configuration', 'Sluice', 'containerd', 'ratio', 'target', ''] as const;
const cells = (line: Line) => [
  line.row,
  line.configuration,
  line.sluice,
  line.containerd,
  line.ratio,
  line.target,
  line.verdict,
];

function textTable(lines: readonly Line[]): string {
  const rows = [[...HEAD], ...lines.map(cells)];
  const widths = HEAD.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const text = rows.map((row) =>
    row
      .map((cell, i) => (i < 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
  const problems = lines.flatMap((line) =>
    line.problems.map((problem) => `${line.row}, ${line.configuration}: ${problem}`),
  );
  return [...text, ...new Set(problems)].join('\n');
}

function markdownTable(lines: readonly Line[]): string {
  const row = (texts: readonly string[]) => `| ${texts.join(' | ')} |`;
  return `${[row(HEAD), row(HEAD.map(() => '---')), ...lines.map((line) => row(cells(line)))].join('\n')}\n`;
}

/** After each measurement: a run of a quarter of an hour that is cut short has not measured for nothing. */
function save(results: Results, head: readonly string[]): void {
  const lines = linesOf(results);
  if (options.markdown) writeFileSync(options.markdown, markdownTable(lines));
  if (!options.json) return;
  const rows = [...results].map(([{ rows: names, once }, measured]) => ({
    rows: names,
    once: once ?? false,
    measured: Object.fromEntries(measured),
  }));
  writeFileSync(options.json, `${JSON.stringify({ head, lines, rows }, undefined, 2)}\n`);
}

function chosenSides(): Side[] {
  return options.sides.split(',').map((name) => {
    const side = SIDE_NAMES.find((one) => one === name);
    if (!side) throw new Error(`--sides takes ${SIDE_NAMES.join(', ')}, not ${name}`);
    return side;
  });
}

/**
 * Why a side cannot run containers with crun: 1.8 refuses newer specs, and a cgroup2 mount with controllers beside
 * cgroup v1.
 */
async function refusalsOfCrun(daemons: ReadonlyMap<Side, RigDaemon>): Promise<Map<Side, string>> {
  const refusals = new Map<Side, string>();
  for (const [side, daemon] of daemons) {
    try {
      await launchPodAndContainer(daemon, 'warm-crun', 'crun');
    } catch (error) {
      refusals.set(side, (error instanceof Error ? error.message : String(error)).split('\n', 1)[0] ?? '');
    }
  }
  return refusals;
}

async function main(): Promise<number> {
  if (process.getuid?.() !== 0) throw new Error('needs root: it starts daemons');
  const rounds = Number(options.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error('--rounds wants a number of 1 or more');
  const wanted = new RegExp(options.rows, 'i');
  const crun = findProgram(options.crun);
  const measurements = MEASUREMENTS.filter(({ rows }) => rows.some(({ name }) => wanted.test(name)));
  if (measurements.length === 0) {
    const names = MEASUREMENTS.flatMap(({ rows }) => rows.map(({ name }) => name));
    throw new Error(`--rows matches nothing; there are:\n${names.join('\n')}`);
  }
  const sides = chosenSides();
  const { containerd, shim } = await containerdPrograms(sides.includes('containerd') ? options.containerd : 'none');
  const runtime = program(options.runtime);
  if (!shim || (sides.includes('containerd') && !containerd)) {
    throw new Error('there is neither Go to build containerd with nor a containerd in PATH');
  }
  const head = [
    machine(),
    ...(containerd ? [`containerd: ${await versionOf(containerd)}`] : []),
    `shim: ${shim}`,
    `runtime: ${await versionOf(runtime)}${crun ? `; ${await versionOf(crun)}` : ''}`,
    `other work before: ${await otherWork()}`,
  ];
  console.log(head.join('\n'));

  const folder = privateFolder('sluice-bench');
  const registry = await imageRegistry(folder);
  const daemons = new Map<Side, RigDaemon>();
  try {
    const sandboxImage = 'registry.k8s.io/pause:3.10';
    const release = await releaseFor(folder, options);
    const common = { registry, shim, runc: runtime, crun, containerd, sandboxImage, release };
    for (const [index, side] of sides.entries()) daemons.set(side, await startSide(side, index, common));
    for (const daemon of daemons.values()) await warmUp(daemon, ['runc']);
    const refusals = crun ? await refusalsOfCrun(daemons) : new Map<Side, string>();
    for (const [side, words] of refusals) console.log(`${side} cannot run crun here: ${words}`);
    for (const daemon of daemons.values()) await clear(daemon);
    const possible = measurements.filter((one) => !one.crun || (crun !== undefined && refusals.size < daemons.size));
    const results = await measure(daemons, possible, refusals, options.quick ? 1 : rounds, (so) => save(so, head));
    const lines = linesOf(results);
    const after = `other work after: ${await otherWork()}`;
    console.log(`${after}\n${textTable(lines)}`);
    save(results, [...head, after]);
    for (const daemon of daemons.values()) await daemon.assertNothingLeft();
    return lines.some(({ verdict }) => verdict === 'MISSED') ? 1 : 0;
  } finally {
    for (const daemon of daemons.values()) await daemon[Symbol.asyncDispose]();
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

process.exitCode = (options['cgroups-v1'] ? withoutUnified() : undefined) ?? (await main());

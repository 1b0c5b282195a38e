/**
 * Pulls of Sluice beside containerd's, in turns A B A B, every one of them cold: no image is pulled twice by a daemon.
 *
 *   npm run bench:images [-- --rounds N] [--rows REGEX] [--containerd 2.4.2|2.3.4|system] [--sides sluice,containerd,floor]
 *     [--disk own|fresh] [--sources] [--json FILE] [--markdown FILE]
 *
 * A pull's time ends when everything is on the disk: syncfs(2) of the daemon's folder is counted in, for both. Sluice
 * is a release that is built first, as for the other benchmarks; --sources starts the tree, whose threads strip types
 * as they load. The images come from a registry on loopback (image-server.ts), made anew for each round; both sides
 * pull the same one. With `--disk fresh` both daemons' folders are on an ext4 with a journal that was just made, as
 * nodes have it; without a journal, ext4 is slow beside files that were removed lately. The side `floor`, which has to
 * be asked for, does no more than a pull has to (image-floor.ts). Ends with status 1 when a target is missed.
 */
import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { syncFileSystem } from '../../src/sys/sync.ts';
import { containerdPrograms } from '../rig/build.ts';
import { startContainerd } from '../rig/containerd.ts';
import { type RigDaemon, startSluice } from '../rig/daemon.ts';
import { ext4InFile } from '../rig/disk.ts';
import { imageRegistry } from '../rig/images.ts';
import { podConfig } from '../rig/messages.ts';
import { privateFolder, program } from '../rig/paths.ts';
import { cpuSeconds, pss } from '../rig/proc.ts';
import { writeHosts } from '../rig/registry.ts';
import { startImageFloor } from './image-floor.ts';
import type { FromServer, LayerRecipe, Make, ToServer } from './image-server.ts';
import { PATIENCE, type Puller, pullerOf } from './image-sides.ts';
import { machine, otherWork } from './machine.ts';
import { ownCopy, releaseFor, SOURCES } from './release.ts';
import { type Latencies, latencies, median } from './statistics.ts';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    rows: { type: 'string', default: '.' },
    containerd: { type: 'string', default: '2.4.2' },
    disk: { type: 'string', default: 'own' },
    sides: { type: 'string', default: 'sluice,containerd' },
    json: { type: 'string' },
    markdown: { type: 'string' },
    sources: SOURCES,
  },
});

const MIB = 1 << 20;
/**
 * Launches with nothing beside them: as many as Sluice makes while 1 GiB comes. Of 60, the 99th percentile would be the
 * slowest.
 */
const PODS = 350;
const WARM_PODS = 60;
/** How long a process spins beside launches: as long as a pull of 1 GiB takes, or so. */
const SPIN_MS = 4000;
/** Of a fresh disk: room for the images of all rounds that are there at a time. */
const DISK_MIB = 16 * 1024;

/** Before each side: what made the images collects its garbage, and what was removed before is written to the disk. */
const REST_MS = 4000;

const SIDES = ['sluice', 'containerd', 'floor'] as const;
type Side = (typeof SIDES)[number];

interface Row {
  name: string;
  unit: string;
  /** `ratio`: of the medians, Sluice by containerd; `value`: of Sluice alone. */
  target?: { of: 'ratio' | 'value'; most: number };
}

/** One measurement: images that are made for each round, and what is done with them. */
interface Measurement {
  rows: Row[];
  images: Omit<Make, 'kind'>[];
  /** One number for each row; none for a side that cannot be measured. */
  measure: (side: Puller, names: string[], server: Server) => Promise<number[]>;
}

const THREE: LayerRecipe[] = [{ small: 6000 }, { big: 60 * MIB }, { small: 300 }];
const TWELVE: LayerRecipe[] = Array.from({ length: 12 }, () => ({ small: 500, big: 5 * MIB }));
const MIDDLE: LayerRecipe[] = [{ small: 1500 }, { big: 12 * MIB }, { small: 100 }];
const times = <T>(count: number, one: T): T[] => Array.from({ length: count }, () => one);

/** Follows a row of seconds. It is the daemon's own, without that of the registry and of the kernel's threads. */
const CPU: Row = { name: 'CPU of the daemon for it', unit: 's' };

const MEASUREMENTS: Measurement[] = [
  {
    rows: [
      { name: 'three layers, 73 MiB, first pull after a start', unit: 's', target: { of: 'ratio', most: 0.6 } },
      CPU,
      { name: 'three layers, 73 MiB, right after an rmi', unit: 's', target: { of: 'ratio', most: 0.6 } },
      CPU,
    ],
    images: times(2, { layers: THREE }),
    measure: async (side, [first = '', second = '']) => {
      await restart(side);
      const cold = await pulled(side, [first]);
      await side.remove(first);
      return [...cold, ...(await pulled(side, [second]))];
    },
  },
  {
    rows: [{ name: 'twelve layers, 72 MiB', unit: 's', target: { of: 'ratio', most: 0.6 } }, CPU],
    images: [{ layers: TWELVE }],
    measure: pulled,
  },
  {
    rows: [{ name: 'one layer of 20,000 small files, 41 MiB', unit: 's' }, CPU],
    images: [{ layers: [{ small: 20_000 }] }],
    measure: pulled,
  },
  {
    rows: [
      {
        name: 'eight images of three layers at once, 144 MiB, first pulls after a start',
        unit: 's',
        target: { of: 'ratio', most: 0.6 },
      },
      CPU,
      {
        name: 'eight images of three layers at once, 144 MiB, right after an rmi',
        unit: 's',
        target: { of: 'ratio', most: 0.6 },
      },
      CPU,
    ],
    images: times(16, { layers: MIDDLE }),
    measure: async (side, names) => {
      await restart(side);
      const [first, second] = [names.slice(0, 8), names.slice(8)];
      const cold = await pulled(side, first);
      for (const name of first) await side.remove(name);
      return [...cold, ...(await pulled(side, second))];
    },
  },
  {
    // On its own: to add up the pages of a process takes some milliseconds of its time, 20 times a second.
    rows: [
      {
        name: 'memory of the daemon while eight images are pulled, above idle',
        unit: 'MiB',
        target: { of: 'value', most: 120 },
      },
    ],
    images: times(8, { layers: MIDDLE }),
    measure: async (side, names) => {
      await restart(side);
      const idle = pss(side.pid());
      const peak = watchMemory(side);
      await pulled(side, names).finally(() => peak.end());
      return [((await peak.end()) - idle) / MIB];
    },
  },
  {
    rows: [
      { name: 'one image ten times at once', unit: 's', target: { of: 'ratio', most: 1 } },
      CPU,
      { name: 'its layers as downloaded, of three', unit: '', target: { of: 'value', most: 3 } },
    ],
    images: [{ layers: THREE }],
    measure: async (side, [name = ''], server) => {
      if (!side.daemon) return [];
      const spent = await pulled(side, times(10, name));
      return [...spent, await server.layersServed(name)];
    },
  },
  {
    rows: [{ name: 'one layer of 1 GiB of zeroes', unit: 's', target: { of: 'ratio', most: 0.8 } }, CPU],
    images: [{ layers: [{ big: 1024 * MIB, zeroes: true }] }],
    measure: pulled,
  },
  {
    rows: [{ name: 'one layer of 1 GiB of random bytes', unit: 's', target: { of: 'ratio', most: 0.8 } }, CPU],
    images: [{ layers: [{ big: 1024 * MIB }] }],
    measure: pulled,
  },
  {
    rows: [{ name: '96 MiB at 20 MB/s per connection', unit: 's', target: { of: 'ratio', most: 0.4 } }, CPU],
    images: [{ layers: [{ big: 96 * MIB }], rate: 20e6 }],
    measure: pulled,
  },
  {
    rows: [
      { name: 'RunPodSandbox p99, nothing else', unit: 'ms' },
      { name: 'RunPodSandbox p99 while 1 GiB unpacks', unit: 'ms' },
      { name: 'the second by the first', unit: '', target: { of: 'value', most: 1.3 } },
      { name: 'RunPodSandbox p99 while a process spins that has the lowest priority', unit: 'ms' },
      { name: 'RunPodSandbox p50, nothing else', unit: 'ms' },
      { name: 'RunPodSandbox p50 while 1 GiB unpacks', unit: 'ms' },
    ],
    images: times(2, { layers: [{ big: 1024 * MIB }] }),
    measure: async (side, names) => {
      const { daemon } = side;
      if (!daemon) return [];
      await launches(daemon, WARM_PODS);
      const idle = await launches(daemon, PODS);
      const busy = await launches(daemon, PODS, async (enough) => {
        for (const name of names) if (!enough()) await side.pull(name);
      });
      const beside = await launches(daemon, PODS, spin);
      return [idle.p99, busy.p99, busy.p99 / idle.p99, beside.p99, idle.p50, busy.p50];
    },
  },
];

/** The registry in its own process. */
class Server implements Disposable {
  readonly address: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, address: string) {
    this.#child = child;
    this.address = address;
  }

  static async start(): Promise<Server> {
    const child = fork(join(import.meta.dirname, 'image-server.ts'), { execArgv: ['--max-old-space-size=8192'] });
    const ready = await heard(child);
    if (ready.kind !== 'ready') throw new Error(`the registry answers ${ready.kind}`);
    return new Server(child, ready.address);
  }

  async make(recipe: Omit<Make, 'kind'>): Promise<string> {
    const made = await this.#ask({ kind: 'make', ...recipe });
    if (made.kind !== 'made') throw new Error(`the registry answers ${made.kind}`);
    return made.name;
  }

  async layersServed(name: string): Promise<number> {
    const counted = await this.#ask({ kind: 'count', name });
    if (counted.kind !== 'counted') throw new Error(`the registry answers ${counted.kind}`);
    return counted.layers;
  }

  async drop(): Promise<void> {
    await this.#ask({ kind: 'drop' });
  }

  #ask(message: ToServer): Promise<FromServer> {
    const answer = heard(this.#child);
    this.#child.send(message);
    return answer;
  }

  [Symbol.dispose](): void {
    this.#child.disconnect();
  }
}

function heard(child: ChildProcess): Promise<FromServer> {
  const { promise, resolve, reject } = Promise.withResolvers<FromServer>();
  const onExit = () => reject(new Error('the registry has ended'));
  child.once('exit', onExit);
  child.once('message', (message) => {
    child.off('exit', onExit);
    resolve(message as FromServer);
  });
  return promise;
}

async function restart(side: Puller): Promise<void> {
  await side.stop();
  await side.start();
  await sleep(1000);
}

/** Seconds until all of these images are pulled and on the disk, and seconds of CPU that the process took for it. */
async function pulled(side: Puller, names: readonly string[]): Promise<number[]> {
  await syncFileSystem(side.folder);
  const cpu = cpuSeconds(side.pid());
  const began = performance.now();
  await Promise.all(names.map((name) => side.pull(name)));
  await syncFileSystem(side.folder);
  return [(performance.now() - began) / 1000, cpuSeconds(side.pid()) - cpu];
}

/**
 * The most that the daemon occupies until end(), in bytes; NaN when the daemon is gone, which its callers then notice.
 */
function watchMemory(side: Puller): { end: () => Promise<number> } {
  let peak = 0;
  const look = () => {
    try {
      peak = Math.max(peak, pss(side.pid()));
    } catch {
      peak = Number.NaN;
    }
  };
  const timer = setInterval(look, 50);
  return {
    end: async () => {
      look();
      clearInterval(timer);
      return peak;
    },
  };
}

/** Keeps one processor busy with what gives way to everything else. */
async function spin(): Promise<void> {
  const loop = spawn('chrt', ['--idle', '0', 'sh', '-c', 'while :; do :; done'], { stdio: 'inherit' });
  const ended = once(loop, 'exit');
  await Promise.race([sleep(SPIN_MS), ended]);
  if (loop.exitCode !== null) throw new Error(`chrt ended with ${loop.exitCode}`);
  loop.kill('SIGKILL');
  await ended;
}

/**
 * Milliseconds of pods launched one after the other: `most` of them, and no more than are launched while something
 * takes place beside them. How many others there are is a part of what a launch takes, so that runs with different
 * numbers of pods cannot be compared.
 */
async function launches(
  daemon: RigDaemon,
  most: number,
  beside?: (enough: () => boolean) => Promise<void>,
): Promise<Latencies> {
  const ms: number[] = [];
  const ids: string[] = [];
  let over = false;
  const other = beside?.(() => ids.length >= most).finally(() => (over = true));
  other?.catch(() => {}); // thrown below
  while (ids.length < most && !over) {
    const config = podConfig(`beside-${Date.now()}-${ids.length}`, { cgroupParent: daemon.cgroupParent });
    const began = performance.now();
    const { podSandboxId } = await daemon.cri.runPodSandbox({ config }, PATIENCE);
    ms.push(performance.now() - began);
    ids.push(podSandboxId);
  }
  await other;
  for (const podSandboxId of ids) {
    await daemon.cri.stopPodSandbox({ podSandboxId }, PATIENCE);
    await daemon.cri.removePodSandbox({ podSandboxId }, PATIENCE);
  }
  return latencies(ms);
}

/**
 * Another side begins each round: who comes first or right after another's removals may fare better or worse for it.
 */
function inTurn<T>(all: readonly T[], round: number): T[] {
  const first = round % all.length;
  return [...all.slice(first), ...all.slice(0, first)];
}

type Results = Map<Measurement, Record<Side, number[][]>>;

async function measureAll(
  sides: ReadonlyMap<Side, Puller>,
  server: Server,
  rounds: number,
  wanted: RegExp,
): Promise<Results> {
  const results: Results = new Map();
  for (const measurement of MEASUREMENTS) {
    if (!measurement.rows.some(({ name }) => wanted.test(name))) continue;
    const found: Record<Side, number[][]> = { sluice: [], containerd: [], floor: [] };
    results.set(measurement, found);
    for (let round = 0; round < rounds; round++) {
      const names: string[] = [];
      for (const recipe of measurement.images) names.push(await server.make(recipe));
      await sleep(REST_MS);
      for (const [side, puller] of inTurn([...sides], round)) {
        const numbers = await measurement.measure(puller, names, server);
        if (numbers.length === 0) continue;
        found[side].push(numbers);
        process.stderr.write(`${side} ${numbers.map((value) => value.toFixed(2))}\n`);
        for (const name of new Set(names)) await puller.remove(name);
        await sleep(REST_MS);
      }
      await server.drop();
    }
  }
  return results;
}

interface Line {
  row: string;
  sluice: string;
  containerd: string;
  ratio: string;
  target: string;
  verdict: string;
  floor: string;
}

function linesOf(results: Results): Line[] {
  return [...results].flatMap(([{ rows }, found]) => rows.map((row, at) => lineOf(row, found, at)));
}

function lineOf({ name, unit, target }: Row, found: Record<Side, number[][]>, at: number): Line {
  const values = (side: Side) => found[side].map((numbers) => numbers[at] ?? Number.NaN);
  const shown = (side: Side) => {
    if (found[side].length === 0) return '-';
    const all = values(side);
    const text = (value: number) => value.toFixed(unit === 's' || unit === '' ? 2 : 1);
    return `${text(median(all))} ${unit} (${text(Math.min(...all))}–${text(Math.max(...all))})`.replace('  ', ' ');
  };
  const own = values('sluice');
  const theirs = values('containerd');
  const each = own.flatMap((value, round) => (theirs[round] ? [value / theirs[round]] : []));
  const ratio = each.length > 0 ? median(own) / median(theirs) : undefined;
  const subject = target?.of === 'ratio' ? ratio : median(own);
  const spread = each.length > 1 ? ` (${Math.min(...each).toFixed(2)}–${Math.max(...each).toFixed(2)})` : '';
  const verdict = !target || subject === undefined ? '' : subject <= target.most ? 'met' : 'MISSED';
  return {
    row: name,
    sluice: shown('sluice'),
    containerd: shown('containerd'),
    ratio: ratio === undefined ? '-' : `${ratio.toFixed(2)}${spread}`,
    target: target ? `≤ ${target.most}${target.of === 'value' ? ` ${unit}` : ''}`.trim() : '',
    verdict,
    floor: floorOf(found, at, shown),
  };
}

/** What the floor took, and its ratio to containerd's. */
function floorOf(found: Record<Side, number[][]>, at: number, shown: (side: Side) => string): string {
  const [floor, theirs] = [found.floor, found.containerd].map((all) => median(all.map((one) => one[at] ?? Number.NaN)));
  if (found.floor.length === 0) return '-';
  const ratio = found.containerd.length > 0 ? `, ${((floor ?? 0) / (theirs ?? 0)).toFixed(2)} of containerd` : '';
  return `${shown('floor')}${ratio}`;
}

const HEAD: Line = {
  row: 'row',
  sluice: 'Sluice',
  containerd: 'containerd',
  ratio: 'ratio',
  target: 'target',
  verdict: '',
  floor: 'floor',
};

function markdownTable(lines: readonly Line[]): string {
  const hasFloor = lines.some(({ floor }) => floor !== '-');
  const cells = ({ floor, ...line }: Line) => [...Object.values(line), ...(hasFloor ? [floor] : [])];
  const row = (line: Line) => `| ${cells(line).join(' | ')} |`;
  return `${[row(HEAD), `|${' --- |'.repeat(cells(HEAD).length)}`, ...lines.map(row)].join('\n')}\n`;
}

async function main(): Promise<number> {
  if (process.getuid?.() !== 0) throw new Error('needs root: it starts daemons');
  const rounds = Number(options.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error('--rounds wants a number of 1 or more');
  const { containerd, shim } = await containerdPrograms(options.containerd);
  if (!containerd || !shim) throw new Error('there is neither Go to build containerd with nor a containerd in PATH');
  const wanted = options.sides.split(',');
  for (const side of wanted) if (!SIDES.some((one) => one === side)) throw new Error(`--sides: there is no ${side}`);
  const head = [machine(), `containerd ${options.containerd}`, `other work before: ${await otherWork()}`];
  console.log(head.join('\n'));

  if (!['own', 'fresh'].includes(options.disk)) throw new Error('--disk wants own or fresh');
  await using disk = options.disk === 'fresh' ? await ext4InFile(DISK_MIB, { direct: true }) : undefined;
  // All folders of the rig are below it.
  if (disk) process.env.TMPDIR = disk.path;
  const folder = privateFolder('sluice-bench');
  const registry = await imageRegistry(folder);
  const sides = new Map<Side, Puller>();
  using server = await Server.start();
  try {
    writeHosts(registry.certsDir, 'bench.test', server.address);
    const runc = program('runc');
    if (wanted.includes('sluice')) {
      const config = { log: { level: 'info' }, runtimes: { runc: { binary: runc, shim } } };
      const release = await releaseFor(folder, { sources: options.sources });
      const sluiced = release && ownCopy(release, 'sluice');
      const daemon = await startSluice({ registry, index: 0, stateInMemory: true, config, program: sluiced });
      sides.set('sluice', pullerOf(daemon));
    }
    if (wanted.includes('containerd')) {
      const daemon = await startContainerd({ registry, index: 1, stateInMemory: true, containerd, shim, runc });
      sides.set('containerd', pullerOf(daemon));
    }
    if (wanted.includes('floor')) sides.set('floor', await startImageFloor(join(folder, 'floor'), server.address));
    for (const [side, puller] of sides) console.log(`${side}: pid ${puller.pid()}, ${puller.folder}`);
    const results = await measureAll(sides, server, rounds, new RegExp(options.rows, 'i'));
    const lines = linesOf(results);
    head.push(`other work after: ${await otherWork()}`);
    console.log(`${head.at(-1)}\n${markdownTable(lines)}`);
    if (options.markdown) writeFileSync(options.markdown, markdownTable(lines));
    if (options.json) {
      const rows = [...results].map(([{ rows: names }, found]) => ({ rows: names, ...found }));
      writeFileSync(options.json, `${JSON.stringify({ head, lines, rows }, undefined, 2)}\n`);
    }
    return lines.some(({ verdict }) => verdict === 'MISSED') ? 1 : 0;
  } finally {
    for (const side of sides.values()) await side[Symbol.asyncDispose]();
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

process.exitCode = await main();

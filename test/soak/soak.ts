/**
 *   npm run soak -- [--minutes M] [--pods N] [--svg FILE]
 *
 * Churn (churn.ts) for as long as is asked for. Memory, descriptors, threads, mounts, processes and rows are sampled,
 * drawn, and must be flat after a warm-up of a quarter: status 1 when one grows, or when something is left at the end.
 */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type SluiceDaemon, startSluice } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { mountsBelow } from '../rig/leftovers.ts';
import { privateFolder } from '../rig/paths.ts';
import { processesOf, pss } from '../rig/proc.ts';
import { churn } from './churn.ts';
import { drawSeries, type Series, trendOf } from './series.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '30' },
    pods: { type: 'string', default: '12' },
    svg: { type: 'string', default: 'soak.svg' },
  },
});
const minutes = Number(values.minutes);
const pods = Number(values.pods);
const SAMPLE_MS = 5000;

const MEASURES: { name: string; unit: string; allowed: number; of: (daemon: SluiceDaemon) => number }[] = [
  { name: 'Memory of the daemon (PSS)', unit: 'MiB', allowed: 12, of: (daemon) => pss(daemon.pid()) / 2 ** 20 },
  { name: 'Descriptors of the daemon', unit: '', allowed: 6, of: (daemon) => entries(daemon, 'fd') },
  { name: 'Threads of the daemon', unit: '', allowed: 2, of: (daemon) => entries(daemon, 'task') },
  { name: 'Mounts below root and state', unit: '', allowed: 4, of: ({ folder }) => mountsBelow(folder).length },
  {
    name: 'Processes of daemon, shims and runtimes',
    unit: '',
    allowed: 6,
    of: ({ folder }) => processesOf(folder).length,
  },
  { name: 'Rows of the store', unit: '', allowed: 6, of: rows },
];

function entries(daemon: SluiceDaemon, what: 'fd' | 'task'): number {
  return readdirSync(`/proc/${daemon.pid()}/${what}`).length;
}

function rows({ root }: SluiceDaemon): number {
  const db = new DatabaseSync(join(root, 'sluice.db'), { readOnly: true });
  try {
    const count = (table: string) => (db.prepare(`SELECT count(*) AS n FROM ${table}`).get() as { n: number }).n;
    return ['sandboxes', 'containers', 'images', 'layers'].reduce((sum, table) => sum + count(table), 0);
  } finally {
    db.close();
  }
}

const folder = privateFolder('sluice-soak');
const registry = await imageRegistry(folder);
try {
  await using daemon = await startSluice({ registry, index: 35, config: { log: { level: 'info' } } });
  const series: Series[] = MEASURES.map(({ name, unit, allowed }) => ({ name, unit, allowed, points: [] }));
  const began = Date.now();
  const end = AbortSignal.timeout(minutes * 60_000);
  const work = churn(daemon, folder, pods, end);
  const failed = work.then(
    () => undefined,
    (error: unknown) => error,
  );
  while (!end.aborted) {
    const over = await Promise.race([failed, sleep(SAMPLE_MS, 'sample')]);
    if (over !== 'sample') break;
    const seconds = (Date.now() - began) / 1000;
    for (const [at, { of }] of MEASURES.entries()) series[at]?.points.push({ seconds, value: of(daemon) });
  }
  const done = await work;
  await daemon.assertNothingLeft(20_000);
  const restarts = readFileSync(join(daemon.folder, 'log'), 'utf8').split('sluice is ready').length - 2;
  const title = `${minutes} minutes, ${pods} pods at a time: ${done.pods} pods, ${done.probes} exec probes, ${done.pulls} pulls`;
  writeFileSync(values.svg, drawSeries(title, series));
  console.log(title);
  for (const one of series) {
    const { median, growth, flat } = trendOf(one);
    console.log(
      `${flat ? 'flat ' : 'GROWS'} ${one.name}: median ${median.toFixed(1)}, trend ${growth.toFixed(1)} (allowed ${one.allowed})`,
    );
  }
  console.log(`the picture is ${values.svg}`);
  process.exitCode = restarts === 0 && series.every((one) => trendOf(one).flat) ? 0 : 1;
} finally {
  await registry.stop();
  rmSync(folder, { recursive: true, force: true });
}

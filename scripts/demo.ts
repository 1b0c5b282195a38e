/**
 * Launches pods in parallel through the CRI socket of a Sluice of its own, shows where the time went, looks at each pod
 * from outside, removes all and looks again, and launches as many with containerd where it is installed. Needs no
 * registry and no CNI configuration: image and network are the built-in ones.
 *
 *   npm run demo [-- --pods N] [--parallel P] [--mode pinned|pause] [--beside none] [--report FILE.html]
 *
 * Says first what it does to the machine. Ctrl-C ends it early, with everything taken away as at the end.
 * Ends with status 1 when a pod is not what it should be or something is left.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { JobRecord, JobShape } from '../src/node/observe/job-record.ts';
import { closeUplink } from '../src/workers/net/uplink.ts';
import { readBeside } from '../src/workers/store/open.ts';
import { type Beside, launchWithContainerd } from '../test/bench/beside.ts';
import { type Phase, phase } from '../test/bench/load.ts';
import { latencies } from '../test/bench/statistics.ts';
import { type SluiceDaemon, startSluice } from '../test/rig/daemon.ts';
import { podConfig } from '../test/rig/messages.ts';
import { processes, processesOf, run } from '../test/rig/proc.ts';
import { handlesSignalsItself } from '../test/rig/tidy.ts';
import { type Report, reportPage } from './demo-report.ts';

const NSFS = 0x6e736673; // NSFS_MAGIC of linux/magic.h

const { values } = parseArgs({
  options: {
    pods: { type: 'string', default: '32' },
    parallel: { type: 'string', default: '8' },
    mode: { type: 'string', default: 'pinned' },
    beside: { type: 'string', default: 'containerd' },
    report: { type: 'string' },
  },
});
const pods = whole('pods', 1000);
const parallel = whole('parallel', 256);
const { mode } = values;
if (mode !== 'pinned' && mode !== 'pause') fail('--mode is pinned or pause');
const pinned = mode === 'pinned';
if (values.beside !== 'containerd' && values.beside !== 'none') fail('--beside is containerd or none');

function whole(name: 'pods' | 'parallel', most: number): number {
  const value = Number(values[name]);
  if (!Number.isInteger(value) || value < 1 || value > most) fail(`--${name} wants a whole number from 1 to ${most}`);
  return value;
}

function fail(words: string): never {
  console.error(`demo: ${words}`);
  process.exit(1);
}

const say = (words: string) => console.log(words);
const plural = (n: number, what: string) => `${n} ${what}${n === 1 ? '' : 's'}`;

/** What the report has besides what was wrong. */
let figures: Omit<Report, 'wrong'> | undefined;

async function demo(daemon: SluiceDaemon, interrupted: AbortSignal): Promise<{ wrong: string[]; launched: Phase }> {
  const { cri } = daemon;
  const { runtimeVersion } = await cri.version();
  say(`Sluice ${runtimeVersion}, pid ${daemon.pid()}, on ${daemon.socket}\n`);

  const ids: string[] = [];
  const names = Array.from({ length: pods }, (_, i) => `demo-${i}`);
  const launched = await phase(names, parallel, daemon.pid(), async (name) => {
    interrupted.throwIfAborted();
    const config = podConfig(name, { namespace: 'demo', cgroupParent: daemon.cgroupParent });
    ids.push((await cri.runPodSandbox({ config }, { timeoutMs: 240_000 })).podSandboxId);
  });
  say(
    `Launched ${plural(pods, 'pod')}, ${parallel} at once, in ${launched.seconds.toFixed(1)} s: ` +
      `${launched.podsPerSecond.toFixed(1)} pods/s; RunPodSandbox p50 ${launched.calls.p50.toFixed(0)} ms, p99 ${launched.calls.p99.toFixed(0)} ms\n`,
  );
  say(`${await stages(daemon)}\n`);

  const { launches, shapes } = await records(daemon);
  const wrong = await lookAt(daemon, ids, interrupted);
  if (wrong.length === 0) {
    say(
      `Seen from outside: ${plural(pods, 'namespace')}, ${plural(pods, 'answer')} to ping, ${plural(pinned ? 0 : pods, 'shim')}`,
    );
  }
  const removed = await phase(ids, parallel, daemon.pid(), async (id) => {
    await cri.stopPodSandbox({ podSandboxId: id }, { timeoutMs: 240_000 });
    await cri.removePodSandbox({ podSandboxId: id }, { timeoutMs: 240_000 });
  });
  say(`Removed them in ${removed.seconds.toFixed(1)} s: ${removed.podsPerSecond.toFixed(1)} pods/s`);
  figures = {
    version: runtimeVersion,
    machine: `${availableParallelism()} cores, Linux ${release()}`,
    pods,
    parallel,
    launchSeconds: launched.seconds,
    removeSeconds: removed.seconds,
    launches,
    shapes,
  };
  return { wrong, launched };
}

/**
 * As many pods with containerd, once Sluice has ended, so that neither is in the other's way. One that cannot launch
 * any here (its shim is another version's, say) is no fault of the demo's.
 */
async function beside(own: Phase, interrupted: AbortSignal): Promise<void> {
  interrupted.throwIfAborted();
  let other: Beside | undefined;
  try {
    other = await launchWithContainerd(pods, parallel, interrupted);
  } catch (error) {
    interrupted.throwIfAborted();
    say(
      `nothing to compare with: the containerd that is here failed: ${error instanceof Error ? error.message : error}`,
    );
    return;
  }
  if (!other) {
    say('containerd is not installed here: nothing to compare with');
    return;
  }
  const { launched, version } = other;
  say(
    `containerd ${version}: ${launched.podsPerSecond.toFixed(1)} pods/s, p50 ${launched.calls.p50.toFixed(0)} ms; ` +
      `Sluice (${mode}) launched ${(own.podsPerSecond / launched.podsPerSecond).toFixed(1)} times as many a second`,
  );
}

/** The daemon's own records of the launches, and what needs what in them. */
async function records(daemon: SluiceDaemon): Promise<{ launches: JobRecord[]; shapes: JobShape[] }> {
  const ask = async (path: string) => (await fetch(`http://${daemon.metrics}${path}`)).json();
  const { launches } = (await ask(`/debug/launches?job=RunPodSandbox&limit=${pods}`)) as { launches: JobRecord[] };
  const { jobs } = (await ask('/debug/tables')) as { jobs: JobShape[] };
  return { launches, shapes: jobs };
}

/** Queue wait and work of each stage, from the daemon's own records of the launches. */
async function stages(daemon: SluiceDaemon): Promise<string> {
  const { launches } = await records(daemon);
  const byStage = new Map<string, { pool: string; waits: number[]; work: number[] }>();
  for (const { stages: records } of launches) {
    for (const { stage, pool, ready, started, ended } of records) {
      if (started === undefined || ended === undefined) continue;
      const row = byStage.get(stage) ?? { pool, waits: [], work: [] };
      row.waits.push(started - ready);
      row.work.push(ended - started);
      byStage.set(stage, row);
    }
  }
  const cell = (ms: number) => ms.toFixed(1).padStart(9);
  const lines = [
    `${'stage'.padEnd(10)}${'pool'.padEnd(7)}${'wait p50'.padStart(9)}${'p99'.padStart(9)}${'work p50'.padStart(10)}${'p99'.padStart(9)}   (ms)`,
  ];
  for (const [stage, { pool, waits, work }] of byStage) {
    const wait = latencies(waits);
    const done = latencies(work);
    lines.push(
      `${stage.padEnd(10)}${pool.padEnd(7)}${cell(wait.p50)}${cell(wait.p99)} ${cell(done.p50)}${cell(done.p99)}`,
    );
  }
  return lines.join('\n');
}

/** What is wrong with the pods, as the kernel and the network see them, not as the daemon says. */
async function lookAt(daemon: SluiceDaemon, ids: readonly string[], interrupted: AbortSignal): Promise<string[]> {
  const wrong: string[] = [];
  const running = processes().filter((p) => p.state !== 'Z');
  const addresses = new Set<string>();
  await phase(ids, 8, undefined, async (id) => {
    interrupted.throwIfAborted();
    const { status, info } = await daemon.cri.podSandboxStatus({ podSandboxId: id, verbose: true });
    const name = status?.metadata?.name ?? id;
    const address = status?.network?.ip ?? '';
    const details = JSON.parse(info.info ?? '{}') as {
      pid?: number;
      runtimeSpec?: { linux?: { namespaces?: { type: string; path?: string }[] } };
    };
    const netns = details.runtimeSpec?.linux?.namespaces?.find((ns) => ns.type === 'network')?.path ?? '';
    if (netns === '' || !existsSync(netns)) wrong.push(`${name}: no namespace at "${netns}"`);
    else if (statfsSync(netns).type !== NSFS) wrong.push(`${name}: ${netns} is no namespace`);
    else if (!pinned && readlinkSync(`/proc/${details.pid}/ns/net`) !== `net:[${statSync(netns).ino}]`) {
      wrong.push(`${name}: process ${details.pid} is not in ${netns}`);
    }
    if (addresses.has(address)) wrong.push(`${name}: ${address} is another pod's too`);
    addresses.add(address);
    const ping = await run('ping', ['-c', '1', '-W', '3', address], { check: false });
    if (ping.code !== 0) wrong.push(`${name}: ${address || 'no address'} does not answer a ping`);
    const shim = running.some((p) => p.command.includes('shim') && p.command.includes(id));
    if (shim === pinned) wrong.push(`${name}: ${pinned ? 'a shim without a container' : 'no shim'}`);
  });
  return wrong;
}

/** What the store still has. Read with the daemon ended, by a connection of our own. */
function rowsLeft(daemon: SluiceDaemon): string[] {
  const left: string[] = [];
  const files = readdirSync(daemon.root, { recursive: true, encoding: 'utf8' });
  const databases = files.filter((file) => {
    const path = join(daemon.root, file);
    return statSync(path).isFile() && readFileSync(path).subarray(0, 15).toString() === 'SQLite format 3';
  });
  if (databases.length === 0) left.push(`no database below ${daemon.root}`);
  for (const file of databases) {
    readBeside(join(daemon.root, file), (db) => {
      for (const table of ['sandboxes', 'containers']) {
        const { n } = db.prepare(`SELECT count(*) AS n FROM ${table}`).get() as { n: number };
        if (n > 0) left.push(`${plural(n, 'row')} in ${table}`);
      }
    });
  }
  return left;
}

if (process.getuid?.() !== 0) fail('needs root: it makes namespaces and mounts');
const interrupt = new AbortController();
// Not `once`: a second signal must not end the process before everything is taken away.
handlesSignalsItself();
process.on('SIGINT', () => interrupt.abort(new Error('interrupted')));
process.on('SIGTERM', () => interrupt.abort(new Error('interrupted')));

say(`What this does to the machine: it starts a daemon of its own, with its files in a new folder below ${tmpdir()} and its metrics on a free
port of loopback, and makes ${plural(pods, 'pod')}: a network namespace and a pair of links each, one bridge, iptables rules that are named after
that bridge, and cgroups below one of its own. All of it is taken away at the end, also after Ctrl-C. No containerd, docker or CNI
configuration that is here is read or touched.
`);
const wrong: string[] = [];
let bridgeGone = false;
const daemon = await startSluice({
  builtinNetwork: true,
  config: { log: { level: 'info' }, runtimes: { runc: { sandbox_mode: mode } } },
});
try {
  const shown = await demo(daemon, interrupt.signal);
  wrong.push(...shown.wrong);
  await daemon.assertNothingLeft().catch((error: Error) => wrong.push(error.message));
  const status = await daemon.stop();
  if (status !== 0) wrong.push(`SIGTERM ended the daemon with ${status}, not with status 0`);
  wrong.push(...rowsLeft(daemon));
  await closeUplink(daemon.network.bridge);
  bridgeGone = true;
  if (existsSync(`/sys/class/net/${daemon.network.bridge}`)) wrong.push(`the bridge ${daemon.network.bridge} is left`);
  const tables = (await run('iptables-save', [])).stdout.split('\n');
  for (const rule of tables) if (rule.includes(daemon.network.bridge)) wrong.push(`the rule ${rule} is left`);
  for (const p of processesOf(daemon.folder)) wrong.push(`process ${p.pid} is left: ${p.command}`);
  if (wrong.length === 0)
    say('Nothing left: namespaces, links, bridge, addresses, mounts, cgroups, processes, iptables rules, rows');
  if (values.beside === 'containerd') await beside(shown.launched, interrupt.signal);
} catch (error) {
  wrong.push(error instanceof Error ? error.message : String(error));
  if (interrupt.signal.aborted) say('\nInterrupted: taking everything away');
  else console.error(`\nthe daemon's last words:\n${daemon.log().split('\n').slice(-15).join('\n')}`);
} finally {
  await daemon[Symbol.asyncDispose]();
  if (!bridgeGone) await closeUplink(daemon.network.bridge);
}
if (values.report !== undefined && figures) {
  writeFileSync(values.report, reportPage({ ...figures, wrong }));
  say(`The report is in ${values.report}`);
}
for (const line of wrong) console.error(`demo: ${line}`);
process.exitCode = wrong.length > 0 ? 1 : 0;

import { explain } from '../../errors.ts';
import type { Config } from '../../node/config/config.ts';
import { loadConfig } from '../../node/config/load.ts';
import type { Finding } from '../../node/doctor/finding.ts';
import { examineMachine } from '../../node/doctor/machine.ts';
import { findLeaks, nameOf, networkGarbage, placesOf, readOwners } from '../../node/leaks/leaks.ts';
import type { Resource } from '../../workers/leaks/find.ts';
import { REMOVAL_ORDER, removeResource } from '../../workers/leaks/remove.ts';
import { type Command, type Output, PEER_OPTIONS, useColor } from './command.ts';
import { painter } from './gantt-text.ts';

/** Where the text goes. */
interface Out {
  write(text: string): unknown;
}

const MARKS = { good: 'ok  ', poor: 'poor', bad: 'BAD ' } as const;
const COLORS = { good: [], poor: ['yellow'], bad: ['red', 'bold'] } as const;

/** `sluice doctor`: prints what the machine lacks for this configuration. Returns 1 when pods cannot run. */
export async function doctor(config: Config, out: Output, json: boolean): Promise<number> {
  const unsorted = await examineMachine(config);
  const areas = [...new Set(unsorted.map(({ area }) => area))];
  const findings = areas.flatMap((area) => unsorted.filter((one) => one.area === area));
  if (json) out.write(`${JSON.stringify(findings, undefined, 2)}\n`);
  else for (const line of lines(findings, painter(useColor(out)))) out.write(`${line}\n`);
  return findings.some(({ state }) => state === 'bad') ? 1 : 0;
}

function lines(findings: readonly Finding[], paint: ReturnType<typeof painter>): string[] {
  const width = Math.max(...findings.map(({ what }) => what.length));
  const counts = { good: 0, poor: 0, bad: 0 };
  let area = '';
  const text = findings.flatMap((one) => {
    counts[one.state]++;
    const head = one.area === area ? [] : [one.area];
    area = one.area;
    const advice = one.advice ? [`       ${' '.repeat(width)}  → ${one.advice}`] : [];
    return [
      ...head,
      `  ${paint(MARKS[one.state], ...COLORS[one.state])} ${one.what.padEnd(width)}  ${one.found}`,
      ...advice,
    ];
  });
  return [...text, `${counts.good} good, ${counts.poor} poor, ${counts.bad} bad`];
}

/**
 * `sluice doctor --leaks [--fix]`: what the daemon of this configuration has made and no row of its store names, beside
 * the daemon or without it. `fix` takes it away, what uses a thing before the thing; but nothing while a shim without a
 * row runs, which may be a pod whose row was lost with the store, unless `kill` says that it may be ended. Returns 1
 * when something is left.
 */
export async function doctorLeaks(
  config: Config,
  out: Out,
  { fix, kill, json }: { fix: boolean; kill: boolean; json: boolean },
): Promise<number> {
  const leaks = await findLeaks(placesOf(config), () => readOwners(config.root));
  const running = leaks.filter(({ kind }) => kind === 'shim');
  const remove = fix && (kill || running.length === 0);
  const results: { leak: Resource; done: boolean; failed?: string }[] = [];
  for (const leak of leaks.toSorted((a, b) => rank(a) - rank(b))) {
    if (!remove) {
      results.push({ leak, done: false });
      continue;
    }
    try {
      const { bin_dirs: binDirs, cache_dir: cacheDir, timeout_seconds: seconds } = config.cni;
      await removeResource(leak, { cni: { binDirs, cacheDir, timeoutMs: seconds * 1000 } });
      results.push({ leak, done: true });
    } catch (error) {
      results.push({ leak, done: false, failed: explain(error) });
    }
  }
  const network = await lookAtNetwork(config, remove);
  const left = [...results, ...network].filter(({ done }) => !done);
  if (json) {
    const all = [...results.map(({ leak, ...how }) => ({ ...leak, ...how })), ...network];
    out.write(`${JSON.stringify(all, undefined, 2)}\n`);
    return left.length === 0 ? 0 : 1;
  }
  for (const { leak, done, failed } of results) {
    out.write(
      `${nameOf(leak)}: no row names ${leak.owner.slice(0, 64)}${done ? ', removed' : failed ? `, stays: ${failed}` : ''}\n`,
    );
  }
  for (const { what, done, failed } of network) {
    out.write(failed ? `${what}: ${failed}\n` : `${what}: no attachment has it${done ? ', given back' : ''}\n`);
  }
  if (fix && !remove) {
    out.write(`nothing is removed: ${running.length} shims without a row run, perhaps with pods; --kill ends them\n`);
  }
  const count = results.length + network.length;
  out.write(count === 0 ? 'nothing without an owner\n' : `${count} without an owner, ${left.length} left\n`);
  return left.length === 0 ? 0 : 1;
}

/** What the pods' network has given out and no attachment has; after the leaks, whose removal gives addresses back. */
async function lookAtNetwork(
  config: Config,
  fix: boolean,
): Promise<{ kind: string; what: string; done: boolean; failed?: string }[]> {
  try {
    return (await networkGarbage(config, { fix })).map((what) => ({ kind: 'network', what, done: fix }));
  } catch (error) {
    return [{ kind: 'network', what: 'the network cannot be looked through', done: false, failed: explain(error) }];
  }
}

const rank = ({ kind }: Resource) => REMOVAL_ORDER.indexOf(kind);

export const DOCTOR: Command = {
  name: 'doctor',
  summary: 'what this machine lacks for the configuration, and what a daemon has left behind',
  description:
    'Looks at kernel features, cgroups, capabilities, plugins, runtimes, shims, sysctls and limits. Status 1 when pods cannot run. With --leaks: what the daemon made and no row of its store names, and what the pods’ network has given out to nobody; status 1 when something is left.',
  options: [
    { flags: '--leaks', description: 'search for what no row of the store names' },
    {
      flags: '--fix',
      description: 'with --leaks: remove what is provably this daemon’s, unless shims without a row run',
    },
    { flags: '--kill', description: 'with --fix: end such shims, with their pods, and remove everything' },
    PEER_OPTIONS.config,
  ],
  json: true,
  run({ options, out }) {
    const config = loadConfig(typeof options.config === 'string' ? options.config : undefined);
    const json = options.json === true;
    if (options.leaks)
      return doctorLeaks(config, out, { fix: options.fix === true, kill: options.kill === true, json });
    return doctor(config, out, json);
  },
};

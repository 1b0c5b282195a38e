/**
 * A storm of kills with a ledger. In rounds: actors launch, run, stop and remove pods and containers side by side; the
 * daemon is ended by SIGKILL, at a random moment or before or after a stage of a job; it is started again and compared
 * with the ledger. At the end everything is removed, and nothing may be left.
 */
import { chmodSync, cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { JOB_TABLES } from '../../src/pipeline/jobs/tables/all.ts';
import { inventory } from '../faults/lab.ts';
import { removePods } from '../rig/cri.ts';
import { type SluiceDaemon, startSluice } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, imageSpec, podConfig } from '../rig/messages.ts';
import { cniBinDirs, privateFolder } from '../rig/paths.ts';
import { pss, waitFor } from '../rig/proc.ts';
import { Actor, HANDLERS, type Scene } from './actor.ts';
import { type KillPoint, killAt } from './kill-points.ts';
import { compare } from './ledger.ts';
import { type Random, seeded } from './random.ts';

export interface StormOptions {
  kills: number;
  /** The storm goes on until so many kills were at a point of a table, up to three times `kills`. */
  points?: number;
  /** Actors, each with a pod of its own. */
  parallel: number;
  seed: number;
  /** Number of the network; see the rig. */
  index: number;
  /** Of the pods, see {@link HANDLERS}. */
  handlers: readonly string[];
  /** CNI plugins take up to 0.4 s more, so that they often outlive the daemon that started them. */
  slowPlugins: boolean;
  /** Milliseconds from the first request of a round to a kill at a random moment, at most. */
  longestMs: number;
  /** Called after each round. */
  onRound?: (round: Round) => void;
}

export interface Round {
  number: number;
  /** What ended the daemon. */
  how: string;
  /** Seconds from the start of the next daemon until it served. */
  restart: number;
  problems: string[];
}

export interface Outcome {
  kills: number;
  /** Points of the tables at which a daemon ended itself, of how many there are. */
  points: { reached: number; all: number };
  counts: Scene['counts'];
  /** Promises that were not kept, and requests that failed though the daemon lived. */
  problems: string[];
  /** What was there at the end and not at the beginning. */
  left: string[];
  restarts: number[];
  /** Proportional set size of the last daemon, with no pod left, in bytes. */
  pssBytes: number;
}

const IMAGE = 'docker.io/library/busybox:latest';
const OTHERS = ['1', '2', '3'].map((n) => `registry.k8s.io/k8s-staging-cri-tools/test-image-${n}:latest`);
/** Milliseconds that a round may take to reach its kill point; then the daemon is ended from outside. */
const REACH_MS = 2500;
const LOG_KEPT = '/tmp/sluice-storm';

/** Before and after every stage and undo of every job. */
export function allKillPoints(random: Random): KillPoint[] {
  const points = JOB_TABLES.flatMap((table) =>
    table.stages.flatMap(({ name, undo }) => {
      const moments = ['stageStarted', 'stageEnded', ...(undo ? (['undoStarted', 'undoEnded'] as const) : [])] as const;
      return moments.map((moment) => ({ job: table.name, stage: name, moment, after: 0 }));
    }),
  );
  return random.shuffle(points).map((point) => ({ ...point, after: random.between(0, 3) }));
}

export async function storm(options: StormOptions): Promise<Outcome> {
  const random = seeded(options.seed);
  const folder = privateFolder('sluice-storm');
  const env: NodeJS.ProcessEnv = {};
  const registry = await imageRegistry(folder);
  try {
    await using daemon = await startSluice({
      registry,
      index: options.index,
      env,
      prepare: async (place, network) => {
        const bin = join(place, 'plugins');
        mkdirSync(bin);
        if (options.slowPlugins) slowDown(bin, ['bridge', 'portmap']);
        return {
          cni: { bin_dirs: [bin, ...network.binDirs] },
          runtimes: Object.fromEntries(Object.entries(HANDLERS).filter(([name]) => name !== '')),
        };
      },
    });
    return await run({ daemon, options, random, env, folder });
  } finally {
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Plugins of the same names that sleep first. */
function slowDown(bin: string, plugins: string[]): void {
  for (const name of plugins) {
    const [real] = cniBinDirs();
    const path = join(bin, name);
    const pause = `[ "$CNI_COMMAND" = VERSION ] || sleep 0.$(( $$ % 5 ))`;
    writeFileSync(path, `#!/bin/sh\n${pause}\nexec ${join(real ?? '/opt/cni/bin', name)}\n`);
    chmodSync(path, 0o755);
  }
}

interface Running {
  daemon: SluiceDaemon;
  options: StormOptions;
  random: Random;
  env: NodeJS.ProcessEnv;
  folder: string;
}

async function run({ daemon, options, random, env, folder }: Running): Promise<Outcome> {
  const { cri } = daemon;
  await warmUp(daemon);
  const before = inventory(daemon);
  const all = allKillPoints(random);
  const outcome: Outcome = {
    kills: 0,
    points: { reached: 0, all: all.length },
    counts: { launches: 0, containers: 0, removals: 0, pulls: 0 },
    problems: [],
    left: [],
    restarts: [],
    pssBytes: 0,
  };
  let alive = true;
  let round: Round = { number: 0, how: '', restart: 0, problems: [] };
  const scene: Scene = {
    cri,
    folder,
    cgroupParent: daemon.cgroupParent,
    image: IMAGE,
    handlers: options.handlers,
    others: OTHERS,
    random,
    pods: new Set(),
    removed: new Set(),
    counts: outcome.counts,
    alive: () => alive,
    report: (problem) => round.problems.push(problem),
  };
  const actors = Array.from({ length: options.parallel }, (_, number) => new Actor(scene, number));
  const points = [...all];
  let point: KillPoint | undefined;
  const goesOn = () => outcome.points.reached < (options.points ?? 0) && outcome.kills < 3 * options.kills;
  while (outcome.kills < options.kills || goesOn()) {
    round = { number: round.number + 1, how: '', restart: 0, problems: [] };
    const end = new AbortController();
    const busy = actors.map((actor) => act(actor, daemon, end.signal, scene.report));
    const limit = point ? REACH_MS : random.between(10, options.longestMs);
    const alone = await Promise.race([daemon.ended(), sleep(limit)]);
    const reached = alone !== undefined ? point : undefined;
    round.how = reached ? nameOf(reached) : `a random moment (${limit} ms)`;
    if (alone !== undefined && alone !== 'SIGKILL') scene.report(`the daemon ended by itself: ${alone}`);
    end.abort();
    alive = false;
    await daemon.stop('SIGKILL');
    outcome.kills++;
    if (reached) outcome.points.reached++;
    await Promise.all(busy);

    // Every other round ends at a point of a table, as long as there are any.
    point = random.chance(0.6) ? points.pop() : undefined;
    for (;;) {
      Object.assign(env, killAt(point));
      const began = performance.now();
      try {
        await daemon.start();
        round.restart = (performance.now() - began) / 1000;
        alive = true;
        await compare(cri, scene.pods, scene.removed, scene.report);
        break;
      } catch (error) {
        // A point in an undo is reached while the daemon recovers.
        const gone = await Promise.race([daemon.ended(), sleep(500)]);
        if (!point || gone !== 'SIGKILL') throw error;
        outcome.kills++;
        outcome.points.reached++;
        round.how += `, then ${nameOf(point)}`;
        point = undefined;
      }
    }
    outcome.restarts.push(round.restart);
    outcome.problems.push(...round.problems.map((problem) => `round ${round.number}, ${round.how}: ${problem}`));
    // At once, for whoever ends the storm early.
    if (round.problems.length > 0) keepLog(daemon, options.seed);
    options.onRound?.(round);
  }
  await clearAway(daemon, env);
  for (const reference of OTHERS) await cri.removeImage({ image: imageSpec(reference) });
  outcome.left = await leftOver(daemon, before);
  outcome.pssBytes = pss(daemon.pid());
  if (outcome.problems.length + outcome.left.length > 0) {
    outcome.problems.push(`the daemon's log is in ${keepLog(daemon, options.seed)}`);
  }
  return outcome;
}

function keepLog({ folder }: SluiceDaemon, seed: number): string {
  const kept = `${LOG_KEPT}-${seed}.log`;
  cpSync(join(folder, 'log'), kept);
  return kept;
}

const nameOf = ({ job, stage, moment, after }: KillPoint) => `${job} ${stage} ${moment} (${after + 1}.)`;

/** One actor until the daemon dies. A request that fails while it lives is a problem. */
async function act(actor: Actor, daemon: SluiceDaemon, end: AbortSignal, report: (problem: string) => void) {
  for (;;) {
    try {
      await actor.step();
    } catch (error) {
      const died = await Promise.race([daemon.ended().then(() => true), sleep(1000)]);
      if (!died && !end.aborted) {
        const { details } = error as { details?: string };
        report(`a request failed: ${details ?? (error instanceof Error ? error.message : error)}`);
        await sleep(200);
        continue;
      }
      return;
    }
    if (end.aborted) return;
  }
}

/** The first pod unpacks the images and makes the bridge: what stays of that was there before the storm. */
async function warmUp({ cri, cgroupParent }: SluiceDaemon): Promise<void> {
  await cri.pullImage({ image: imageSpec(IMAGE) });
  const sandboxConfig = podConfig('warm-up', { cgroupParent });
  const { podSandboxId } = await cri.runPodSandbox({ config: sandboxConfig });
  const config = containerConfig('warm-up', IMAGE, ['true']);
  const { containerId } = await cri.createContainer({ podSandboxId, config, sandboxConfig });
  await cri.startContainer({ containerId });
  await removePods(cri);
}

/** Ends the last round: a daemon that no point ends removes all pods. */
async function clearAway(daemon: SluiceDaemon, env: NodeJS.ProcessEnv): Promise<void> {
  await daemon.stop();
  Object.assign(env, killAt(undefined));
  await daemon.start();
  await removePods(daemon.cri);
}

/** Everything outside of the daemon (links, rules, mounts, processes, cgroups) and in its folders and tables. */
async function leftOver(daemon: SluiceDaemon, before: string[]): Promise<string[]> {
  const left: string[] = [];
  await daemon.assertNothingLeft(20_000).catch((error: Error) => left.push(error.message));
  const fresh = () => inventory(daemon).filter((line) => !before.includes(line));
  await waitFor('files and rows as before', 10_000, () => fresh().length === 0 || undefined).catch(() =>
    left.push(...fresh()),
  );
  return left;
}

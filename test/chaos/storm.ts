/**
 * A storm of kills with a ledger. In rounds: actors launch, run, stop and remove pods and containers side by side; the
 * daemon is ended by SIGKILL, at a random moment or before or after a stage of a job; it is started again and compared
 * with the ledger. At the end everything is removed, and nothing may be left.
 */
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { inventory } from '../faults/lab.ts';
import type { SluiceDaemon } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { privateFolder } from '../rig/paths.ts';
import { pss } from '../rig/proc.ts';
import { Actor } from './actor.ts';
import { type KillPoint, killAt } from './kill-points.ts';
import { compare } from './ledger.ts';
import { tablePoints } from './points.ts';
import { type Random, seeded } from './random.ts';
import type { Scene } from './requests.ts';
import { act, clearAway, IMAGE, keepLog, leftOver, OTHERS, pointName, stormDaemon, warmUp } from './setting.ts';

export interface StormOptions {
  kills: number;
  /** The storm goes on until so many kills were at a point of a table, up to three times `kills`. */
  points?: number;
  /** And until so many launches were acknowledged, with the same limit. */
  launches?: number;
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

/** Milliseconds that a round may take to reach its kill point; then the daemon is ended from outside. */
const REACH_MS = 2500;

/** Before and after every stage and undo of every job, in the midst of others. */
function shuffledPoints(random: Random): KillPoint[] {
  return random.shuffle(tablePoints()).map((point) => ({ ...point, after: random.between(0, 3) }));
}

export async function storm(options: StormOptions): Promise<Outcome> {
  const random = seeded(options.seed);
  const folder = privateFolder('sluice-storm');
  const env: NodeJS.ProcessEnv = {};
  const registry = await imageRegistry(folder);
  try {
    const { index, slowPlugins } = options;
    await using daemon = await stormDaemon({ registry, index, env, slowPlugins });
    return await run({ daemon, options, random, env, folder });
  } finally {
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
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
  const all = shuffledPoints(random);
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
    pods: new Set(),
    removed: new Set(),
    counts: outcome.counts,
    alive: () => alive,
    report: (problem) => round.problems.push(problem),
  };
  const choices = { image: IMAGE, handlers: options.handlers, others: OTHERS, random };
  const actors = Array.from({ length: options.parallel }, (_, number) => new Actor(scene, choices, number));
  const points = [...all];
  let point: KillPoint | undefined;
  const goesOn = () =>
    outcome.kills < 3 * options.kills &&
    (outcome.points.reached < (options.points ?? 0) || outcome.counts.launches < (options.launches ?? 0));
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
  outcome.problems.push(...(await clearAway(daemon, env, OTHERS)));
  outcome.left = await leftOver(daemon, before);
  outcome.pssBytes = pss(daemon.pid());
  if (outcome.problems.length + outcome.left.length > 0) {
    outcome.problems.push(`the daemon's log is in ${keepLog(daemon, options.seed)}`);
  }
  return outcome;
}

const nameOf = (point: KillPoint) => `${pointName(point)} (${point.after + 1}.)`;

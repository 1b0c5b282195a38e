/**
 * A walk through every point of every table. For each point a situation (situations.ts) brings the daemon there, with
 * actors beside; it ends itself at the point, is started again and compared with the ledger. A point in an undo is
 * reached twice: while a call fails, and while the next daemon takes back what a dead one had half done.
 */
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { inventory } from '../faults/lab.ts';
import type { SluiceDaemon } from '../rig/daemon.ts';
import { writableImageRegistry } from '../rig/images.ts';
import { privateFolder } from '../rig/paths.ts';
import { Actor } from './actor.ts';
import { type Failing, type KillPoint, killAt } from './kill-points.ts';
import { compare, nameOf } from './ledger.ts';
import { BROKEN, pointsAndRecoveries, UNREACHABLE } from './points.ts';
import { type Random, seeded } from './random.ts';
import { HANDLERS, removePod, type Scene, stopPod } from './requests.ts';
import { act, clearAway, IMAGE, keepLog, leftOver, OTHERS, pointName, stormDaemon, warmUp, words } from './setting.ts';
import { PULLED, pullImages, pushImages, type Situation, situationFor } from './situations.ts';

export interface WalkOptions {
  /** Actors beside the situation. */
  parallel: number;
  seed: number;
  /** Number of the network; see the rig. */
  index: number;
  /** The points to go to; all unless given. */
  points?: readonly KillPoint[];
  /** Points at the beginning of a stage or undo are up to so many milliseconds later, in the midst of it. */
  midstMs?: number;
  /** Called after each try for a point. */
  onTry?: (line: string, problems: readonly string[]) => void;
}

export interface Walked {
  reached: KillPoint[];
  missed: KillPoint[];
  kills: number;
  counts: Scene['counts'];
  problems: string[];
  left: string[];
  restarts: number[];
  /** Where the daemon's log is kept, when something was wrong. */
  log?: string;
}

const TRIES = 3;
/** Milliseconds that a situation gets to lead to its point. */
const REACH_MS = 30_000;
/** Milliseconds that the recovery gets to come to a point of its own. */
const RECOVERY_MS = 20_000;

export async function walk(options: WalkOptions): Promise<Walked> {
  const folder = privateFolder('sluice-storm');
  const env: NodeJS.ProcessEnv = {};
  const registry = await writableImageRegistry(folder);
  try {
    await pushImages(registry.address);
    await using daemon = await stormDaemon({ registry, index: options.index, env, slowPlugins: true });
    return await new Walk(daemon, env, folder, options).all();
  } finally {
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

class Walk {
  readonly #daemon: SluiceDaemon;
  readonly #env: NodeJS.ProcessEnv;
  readonly #options: WalkOptions;
  readonly #random: Random;
  readonly #scene: Scene;
  readonly #actors: Actor[];
  readonly #walked: Walked;
  #alive = true;
  #number = 0;
  #problems: string[] = [];

  constructor(daemon: SluiceDaemon, env: NodeJS.ProcessEnv, folder: string, options: WalkOptions) {
    this.#daemon = daemon;
    this.#env = env;
    this.#options = options;
    const random = seeded(options.seed);
    this.#random = random;
    const counts = { launches: 0, containers: 0, removals: 0, pulls: 0 };
    this.#walked = { reached: [], missed: [], kills: 0, counts, problems: [], left: [], restarts: [] };
    this.#scene = {
      cri: daemon.cri,
      folder,
      cgroupParent: daemon.cgroupParent,
      pods: new Set(),
      removed: new Set(),
      counts,
      alive: () => this.#alive,
      report: (problem) => this.#problems.push(problem),
    };
    const choices = { image: IMAGE, handlers: Object.keys(HANDLERS), others: OTHERS, random };
    this.#actors = Array.from({ length: options.parallel }, (_, at) => new Actor(this.#scene, choices, at));
  }

  async all(): Promise<Walked> {
    const daemon = this.#daemon;
    const walked = this.#walked;
    await warmUp(daemon);
    await pullImages(this.#scene);
    await daemon.stop();
    await daemon.start(); // with all its rows copied, which takes a running one a moment
    const before = inventory(daemon);
    await this.#kill();
    for (const point of this.#random.shuffle(this.#options.points ?? pointsAndRecoveries())) {
      if (await this.#goTo(point)) walked.reached.push(point);
      else if (!UNREACHABLE.some((one) => pointName({ ...one, after: 0 }) === pointName(point))) {
        walked.missed.push(point);
      }
    }
    walked.problems.push(...(await clearAway(daemon, this.#env, [...OTHERS, ...PULLED])));
    walked.left = await leftOver(daemon, before);
    if (walked.problems.length + walked.left.length > 0) walked.log = keepLog(daemon, this.#options.seed);
    return walked;
  }

  async #goTo(point: KillPoint): Promise<boolean> {
    for (let tries = 1; tries <= TRIES; tries++) {
      this.#problems = [];
      const number = this.#number++;
      const choice = { random: this.#random, handlers: Object.keys(HANDLERS), number };
      const situation = situationFor(point, choice);
      const broken = point.during === 'later' ? BROKEN[point.job] : undefined;
      const { midstMs } = this.#options;
      const begins = point.moment === 'stageStarted' || point.moment === 'undoStarted';
      const delayMs = begins && midstMs !== undefined ? this.#random.between(0, midstMs) : undefined;
      let reached = await this.#play({ ...(broken ?? { ...point, delayMs }), of: situation.of }, situation);
      if (reached && broken) reached = await this.#recover({ ...point, delayMs });
      const midst = delayMs === undefined ? '' : ` + ${delayMs} ms`;
      const line = `${number + 1}. ${pointName(point)}${midst} ${reached ? 'reached' : 'NOT reached'} (${situation.of})`;
      this.#walked.problems.push(...this.#problems.map((problem) => `${line}: ${problem}`));
      if (this.#problems.length > 0) keepLog(this.#daemon, this.#options.seed);
      this.#options.onTry?.(line, this.#problems);
      if (reached) return true;
    }
    return false;
  }

  /** From a dead daemon to the next: compares, plays, and waits for the death at the point. */
  async #play(point: KillPoint, { failing, play }: Situation): Promise<boolean> {
    const scene = this.#scene;
    const earlier = [...scene.pods].filter((pod) => !nameOf(pod).startsWith('storm-'));
    if (!(await this.#start(point, failing))) return false; // an earlier pod's recovery came to the point
    const end = new AbortController();
    const busy = this.#actors.map((actor) => act(actor, this.#daemon, end.signal, scene.report));
    busy.push(this.#takeAway(earlier));
    const played = this.#unlessDead(() => play(scene)).then(() => sleep(1000)); // a point may come a moment after an answer
    const died = await Promise.race([this.#daemon.ended(), played, sleep(REACH_MS)]);
    if (died !== undefined && died !== 'SIGKILL') scene.report(`the daemon ended by itself: ${died}`);
    end.abort();
    await this.#kill();
    await Promise.all([...busy, played]);
    return died === 'SIGKILL';
  }

  /** Starts a daemon that dies at a point of its recovery. */
  async #recover(point: KillPoint): Promise<boolean> {
    if (!(await this.#start(point))) return true;
    const died = await Promise.race([this.#daemon.ended(), sleep(RECOVERY_MS)]);
    await this.#kill();
    return died === 'SIGKILL';
  }

  /**
   * Resolves to whether the daemon lives after the comparison with the ledger; it may have come to its point before.
   */
  async #start(point: KillPoint, failing?: Failing): Promise<boolean> {
    const { cri, pods, removed, report } = this.#scene;
    Object.assign(this.#env, killAt(point, failing));
    const began = performance.now();
    try {
      await this.#daemon.start();
      this.#walked.restarts.push((performance.now() - began) / 1000);
      this.#alive = true;
      await compare(cri, pods, removed, report);
      return true;
    } catch (error) {
      const gone = await Promise.race([this.#daemon.ended(), sleep(1000)]);
      if (gone !== 'SIGKILL') throw error;
      this.#walked.kills++;
      this.#alive = false;
      return false;
    }
  }

  async #kill(): Promise<void> {
    this.#alive = false;
    await this.#daemon.stop('SIGKILL');
    this.#walked.kills++;
  }

  /** Pods of earlier situations. What the death of the daemon keeps is left for the next time. */
  async #takeAway(pods: Scene['pods'] extends Set<infer Pod> ? Pod[] : never): Promise<void> {
    for (const pod of pods) {
      if (!this.#scene.pods.has(pod)) continue;
      await this.#unlessDead(async () => {
        if (pod.phase === 'ready' || pod.phase === 'stopping') await stopPod(this.#scene, pod);
        await removePod(this.#scene, pod);
      });
    }
  }

  /** A request that fails while the daemon lives is a problem. */
  async #unlessDead(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      const died = await Promise.race([this.#daemon.ended().then(() => true), sleep(1000)]);
      if (!died && this.#alive) this.#scene.report(`a request failed: ${words(error)}`);
    }
  }
}

import { SluiceError } from '../../errors.ts';
import { LANES, type Lane, type Verdict } from '../../stages.ts';
import { Places } from './places.ts';

export interface AdmissionOptions {
  /** Jobs of each lane that run at once. */
  maxRunning: Record<Lane, number>;
  maxQueued: number;
  /**
   * Milliseconds after which a job that still runs gives its place back, see {@link Places}; by lane, left out: never.
   */
  leaseMs?: Partial<Record<Lane, number>>;
  onVerdict?: (lane: Lane, verdict: Verdict) => void;
  /** Called when a job of this lane begins to run; what it returns is disposed when the job ends. */
  onRun?: (lane: Lane) => Disposable | undefined;
}

export interface Admit {
  lane: Lane;
  /** Higher goes first; equal ones keep their order. */
  priority: number;
  /** Aborts when nobody waits for the job any more; it counts only as long as the job is queued. */
  abandoned?: AbortSignal;
}

/** Why a caller no longer waits, as the abort reason of its signal. */
export type CallerLeft = 'deadline' | 'cancelled';

/**
 * The bounded entrance of the pipeline. A job is refused before it is queued when as many wait as may; a queued job
 * that nobody waits for any more is dropped before any work. Once running, a job is never taken back.
 */
export class Admission {
  readonly #lanes: Record<Lane, Places>;
  readonly #options: AdmissionOptions;
  #maxQueued: number;
  #refused = 0;
  #closed = false;
  #admitted = 0;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#maxQueued = options.maxQueued;
    const lane = (name: Lane) => new Places({ limit: options.maxRunning[name], leaseMs: options.leaseMs?.[name] });
    this.#lanes = { launch: lane('launch'), teardown: lane('teardown'), image: lane('image') };
  }

  /** Jobs that were refused since the start because the queue was full. */
  get refused(): number {
    return this.#refused;
  }

  /** Other limits from now on. What runs or waits goes on, also above a lower limit. */
  setLimits({ maxRunning, maxQueued }: Pick<AdmissionOptions, 'maxRunning' | 'maxQueued'>): void {
    for (const lane of LANES) this.#lanes[lane].limit = maxRunning[lane];
    this.#maxQueued = maxQueued;
  }

  /**
   * Throws QUEUE_FULL when as many jobs of the lane wait as may: what a job needs need not be prepared then. Costs next
   * to nothing, as it is what thousands of calls in a second get. Once closed, `run` has another answer.
   */
  refuseWhenFull(lane: Lane): void {
    const { full, running, queued } = this.#lanes[lane];
    if (this.#closed || !full || queued < this.#maxQueued) return;
    this.#options.onVerdict?.(lane, 'refused');
    this.#refused++;
    throw SluiceError.withoutStack(
      'QUEUE_FULL',
      `the ${lane} queue is full: ${running} running, ${queued} queued (max_queued ${this.#maxQueued})`,
    );
  }

  /**
   * Runs `work` when its turn comes. Rejects with QUEUE_FULL, SHUTTING_DOWN, DEADLINE_PASSED or CALLER_GONE without
   * having run it.
   */
  async run<T>({ lane, priority, abandoned }: Admit, work: () => Promise<T>): Promise<T> {
    const queue = this.#lanes[lane];
    const verdict = (v: Verdict) => this.#options.onVerdict?.(lane, v);
    if (this.#closed) throw new SluiceError('SHUTTING_DOWN', 'the daemon is shutting down');
    this.refuseWhenFull(lane);
    if (queue.full) verdict('queued');
    // p-queue would reject the running job too when its signal aborts, so the queue gets one that is cut off at the
    // start.
    const queued = new AbortController();
    const drop = () => queued.abort(abandoned?.reason);
    abandoned?.addEventListener('abort', drop, { once: true });
    if (abandoned?.aborted) drop();
    try {
      return await queue.add(
        async () => {
          abandoned?.removeEventListener('abort', drop);
          this.#admitted++;
          verdict('admitted');
          using _ = this.#options.onRun?.(lane);
          return await work();
        },
        { priority, signal: queued.signal },
      );
    } catch (error) {
      if (!queued.signal.aborted) throw error;
      const late = queued.signal.reason === ('deadline' satisfies CallerLeft);
      verdict(late ? 'expired' : 'gone');
      throw late
        ? new SluiceError('DEADLINE_PASSED', `the caller's deadline passed while the job waited in the ${lane} queue`)
        : new SluiceError('CALLER_GONE', `the caller left while the job waited in the ${lane} queue`);
    } finally {
      abandoned?.removeEventListener('abort', drop);
    }
  }

  /** Jobs admitted so far. */
  get admitted(): number {
    return this.#admitted;
  }

  /** Jobs running and waiting, by lane. */
  get use(): Record<Lane, { running: number; queued: number; limit: number }> {
    const of = (lane: Lane) => {
      const { running, queued, limit } = this.#lanes[lane];
      return { running, queued, limit };
    };
    return { launch: of('launch'), teardown: of('teardown'), image: of('image') };
  }

  /** Takes no job any more, and resolves when those that run or wait have ended. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(LANES.map((lane) => this.#lanes[lane].idle()));
  }
}

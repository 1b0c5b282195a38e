import type { JobName } from '../../stages.ts';
import type { JobRecord, JobRun } from './job-record.ts';

/** The last `size` of something, in a circle. */
class Ring<T> {
  readonly #items: T[] = [];
  readonly #size: number;
  #next = 0;

  constructor(size: number) {
    this.#size = size;
  }

  add(item: T): void {
    this.#items[this.#next] = item;
    this.#next = (this.#next + 1) % this.#size;
  }

  /** Newest first. */
  *newest(): Generator<T> {
    for (let i = 1; i <= this.#items.length; i++) {
      const item = this.#items[(this.#next - i + this.#size) % this.#size];
      if (item !== undefined) yield item;
    }
  }
}

export interface LaunchFilter {
  /** Only this job; default all. Of RunPodSandbox, only real launches, not clean-ups that run its table backwards. */
  job?: JobName;
  /** Part of "namespace/name", or beginning of a sandbox, container or request id. */
  match?: string;
  /** Only jobs that ended after this: milliseconds since the epoch. */
  since?: number;
  limit?: number;
}

/**
 * The last launches and the jobs in flight, for `sluice trace` and `sluice top`. Pod launches have a ring of their own so that
 * the other jobs, several to each pod, do not push them out. About 3 KB each.
 */
export class Launches {
  readonly #pods: Ring<JobRecord>;
  readonly #others: Ring<JobRecord>;
  readonly #running = new Set<JobRecord>();

  constructor(size = 1000) {
    this.#pods = new Ring(size);
    this.#others = new Ring(size);
  }

  add(record: JobRecord): void {
    this.#running.add(record);
  }

  ended(record: JobRecord): void {
    this.#running.delete(record);
    const launch = record.job === 'RunPodSandbox' && (record.origin ?? 'call') === 'call';
    (launch ? this.#pods : this.#others).add(record);
  }

  /** Jobs running or queued now, oldest first. */
  get running(): JobRecord[] {
    return [...this.#running];
  }

  /** Those in flight first, then the ended ones, newest first. */
  find({ job, match, since, limit = 100 }: LaunchFilter): JobRecord[] {
    const found: JobRecord[] = [];
    const fits = (record: JobRecord) =>
      (job === undefined || record.job === job) &&
      (since === undefined || endOf(record) > since) &&
      (match === undefined || matches(record, match));
    for (const source of [since === undefined ? this.running.reverse() : [], this.#ended(job)]) {
      for (const record of source) {
        if (found.length >= limit) return found;
        if (fits(record)) found.push(record);
      }
    }
    return found;
  }

  #ended(job: JobName | undefined): Iterable<JobRecord> {
    if (job === 'RunPodSandbox') return this.#pods.newest();
    if (job !== undefined) return this.#others.newest();
    return [...this.#pods.newest(), ...this.#others.newest()].sort((a, b) => endOf(b) - endOf(a));
  }
}

const endOf = (record: JobRecord) => record.at + (record.ended ?? 0);

function matches({ id, pod, sandbox, container, image }: JobRun, text: string): boolean {
  return (
    id.startsWith(text) ||
    (sandbox?.startsWith(text) ?? false) ||
    (container?.startsWith(text) ?? false) ||
    (pod?.includes(text) ?? false) ||
    (image?.includes(text) ?? false)
  );
}

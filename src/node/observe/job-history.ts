import type { JobName } from '../../stages.ts';
import { endOf, type JobRecord, type JobRun } from './job-record.ts';

/** Ring buffer of the last `size` items. */
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

  /** The items, newest first. */
  *newest(): Generator<T> {
    for (let i = 1; i <= this.#items.length; i++) {
      const item = this.#items[(this.#next - i + this.#size) % this.#size];
      if (item !== undefined) yield item;
    }
  }
}

interface JobFilter {
  /** Only this job; all by default. For RunPodSandbox without recoveries and clean-ups, which run its undos. */
  job?: JobName;
  /** Part of "namespace/name" or of the image, or beginning of a sandbox, container or request id. */
  match?: string;
  /** Only jobs that ended after this time, in milliseconds since the epoch. */
  since?: number;
  limit?: number;
}

/**
 * Records of running and ended jobs, for `sluice trace` and `sluice top`. Pod launches have a ring buffer of their own,
 * because each pod has several other jobs, which would displace them. A record takes about 3 KB.
 */
export class JobHistory {
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

  /** The jobs that run or are queued, oldest first. */
  get running(): JobRecord[] {
    return [...this.#running];
  }

  /** The jobs that fit the filter: those in flight first, then the ended ones; each part newest first. */
  find({ job, match, since, limit = 100 }: JobFilter): JobRecord[] {
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

function matches({ id, pod, sandbox, container, image }: JobRun, text: string): boolean {
  return (
    id.startsWith(text) ||
    (sandbox?.startsWith(text) ?? false) ||
    (container?.startsWith(text) ?? false) ||
    (pod?.includes(text) ?? false) ||
    (image?.includes(text) ?? false)
  );
}

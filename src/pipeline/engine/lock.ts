import { LOCKS, type LockKind } from '../../stages.ts';

export type LockMode = 'shared' | 'exclusive';

/** Holders and waiters of one key. */
interface Entry {
  shared: number;
  exclusive: boolean;
  waiting: { exclusive: boolean; wake: () => void }[];
}

/**
 * Locks by key, shared or exclusive, first come first served. Jobs on containers share their pod's lock; a job that
 * stops or removes the pod holds it exclusively, so that no container is made in a pod that is going away.
 */
export class Locks {
  readonly #entries = new Map<string, Entry>();
  readonly #waiting = Object.fromEntries(LOCKS.map((kind) => [kind, 0])) as Record<LockKind, number>;
  readonly #onTaken: (kind: LockKind, mode: LockMode, seconds: number) => void;

  /** `onTaken` receives how long each lock was waited for. */
  constructor(onTaken: (kind: LockKind, mode: LockMode, seconds: number) => void = () => {}) {
    this.#onTaken = onTaken;
  }

  /** How many wait now. */
  get waiting(): Readonly<Record<LockKind, number>> {
    return this.#waiting;
  }

  /** Takes the lock, waiting as long as others hold it. Disposing of the result releases it. */
  async take(kind: LockKind, key: string, mode: LockMode): Promise<Disposable> {
    const began = performance.now();
    const exclusive = mode === 'exclusive';
    let entry = this.#entries.get(key);
    if (!entry) {
      entry = { shared: 0, exclusive: false, waiting: [] };
      this.#entries.set(key, entry);
    }
    const held = entry;
    if (held.waiting.length > 0 || held.exclusive || (exclusive && held.shared > 0)) {
      this.#waiting[kind]++;
      await new Promise<void>((wake) => held.waiting.push({ exclusive, wake }));
      this.#waiting[kind]--;
    } else this.#grant(held, exclusive);
    this.#onTaken(kind, mode, (performance.now() - began) / 1000);
    return { [Symbol.dispose]: () => this.#release(key, held, exclusive) };
  }

  /** Is it held exclusively now? */
  held(key: string): boolean {
    return this.#entries.get(key)?.exclusive ?? false;
  }

  #grant(entry: Entry, exclusive: boolean): void {
    if (exclusive) entry.exclusive = true;
    else entry.shared++;
  }

  #release(key: string, entry: Entry, exclusive: boolean): void {
    if (exclusive) entry.exclusive = false;
    else entry.shared--;
    for (let next = entry.waiting[0]; next; next = entry.waiting[0]) {
      if (entry.exclusive || (next.exclusive && entry.shared > 0)) return;
      entry.waiting.shift();
      this.#grant(entry, next.exclusive);
      next.wake();
    }
    if (entry.shared === 0 && !entry.exclusive) this.#entries.delete(key);
  }
}

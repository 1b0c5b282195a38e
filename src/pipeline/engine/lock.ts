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

  /** Takes the lock, waiting as long as others hold it. Disposing of the result releases it. */
  async take(key: string, mode: 'shared' | 'exclusive'): Promise<Disposable> {
    const exclusive = mode === 'exclusive';
    let entry = this.#entries.get(key);
    if (!entry) {
      entry = { shared: 0, exclusive: false, waiting: [] };
      this.#entries.set(key, entry);
    }
    const held = entry;
    if (held.waiting.length > 0 || held.exclusive || (exclusive && held.shared > 0)) {
      await new Promise<void>((wake) => held.waiting.push({ exclusive, wake }));
    } else this.#grant(held, exclusive);
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

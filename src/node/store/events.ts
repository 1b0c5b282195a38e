import { SluiceError } from '../../errors.ts';

/** Something that happened to a pod or container; for a pod both ids are its own, as in containerd. */
export interface LifecycleEvent {
  type: 'created' | 'started' | 'stopped' | 'deleted';
  containerId: string;
  sandboxId: string;
  /** Nanoseconds since the epoch. */
  at: bigint;
}

/** Events that one subscriber may be behind before it is dropped. */
const MAX_BACKLOG = 1000;

/**
 * Life cycle events, in order, to any number of subscribers. Publishing costs a push per subscriber and never waits:
 * one that does not keep up is cut off (kubelet connects again and relists), so that a stuck stream cannot slow a
 * launch.
 */
export class Events {
  readonly #subscribers = new Set<{ queue: LifecycleEvent[]; wake: () => void; dropped: boolean }>();
  readonly #now: () => bigint;
  readonly #onDrop: (events: number) => void;
  #closed = false;

  /** `onDrop` is called for each subscriber that was cut off, with the number of events it did not get. */
  constructor(now: () => bigint, onDrop: (events: number) => void) {
    this.#now = now;
    this.#onDrop = onDrop;
  }

  get subscribers(): number {
    return this.#subscribers.size;
  }

  publish(type: LifecycleEvent['type'], containerId: string, sandboxId: string): void {
    if (this.#subscribers.size === 0) return;
    const event = { type, containerId, sandboxId, at: this.#now() };
    for (const subscriber of this.#subscribers) {
      if (subscriber.queue.length >= MAX_BACKLOG) {
        subscriber.dropped = true;
        this.#subscribers.delete(subscriber);
        this.#onDrop(subscriber.queue.length + 1);
      } else subscriber.queue.push(event);
      subscriber.wake();
    }
  }

  /**
   * Ends every subscription, now and from now on, once it has what waits for it: a daemon that ends keeps no stream
   * open.
   */
  close(): void {
    this.#closed = true;
    for (const subscriber of this.#subscribers) subscriber.wake();
  }

  /**
   * Events from now on, until the signal aborts or {@link close} is called. Throws QUEUE_FULL, without the events that
   * wait, once the subscriber is cut off.
   */
  async *subscribe(signal: AbortSignal): AsyncGenerator<LifecycleEvent> {
    const subscriber = { queue: [] as LifecycleEvent[], wake: () => {}, dropped: false };
    this.#subscribers.add(subscriber);
    const end = () => subscriber.wake();
    signal.addEventListener('abort', end, { once: true });
    try {
      while (!signal.aborted && !subscriber.dropped) {
        const event = subscriber.queue.shift();
        if (event) yield event;
        else if (this.#closed) break;
        else
          await new Promise<void>((wake) => {
            subscriber.wake = wake;
          });
      }
      if (subscriber.dropped) {
        throw new SluiceError('QUEUE_FULL', `the subscriber was more than ${MAX_BACKLOG} events behind`);
      }
    } finally {
      signal.removeEventListener('abort', end);
      this.#subscribers.delete(subscriber);
    }
  }
}

import { SluiceError } from '../../errors.ts';
import { ContainerIo, type IoEvents, removeFifos } from './container-io.ts';
import type { OutputJournal } from './journal.ts';
import type { IoRegistration, IoStats } from './protocol.ts';

export interface IoTableEvents extends IoEvents {
  /** Called with the read ends of a container that was added; its `open` resolves after it. */
  onOpened(descriptors: number[]): Promise<void>;
  /** Called when the last container was removed. */
  onEmpty(): void;
}

/** The IO of all containers that this thread serves. */
export class IoTable {
  readonly #events: IoTableEvents;
  readonly #journal: OutputJournal | undefined;
  readonly #containers = new Map<string, Promise<ContainerIo>>();
  /** The opened ones, for synchronous reads. */
  readonly #open = new Map<string, ContainerIo>();
  /** Totals of the containers that were closed. */
  readonly #closed = { bytes: 0, entries: 0 };

  /** Without a journal, what a killed daemon had read and not written yet is lost. */
  constructor(events: IoTableEvents, journal: OutputJournal | undefined) {
    this.#events = events;
    this.#journal = journal;
  }

  /** Makes missing FIFOs and starts reading. Idempotent per container. */
  async open(registration: IoRegistration): Promise<void> {
    const { id } = registration;
    let opening = this.#containers.get(id);
    if (!opening) {
      opening = ContainerIo.open(registration, this.#events, this.#journal);
      this.#containers.set(id, opening);
      opening.then(
        (io) => {
          if (this.#containers.get(id) === opening) this.#open.set(id, io);
        },
        () => this.#containers.delete(id),
      );
    }
    await this.#events.onOpened((await opening).descriptors);
  }

  /** Throws NOT_READY when the container's IO is not open. */
  async get(id: string): Promise<ContainerIo> {
    const io = await this.#containers.get(id);
    if (!io) throw new SluiceError('NOT_READY', `container ${id} has no open input and output`);
    return io;
  }

  /** Reads what is left and closes; a container that is not open is fine. */
  async close(id: string): Promise<void> {
    const opening = this.#containers.get(id);
    this.#containers.delete(id);
    if (this.#open.delete(id) && this.#open.size === 0) this.#events.onEmpty();
    const io = await opening;
    if (!io) return;
    await io.close();
    this.#closed.bytes += io.stats.bytes;
    this.#closed.entries += io.stats.entries;
  }

  /** {@link close}, then removes the FIFOs. Idempotent. */
  async remove({ id, fifos }: Pick<IoRegistration, 'id' | 'fifos'>): Promise<void> {
    await this.close(id);
    this.#journal?.release(id);
    await removeFifos(fifos);
  }

  /** Closes all without reading on: the next worker or daemon reads the rest. */
  async suspend(): Promise<void> {
    const all = [...this.#containers.values()];
    this.#containers.clear();
    this.#open.clear();
    await Promise.allSettled(all.map(async (opening) => (await opening).suspend()));
  }

  /** Totals of all containers since this worker started. */
  get totals(): { bytes: number; entries: number } {
    const totals = { ...this.#closed };
    for (const { stats } of this.#open.values()) {
      totals.bytes += stats.bytes;
      totals.entries += stats.entries;
    }
    return totals;
  }

  /** Descriptors of the read ends of all containers' FIFOs, and of the journal. */
  get descriptors(): number[] {
    const fifos = [...this.#open.values()].flatMap((io) => io.descriptors);
    return this.#journal && this.#open.size > 0 ? [...fifos, ...this.#journal.descriptors] : fifos;
  }

  /** Drops what the journal has of containers that are not open. */
  forgetOthers(): void {
    this.#journal?.retain(new Set(this.#containers.keys()));
  }

  stats(): Record<string, IoStats> {
    return Object.fromEntries([...this.#open].map(([id, io]) => [id, io.stats]));
  }
}

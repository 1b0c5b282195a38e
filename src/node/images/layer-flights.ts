import { SluiceError } from '../../errors.ts';
import type { FetchedLayer } from '../../workers/image/fetch-layer.ts';
import type { Log } from '../observe/log.ts';
import { chainIdOf } from './digest.ts';
import { DownloadQueue } from './download-queue.ts';
import type { LayerFetcher } from './layer-fetcher.ts';
import type { LayerFolders } from './layer-folders.ts';
import type { LayerRows } from './layer-rows.ts';
import type { LayerProgress, WantedLayer } from './layer-store.ts';
import type { LayerRow } from './rows.ts';

export interface LayerFlightsOptions {
  rows: LayerRows;
  folders: LayerFolders;
  fetcher: LayerFetcher;
  /** Layers downloaded at once, over all pulls. */
  maxDownloads: number;
  onLayer?: (how: 'pulled' | 'present' | 'joined') => void;
  /** The row of a layer that is going to be fetched. */
  newRow: (of: Pick<LayerRow, 'diffId' | 'digest' | 'size'>) => LayerRow;
  /** The layer's size is final only once it is on the disk. */
  onGrowing: (id: string) => void;
  /** Gives an unpacked layer what it takes from the layers below it. */
  inherit: (
    row: LayerRow,
    fetched: Pick<FetchedLayer, 'implied' | 'lowerLinks'>,
    below: readonly LayerRow[],
  ) => Promise<void>;
  /** Removes a layer's folder and row. */
  remove: (id: string) => Promise<void>;
  log: Log;
}

/** One pull. Once it is over (failed or cancelled), layers that only it wants are not fetched any more. */
export interface Pull {
  over: boolean;
  urgent: boolean;
  /** Rejects when the pull is cancelled. */
  cancelled: Promise<never>;
  /** The flights that it waits for. */
  flights: Set<Flight>;
}

interface Flight {
  row: LayerRow;
  /** chainID of the layers below those that began it. */
  base: string;
  /** Unpacked; true when it fits on that base alone. Waits for no other layer. */
  bound: Promise<boolean>;
  /**
   * Resolves when the layer is mountable. A bound layer waits for the layers below it, so only pulls on the same base
   * may wait for this: others could wait for each other for ever.
   */
  done: Promise<LayerRow>;
  pulls: Set<Pull>;
  abort: AbortController;
  progress: LayerProgress;
}

/** A pull's wish for one layer. */
export interface Wish {
  /** Layers below, bottom first. */
  below: readonly { diffId: string; done: Promise<LayerRow> }[];
  onHold: (id: string) => void;
  pull: Pull;
  progress: LayerProgress;
  /** The layer depends on its base: a flight for another base is of no use. */
  bound: boolean;
}

/** The base of a bound layer that has none below it. */
const BOTTOM = 'bottom';

/** A queued layer was not fetched because all pulls that wanted it are over. */
export class NotWanted extends SluiceError {
  constructor() {
    super('REGISTRY_UNAVAILABLE', 'not fetched, since another layer of the image failed');
  }
}

/**
 * The layers that are on their way: each is fetched once, however many pulls want it at the same time, and as long as
 * one of them does.
 */
export class LayerFlights {
  readonly #options: LayerFlightsOptions;
  readonly #rows: LayerRows;
  readonly #folders: LayerFolders;
  readonly #flights = new Map<string, Flight>();
  readonly #queue: DownloadQueue;

  constructor(options: LayerFlightsOptions) {
    this.#options = options;
    this.#rows = options.rows;
    this.#folders = options.folders;
    this.#queue = new DownloadQueue(options.maxDownloads);
  }

  /** Layers that are fetched at the same time, from now on. */
  set maxDownloads(limit: number) {
    this.#queue.limit = limit;
  }

  /** Joins the flight of a layer, or begins it; synchronous up to there, so that no layer is begun twice. */
  async fetch(layer: WantedLayer, wish: Wish): Promise<LayerRow> {
    const { diffId } = layer;
    const { onHold, pull, below, progress } = wish;
    if (pull.over) throw new NotWanted();
    const base = chainIdOf(below.map((lower) => lower.diffId)) || BOTTOM;
    const onBase = keyOf({ diffId, base });
    const present = this.#rows.find(diffId) ?? this.#rows.find(onBase);
    if (present) {
      this.#rows.hold(present.id, onHold);
      this.#options.onLayer?.('present');
      Object.assign(progress, { downloaded: progress.size, state: 'done' });
      return present;
    }
    const any = this.#flights.get(diffId);
    const flight = this.#flights.get(onBase) ?? (wish.bound && any?.base !== base ? undefined : any);
    if (!flight || flight.abort.signal.aborted) {
      this.#options.onLayer?.('pulled');
      const own = this.#start(layer, wish, { base, key: wish.bound ? onBase : diffId });
      return Promise.race([own.done, pull.cancelled]);
    }
    this.#options.onLayer?.('joined');
    this.#rows.hold(flight.row.id, onHold);
    flight.pulls.add(pull);
    pull.flights.add(flight);
    const following = setInterval(
      () => Object.assign(progress, flight.progress, { digest: progress.digest }),
      200,
    ).unref();
    let { bound } = wish;
    try {
      if (flight.base === base || !(await Promise.race([flight.bound, pull.cancelled])))
        return await Promise.race([flight.done, pull.cancelled]);
      bound = true;
    } catch {
      // Another pull's registry or login may fail where this pull's would not.
    } finally {
      clearInterval(following);
      Object.assign(progress, flight.progress, { digest: progress.digest });
    }
    if (pull.over) throw new NotWanted();
    return this.fetch(layer, { ...wish, bound });
  }

  #start(layer: WantedLayer, wish: Wish, { base, key }: { base: string; key: string }): Flight {
    const { diffId, blob } = layer;
    const { pull, progress } = wish;
    const row = this.#options.newRow({ diffId, digest: blob.digest, size: blob.size });
    this.#rows.hold(row.id, wish.onHold);
    const pulls = new Set([pull]);
    const abort = new AbortController();
    const turn = async () => {
      if ([...pulls].every(({ over }) => over)) throw new NotWanted();
      try {
        const avoid = this.#folders.avoided;
        const dir = this.#folders.of(row.id);
        return await this.#options.fetcher.fetch(layer, { dir, avoid, signal: abort.signal, progress });
      } catch (error) {
        wish.pull.over = true; // before the next layer of the queue is looked at
        throw error;
      }
    };
    const unpacked = this.#queue.run(pull, turn, pull.urgent);
    const bound = unpacked.then(needsBase);
    bound.catch(() => {}); // `done` rejects as well
    const done = this.#finish(row, { unpacked, wish, base, key });
    const flight: Flight = { row, base, bound, pulls, done, abort, progress };
    done.catch(() => {}); // a cancelled pull does not wait for it
    pull.flights.add(flight);
    this.#flights.set(key, flight);
    return flight;
  }

  /** What follows the unpacking: a bound layer inherits attributes of folders from the layers below. */
  async #finish(
    row: LayerRow,
    { unpacked, wish, base, key }: { unpacked: Promise<FetchedLayer>; wish: Wish; base: string; key: string },
  ): Promise<LayerRow> {
    try {
      const fetched = await unpacked;
      const { bytes, inodes, growsWhenWritten } = fetched;
      if (growsWhenWritten) this.#options.onGrowing(row.id);
      if (needsBase(fetched)) {
        row.base = base;
        await this.#options.inherit(row, fetched, await Promise.all(wish.below.map(({ done }) => done)));
      }
      Object.assign(row, { bytes, inodes });
      wish.progress.state = 'done';
      return row;
    } catch (error) {
      if (this.#flights.get(key)?.row === row) this.#flights.delete(key);
      await this.#options
        .remove(row.id)
        .catch((err) => this.#options.log.warn({ layer: row.id, err }, 'a layer that failed is left over'));
      throw error;
    }
  }

  /** Ends a pull's part in its flights; a flight that no pull wants any more is aborted. */
  end(pull: Pull): void {
    pull.over = true;
    for (const flight of pull.flights) {
      flight.pulls.delete(pull);
      if (flight.pulls.size > 0 || flight.row.ready) continue;
      flight.abort.abort();
      // A layer that was unpacked already is dropped, unless another pull has joined meanwhile.
      flight.done.then(
        () => this.#drop(flight),
        () => {},
      );
    }
    pull.flights.clear();
  }

  #drop({ row, pulls }: Flight): void {
    if (row.ready || pulls.size > 0) return;
    this.landed(row);
    this.#options
      .remove(row.id)
      .catch((err) => this.#options.log.warn({ layer: row.id, err }, 'a layer that nobody wants is left over'));
  }

  /** The layer is ready: it is found by its row from now on. */
  landed(row: LayerRow): void {
    for (const [key, flight] of this.#flights) if (flight.row === row) this.#flights.delete(key);
  }
}

/** Does the layer take something from the layers below it? */
const needsBase = ({ implied, lowerLinks }: Pick<FetchedLayer, 'implied' | 'lowerLinks'>) =>
  implied.length > 0 || lowerLinks.length > 0;

/** By what a ready layer is found, and one that is on its way. */
export const keyOf = ({ diffId, base }: { diffId: string; base: string }) =>
  base === '' ? diffId : `${diffId} ${base}`;

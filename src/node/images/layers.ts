import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, explain, SluiceError } from '../../errors.ts';
import type { FetchedLayer } from '../../workers/image/fetch-layer.ts';
import type { handlers } from '../../workers/image.ts';
import type { Log } from '../observe/log.ts';
import type { Table } from '../store/table.ts';
import type { Pool } from '../threads/pool.ts';
import { chainIdOf } from './chain.ts';
import { DownloadQueue } from './download-queue.ts';
import type { Descriptor } from './platform.ts';
import type { Repository } from './registry.ts';
import type { LayerRow } from './rows.ts';

export interface LayersOptions {
  /** The daemon's root folder. */
  root: string;
  pool: Pool<typeof handlers>;
  /** Removes a layer's folder; not by `pool`, where it would wait for downloads. */
  removeLayer: (dir: string) => Promise<void>;
  rows: Table<LayerRow>;
  /** Layers at work at once, over all pulls. */
  maxDownloads: number;
  /** A layer without a new byte for so long is given up. */
  progressTimeoutMs: number;
  log: Log;
  onFetched?: (result: { seconds: number; error?: unknown; downloaded: number; unpacked: number }) => void;
  onLayer?: (how: 'pulled' | 'present' | 'joined') => void;
}

export interface WantedLayer {
  diffId: string;
  blob: Descriptor;
  repository: Repository;
}

/** One pull: once it has failed, its layers that have not begun need not. */
interface Pull {
  failed: boolean;
}

interface Flight {
  row: LayerRow;
  /** Of the layers below those that began it. */
  base: string;
  /** Unpacked; true when it fits on that base alone. Waits for no other layer. */
  bound: Promise<boolean>;
  /** There. A bound layer waits for those below, so only who has the same base may wait for this: never two for each other. */
  done: Promise<LayerRow>;
  pulls: Pull[];
}

/** Who asks for a layer, and on top of what. */
interface Ask {
  /** Layers below, bottom first. */
  below: readonly { diffId: string; done: Promise<LayerRow> }[];
  onHold: (id: string) => void;
  pull: Pull;
  /** It has turned out to be bound: no use in taking part in a flight for another base. */
  bound: boolean;
}

/** No id looks so. */
const EMPTY = '_';
/** The base of a bound layer that has none below it. */
const BOTTOM = 'bottom';

/** Why a queued layer was not fetched: all that waited for it have failed. */
class NotWanted extends SluiceError {
  constructor() {
    super('REGISTRY_UNAVAILABLE', 'given up, since another layer failed');
  }
}

/** The layers on the disk. Each is downloaded and unpacked once, however many pulls want it at the same time. */
export class Layers {
  readonly #options: LayersOptions;
  readonly #flights = new Map<string, Flight>();
  readonly #queue: DownloadQueue;
  /** Ids of layers that pulls in flight need, with the number of pulls. */
  readonly #held = new Map<string, number>();
  readonly #byKey = new Map<string, LayerRow>();
  #next = 1;
  #bytes = 0;
  #inodes = 0;

  constructor(options: LayersOptions) {
    this.#options = options;
    this.#queue = new DownloadQueue(options.maxDownloads);
  }

  get folder(): string {
    return join(this.#options.root, 'layers');
  }

  /** The folder that is mounted. */
  dirOf(id: string): string {
    return join(this.folder, id, 'fs');
  }

  /** A folder without anything, for images without layers. */
  get emptyDir(): string {
    return join(this.folder, EMPTY, 'fs');
  }

  /** What all layers take on the disk. */
  get usage(): { bytes: number; inodes: number } {
    return { bytes: this.#bytes, inodes: this.#inodes };
  }

  has(id: string): boolean {
    return this.#options.rows.get(id)?.ready === true;
  }

  /**
   * The layers of an image, bottom first, each of them held until {@link release}; `onHold` is told the id of each before
   * anything of it exists. Waits for all of them, also when one fails. Throws the first failure.
   */
  async fetchAll(layers: WantedLayer[], onHold: (id: string) => void): Promise<LayerRow[]> {
    const below: Ask['below'][number][] = [];
    const pull = { failed: false };
    for (const layer of layers) {
      const done = this.#fetch(layer, { below: [...below], onHold, pull, bound: false });
      done.catch(() => {
        pull.failed = true;
      });
      below.push({ diffId: layer.diffId, done });
    }
    const results = await Promise.allSettled(below.map(({ done }) => done));
    const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
    if (failures.length > 0) throw failures.find((reason) => !(reason instanceof NotWanted)) ?? failures[0];
    return results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  }

  /** A layer that comes with the program; `install` fills its folder. */
  async builtIn(
    diffId: string,
    install: (dir: string) => Promise<{ bytes: number; inodes: number }>,
  ): Promise<LayerRow> {
    const present = this.#byKey.get(diffId);
    if (present) return present;
    const row = this.#newRow({ diffId, digest: '', size: 0 });
    this.#ready(row, await install(join(this.folder, row.id)));
    return row;
  }

  /** Holds layers that are there; false, and nothing is held, when one of them is not. */
  hold(ids: readonly string[], onHold: (id: string) => void): boolean {
    if (!ids.every((id) => this.has(id))) return false;
    for (const id of ids) this.#hold(id, onHold);
    return true;
  }

  release(ids: readonly string[]): void {
    for (const id of ids) {
      const count = (this.#held.get(id) ?? 0) - 1;
      if (count > 0) this.#held.set(id, count);
      else this.#held.delete(id);
    }
  }

  /**
   * Removes the layers that are neither in `used` nor held. They are gone from the records at once, from the disk a little later:
   * a client does not wait for the last of a million files. What cannot be removed is left for the next start.
   */
  sweep(used: ReadonlySet<string>): void {
    for (const row of this.#options.rows.values()) {
      if (row.ready && !used.has(row.id) && !this.#held.has(row.id)) this.#remove(row);
    }
  }

  /** After a start: drops what a dead daemon left half-way, and what nobody has a record of. */
  async recover(used: ReadonlySet<string>, { keepUnknown = false } = {}): Promise<void> {
    const { rows, log } = this.#options;
    await mkdir(this.folder, { recursive: true, mode: 0o700 });
    await mkdir(this.emptyDir, { recursive: true, mode: 0o755 });
    const folders = new Set(await readdir(this.folder));
    const known = [...rows.values()];
    const numbers = [...folders, ...known.map(({ id }) => id)].map((name) => Number.parseInt(name, 36));
    this.#next = 1 + numbers.filter((number) => !Number.isNaN(number)).reduce((a, b) => Math.max(a, b), 0);
    const strays: string[] = [];
    for (const row of known) {
      const keep = row.ready && folders.has(row.id) && used.has(row.id);
      if (keep) this.#count(row, 1);
      else if (folders.has(row.id)) strays.push(row.id);
      else rows.delete(row.id);
    }
    if (!keepUnknown) {
      for (const name of folders) if (name !== EMPTY && !known.some(({ id }) => id === name)) strays.push(name);
    }
    if (strays.length > 0) log.info({ layers: strays }, 'removing layers that no image has');
    for (const id of strays)
      this.#removeFolder(id).catch((err) => log.warn({ layer: id, err }, 'a layer is left over'));
  }

  /** Takes part in the flight of a layer, or begins it; up to there in one synchronous step, so that nobody begins it twice. */
  async #fetch(layer: WantedLayer, ask: Ask): Promise<LayerRow> {
    const { diffId } = layer;
    const { onHold, pull, below } = ask;
    const base = chainIdOf(below.map((lower) => lower.diffId)) || BOTTOM;
    const onBase = keyOf({ diffId, base });
    const present = this.#byKey.get(diffId) ?? this.#byKey.get(onBase);
    if (present) {
      this.#hold(present.id, onHold);
      this.#options.onLayer?.('present');
      return present;
    }
    const any = this.#flights.get(diffId);
    const flight = this.#flights.get(onBase) ?? (ask.bound && any?.base !== base ? undefined : any);
    if (!flight) {
      this.#options.onLayer?.('pulled');
      return this.#start(layer, ask, { base, key: ask.bound ? onBase : diffId }).done;
    }
    this.#options.onLayer?.('joined');
    this.#hold(flight.row.id, onHold);
    flight.pulls.push(pull);
    let { bound } = ask;
    try {
      if (flight.base === base || !(await flight.bound)) return await flight.done;
      bound = true;
    } catch {
      // Another pull's registry or login may fail where this one's would not.
    }
    if (pull.failed) throw new NotWanted();
    return this.#fetch(layer, { ...ask, bound });
  }

  #hold(id: string, onHold: (id: string) => void): void {
    this.#held.set(id, (this.#held.get(id) ?? 0) + 1);
    onHold(id);
  }

  #start(layer: WantedLayer, ask: Ask, { base, key }: { base: string; key: string }): Flight {
    const { diffId, blob } = layer;
    const row = this.#newRow({ diffId, digest: blob.digest, size: blob.size });
    this.#hold(row.id, ask.onHold);
    const pulls = [ask.pull];
    const unpacked = this.#queue.run(ask.pull, async () => {
      if (pulls.every(({ failed }) => failed)) throw new NotWanted();
      try {
        return await this.#download(row, layer);
      } catch (error) {
        ask.pull.failed = true; // before the next in the queue looks
        throw error;
      }
    });
    const bound = unpacked.then(({ implied }) => implied.length > 0);
    bound.catch(() => {}); // `done` tells
    const flight: Flight = { row, base, bound, pulls, done: this.#finish(row, { unpacked, ask, base, key }) };
    this.#flights.set(key, flight);
    return flight;
  }

  /** What follows the unpacking: a bound layer takes its folders' looks from below, and the row is there for all. */
  async #finish(
    row: LayerRow,
    { unpacked, ask, base, key }: { unpacked: Promise<FetchedLayer>; ask: Ask; base: string; key: string },
  ): Promise<LayerRow> {
    try {
      const fetched = await unpacked;
      if (fetched.implied.length > 0) {
        row.base = base;
        await this.#dress(row, fetched.implied, await Promise.all(ask.below.map(({ done }) => done)));
      }
      this.#ready(row, fetched);
      return row;
    } catch (error) {
      await this.#removeFolder(row.id).catch((err) =>
        this.#options.log.warn({ layer: row.id, err }, 'a layer that failed is left over'),
      );
      throw error;
    } finally {
      this.#flights.delete(key);
    }
  }

  async #download(row: LayerRow, { diffId, blob, repository }: WantedLayer): Promise<FetchedLayer> {
    const { pool, progressTimeoutMs, onFetched } = this.#options;
    const began = performance.now();
    const seconds = () => (performance.now() - began) / 1000;
    try {
      const { digest, size, mediaType } = blob;
      const dir = join(this.folder, row.id);
      const result = await repository.layer(digest, (source) =>
        pool.call('fetchLayer', { ...source, digest, size, diffId, mediaType, dir, progressTimeoutMs }),
      );
      onFetched?.({ seconds: seconds(), downloaded: size, unpacked: result.bytes });
      return result;
    } catch (error) {
      onFetched?.({ seconds: seconds(), error, downloaded: 0, unpacked: 0 });
      throw new SluiceError(codeOf(error), `layer ${blob.digest}`, { cause: error });
    }
  }

  /** The folders that the layer has only implied get the looks that they have below it. */
  async #dress(row: LayerRow, folders: string[], below: readonly LayerRow[]): Promise<void> {
    const parentDirs = below.toReversed().map(({ id }) => this.dirOf(id));
    await this.#options.pool.call('dressFolders', { dir: join(this.folder, row.id), folders, parentDirs });
  }

  #newRow(of: Pick<LayerRow, 'diffId' | 'digest' | 'size'>): LayerRow {
    const row: LayerRow = { id: (this.#next++).toString(36), ...of, base: '', bytes: 0, inodes: 0, ready: false };
    this.#options.rows.put(row);
    return row;
  }

  #ready(row: LayerRow, { bytes, inodes }: { bytes: number; inodes: number }): void {
    row.bytes = bytes;
    row.inodes = inodes;
    row.ready = true;
    this.#options.rows.put(row);
    this.#count(row, 1);
  }

  #remove(row: LayerRow): void {
    row.ready = false;
    this.#options.rows.put(row);
    this.#count(row, -1);
    this.#removeFolder(row.id).catch((error) =>
      this.#options.log.warn(
        { layer: row.id, reason: explain(error) },
        'a layer could not be removed; the next start tries again',
      ),
    );
  }

  #count(row: LayerRow, sign: 1 | -1): void {
    this.#bytes += sign * row.bytes;
    this.#inodes += sign * row.inodes;
    const key = keyOf(row);
    if (sign === 1) this.#byKey.set(key, row);
    else if (this.#byKey.get(key) === row) this.#byKey.delete(key);
  }

  async #removeFolder(id: string): Promise<void> {
    await this.#options.removeLayer(join(this.folder, id));
    this.#options.rows.delete(id);
  }
}

const keyOf = ({ diffId, base }: { diffId: string; base: string }) => (base === '' ? diffId : `${diffId} ${base}`);

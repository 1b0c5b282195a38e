import { explain } from '../../errors.ts';
import { syncFileSystem } from '../../sys/sync.ts';
import type { FetchedLayer } from '../../workers/image/fetch-layer.ts';
import type { DiskReading } from '../../workers/stats/disk.ts';
import type { Table } from '../store/table.ts';
import { LayerFetcher, type LayerFetcherOptions } from './layer-fetcher.ts';
import { keyOf, LayerFlights, NotWanted, type Pull, type Wish } from './layer-flights.ts';
import { LayerFolders, type LayerFoldersOptions } from './layer-folders.ts';
import { LayerRows } from './layer-rows.ts';
import { cancelled, type FetchOptions, type LayerProgress, type LayerStore, type WantedLayer } from './layer-store.ts';
import type { LayerRow } from './rows.ts';

export interface LayersOptions extends LayerFetcherOptions, LayerFoldersOptions {
  /** The disk use of a folder; not in `pool`, where it would wait for downloads. */
  measure: (dir: string) => Promise<Pick<DiskReading, 'usedBytes' | 'inodes'> | undefined>;
  rows: Table<LayerRow>;
  /** Layers downloaded at once, over all pulls. */
  maxDownloads: number;
  onLayer?: (how: 'pulled' | 'present' | 'joined') => void;
  /** Seconds that a syncfs of the layers took. */
  onSynced?: (seconds: number) => void;
}

const WARM_THREADS = 2;

/** The layers on the disk. Each is downloaded and unpacked once, however many pulls want it at the same time. */
export class Layers implements LayerStore {
  readonly #options: LayersOptions;
  readonly #flights: LayerFlights;
  readonly #rows: LayerRows;
  readonly #folders: LayerFolders;
  /** Ids of unpacked layers whose size is final with the sync. */
  readonly #growing = new Set<string>();

  constructor(options: LayersOptions) {
    this.#options = options;
    this.#rows = new LayerRows(options.rows, keyOf);
    this.#folders = new LayerFolders(options);
    this.#flights = new LayerFlights({
      ...options,
      rows: this.#rows,
      folders: this.#folders,
      fetcher: new LayerFetcher(options),
      newRow: (of) => this.#newRow(of),
      onGrowing: (id) => this.#growing.add(id),
      inherit: (...of) => this.#inheritAttributes(...of),
      remove: (id) => this.#removeFolder(id),
    });
  }

  /** Layers that are fetched at the same time, from now on. */
  set maxDownloads(limit: number) {
    this.#flights.maxDownloads = limit;
  }

  get folder(): string {
    return this.#folders.folder;
  }

  /** See {@link LayerFolders.stack}. */
  stack(ids: readonly string[]): string[] {
    return this.#folders.stack(ids);
  }

  /** What all layers occupy on the disk. */
  get usage(): { bytes: number; inodes: number } {
    return this.#rows.usage;
  }

  /**
   * Starts threads for layers that will come soon, while their manifest is on its way: the first pull does not wait for
   * them. With a folder's path they unpack a small layer there (src/workers/image/practise.ts).
   */
  warm(practise?: string): void {
    const { pool, log } = this.#options;
    if (pool.use.threads > 0) return;
    for (let i = 0; i < WARM_THREADS; i++) {
      const started =
        practise === undefined ? pool.call('warm', undefined) : pool.call('practise', { folder: `${practise}-${i}` });
      started.catch((err) => log.debug({ err }, 'the threads for layers are not started early'));
    }
  }

  has(id: string): boolean {
    const row = this.#rows.get(id);
    return row?.ready === true && this.#isUsable(row);
  }

  /**
   * Fetches the layers of an image, given bottom first, and returns their rows; each is held until {@link release}. The
   * layers are on the disk for good (synced) when it returns. Waits for all of them, also when one fails; then throws
   * the first failure. A cancelled pull throws CALLER_GONE, and layers that no other pull wants are dropped.
   */
  async fetchAll(layers: readonly WantedLayer[], options: FetchOptions): Promise<LayerRow[]> {
    const { onHold, signal, urgent = false, progress } = options;
    const gone = Promise.withResolvers<never>();
    gone.promise.catch(() => {}); // a pull without layers waits for nothing
    const pull: Pull = { over: false, urgent, cancelled: gone.promise, flights: new Set() };
    const cancel = () => {
      this.#flights.end(pull);
      gone.reject(cancelled());
    };
    signal?.addEventListener('abort', cancel, { once: true });
    if (signal?.aborted) cancel();
    const below: Wish['below'][number][] = [];
    try {
      for (const layer of layers) {
        const { digest, size } = layer.blob;
        const own: LayerProgress = { digest, size, downloaded: 0, state: 'waiting' };
        progress?.push(own);
        const done = this.#flights.fetch(layer, { below: [...below], onHold, pull, progress: own, bound: false });
        done.catch(() => {
          pull.over = true;
        });
        below.push({ diffId: layer.diffId, done });
      }
      const results = await Promise.allSettled(below.map(({ done }) => done));
      const rows = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
      await this.#settle(rows);
      if (signal?.aborted) throw cancelled();
      const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
      if (failures.length > 0) throw failures.find((reason) => !(reason instanceof NotWanted)) ?? failures[0];
      return rows;
    } finally {
      signal?.removeEventListener('abort', cancel);
      this.#flights.end(pull);
    }
  }

  /** A layer that is part of the program; `install` fills its folder. */
  async builtIn(
    diffId: string,
    install: (dir: string) => Promise<{ bytes: number; inodes: number }>,
  ): Promise<LayerRow> {
    const present = this.#rows.find(diffId);
    if (present) return present;
    const row = this.#newRow({ diffId, digest: '', size: 0 });
    Object.assign(row, await install(this.#folders.of(row.id)));
    await this.#sync();
    this.#ready(row);
    return row;
  }

  /** Holds layers that are present; returns false, and holds none, when one of them is not. */
  hold(ids: readonly string[], onHold: (id: string) => void): boolean {
    if (!ids.every((id) => this.has(id))) return false;
    for (const id of ids) this.#rows.hold(id, onHold);
    return true;
  }

  release(ids: readonly string[]): void {
    this.#rows.release(ids);
  }

  /**
   * Removes the layers that are neither in `used` nor held. Their records go at once; the returned promise resolves
   * when their folders are gone too. A folder that cannot be removed is left for the next start.
   */
  async sweep(used: ReadonlySet<string>): Promise<void> {
    const unused = this.#rows.all().filter(({ id, ready }) => ready && !used.has(id) && !this.#rows.isHeld(id));
    await Promise.all(unused.map((row) => this.#remove(row)));
  }

  /** After a start: removes unfinished layers of a dead daemon, and folders without a record unless `keepUnknown`. */
  async recover(used: ReadonlySet<string>, { keepUnknown = false } = {}): Promise<void> {
    const { log } = this.#options;
    const folders = await this.#folders.prepare();
    const known = this.#rows.all();
    this.#rows.goOnBehind([...folders, ...known.map(({ id }) => id)]);
    const strays: string[] = [];
    for (const row of known) {
      const keep = row.ready && folders.has(row.id) && used.has(row.id) && this.#isUsable(row);
      if (keep) this.#rows.add(row);
      else if (folders.has(row.id)) strays.push(row.id);
      else this.#rows.delete(row.id);
    }
    if (!keepUnknown) {
      for (const name of folders) if (!known.some(({ id }) => id === name)) strays.push(name);
    }
    if (strays.length > 0) log.info({ layers: strays }, 'removing layers that no image has');
    for (const id of strays)
      this.#removeFolder(id).catch((err) => log.warn({ layer: id, err }, 'a layer is left over'));
  }

  /**
   * Makes unpacked layers ready, after one sync for all of them: a power cut must not leave empty files in a layer that
   * is ready.
   */
  async #settle(rows: readonly LayerRow[]): Promise<void> {
    if (rows.every(({ ready }) => ready)) return;
    await this.#sync();
    await Promise.all(rows.map((row) => this.#measureAgain(row)));
    for (const row of rows) if (!row.ready) this.#ready(row);
  }

  /** The size of a layer whose files got blocks with the sync, which is what du counts. */
  async #measureAgain(row: LayerRow): Promise<void> {
    if (row.ready || !this.#growing.delete(row.id)) return;
    const found = await this.#options.measure(this.#folders.of(row.id));
    if (found) Object.assign(row, { bytes: Number(found.usedBytes), inodes: Number(found.inodes) });
  }

  async #sync(): Promise<void> {
    const began = performance.now();
    await syncFileSystem(this.folder);
    this.#options.onSynced?.((performance.now() - began) / 1000);
  }

  /**
   * Folders that the layer only implies get the owner and mode that they have below, and hard links the files that they
   * lead to.
   */
  async #inheritAttributes(
    row: LayerRow,
    { implied: folders, lowerLinks: links }: Pick<FetchedLayer, 'implied' | 'lowerLinks'>,
    below: readonly LayerRow[],
  ): Promise<void> {
    const parentDirs = below.toReversed().map(({ id }) => this.#folders.mounted(id));
    const dir = this.#folders.of(row.id);
    await this.#options.pool.call('inheritAttributes', { dir, folders, links, parentDirs });
  }

  /** overlayfs cannot mount what says with files what it hides; the other way round, both are read. */
  #isUsable({ whiteouts }: LayerRow): boolean {
    return whiteouts === undefined || this.#options.whiteouts === whiteouts;
  }

  #newRow(of: Pick<LayerRow, 'diffId' | 'digest' | 'size'>): LayerRow {
    return this.#rows.begin({ ...of, whiteouts: this.#options.whiteouts });
  }

  #ready(row: LayerRow): void {
    row.ready = true;
    this.#rows.put(row);
    this.#rows.add(row);
    this.#flights.landed(row);
  }

  async #remove(row: LayerRow): Promise<void> {
    row.ready = false;
    this.#rows.put(row);
    this.#rows.drop(row);
    try {
      await this.#removeFolder(row.id);
    } catch (error) {
      const reason = explain(error);
      this.#options.log.warn({ layer: row.id, reason }, 'a layer could not be removed; the next start tries again');
    }
  }

  async #removeFolder(id: string): Promise<void> {
    await this.#folders.remove(id);
    this.#growing.delete(id);
    this.#rows.delete(id);
  }
}

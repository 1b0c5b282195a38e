import { mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { explain, SluiceError } from '../../../errors.ts';
import type { FetchedLayer } from '../../../workers/image/fetch-layer.ts';
import type { Snapshots } from '../../grpc/snapshots.ts';
import type { Table } from '../../store/table.ts';
import { chainIdOf } from '../digest.ts';
import { DownloadQueue } from '../download-queue.ts';
import { LayerFetcher, type LayerFetcherOptions } from '../layer-fetcher.ts';
import { LayerRows } from '../layer-rows.ts';
import { cancelled, type FetchOptions, type LayerProgress, type LayerStore, type WantedLayer } from '../layer-store.ts';
import type { LayerRow } from '../rows.ts';
import type { SnapshotWorker } from './snapshotter.ts';

export interface ProxyLayersOptions extends LayerFetcherOptions {
  /** The daemon's root folder. */
  root: string;
  client: Snapshots;
  worker: SnapshotWorker;
  /** Labels of everything that this daemon has there. */
  labels: Record<string, string>;
  rows: Table<LayerRow>;
  /** Layers downloaded at once, over all pulls. */
  maxDownloads: number;
  onLayer?: (how: 'pulled' | 'present' | 'joined') => void;
}

/** What snapshotters that fetch layers themselves are told, as containerd tells them (its pkg/snapshotters). */
const REF = 'containerd.io/snapshot.ref';
const CRI = 'containerd.io/snapshot/cri.';
/** Annotations of a layer that its snapshot gets as labels (containerd's core/snapshots). */
const INHERITED = 'containerd.io/snapshot/';
/** Bytes of a label's name and value. */
const MAX_LABEL = 4096;
/** Names of snapshots that are being filled begin so. */
const EXTRACT = 'sluice-extract-';

/** A pull's layers with their names. */
interface Plan {
  layers: readonly WantedLayer[];
  /** chainIDs. */
  names: string[];
  options: FetchOptions;
  progress: LayerProgress[];
  downloads: Map<number, { row: LayerRow; fetched: Promise<FetchedLayer> }>;
  abort: AbortController;
}

/**
 * Layers in a proxy snapshotter, each on top of the one below, under its chainID. The snapshotter is asked for each
 * layer first: one that fetches lazily has it at once. Others are unpacked here side by side, and handed over in order.
 */
export class ProxyLayers implements LayerStore {
  readonly #options: ProxyLayersOptions;
  readonly #fetcher: LayerFetcher;
  readonly #queue: DownloadQueue;
  readonly #rows: LayerRows;
  /** Names that are being made, each with the end of the last who wants to. */
  readonly #locks = new Map<string, Promise<unknown>>();

  constructor(options: ProxyLayersOptions) {
    this.#options = options;
    this.#rows = new LayerRows(options.rows, ({ snapshot = '' }) => snapshot);
    this.#fetcher = new LayerFetcher(options);
    this.#queue = new DownloadQueue(options.maxDownloads);
  }

  set maxDownloads(limit: number) {
    this.#queue.limit = limit;
  }

  get folder(): string {
    return join(this.#options.root, 'layers');
  }

  get usage(): { bytes: number; inodes: number } {
    return this.#rows.usage;
  }

  warm(): void {}

  has(id: string): boolean {
    const row = this.#rows.get(id);
    return row?.ready === true && row.snapshot !== undefined;
  }

  async fetchAll(layers: readonly WantedLayer[], options: FetchOptions): Promise<LayerRow[]> {
    const names = layers.map((_, at) => chainIdOf(layers.slice(0, at + 1).map(({ diffId }) => diffId)));
    const progress = layers.map(({ blob: { digest, size } }): LayerProgress => {
      return { digest, size, downloaded: 0, state: 'waiting' };
    });
    options.progress?.push(...progress);
    const abort = new AbortController();
    const cancel = () => abort.abort();
    options.signal?.addEventListener('abort', cancel, { once: true });
    if (options.signal?.aborted) cancel();
    const plan: Plan = { layers, names, options, progress, downloads: new Map(), abort };
    const rows: LayerRow[] = [];
    try {
      for (const at of layers.keys()) rows.push(await this.#locked(names[at] ?? '', () => this.#layer(plan, at)));
      return rows;
    } catch (error) {
      if (options.signal?.aborted) throw cancelled();
      throw error;
    } finally {
      options.signal?.removeEventListener('abort', cancel);
      abort.abort();
      await this.#dropDownloads(plan);
    }
  }

  async builtIn(
    diffId: string,
    install: (dir: string) => Promise<{ bytes: number; inodes: number }>,
  ): Promise<LayerRow> {
    return this.#locked(diffId, async () => {
      const present = this.#rows.find(diffId);
      if (present) return present;
      const row = this.#rows.begin({ diffId, digest: '', size: 0 });
      try {
        await install(join(this.folder, row.id));
        const key = `${EXTRACT}${row.id}`;
        const mounts = await this.#options.client.prepare(key, '', this.#options.labels);
        if (mounts === 'exists') throw exists(key);
        await this.#handOver(row, { key, name: diffId, parent: '', mounts, implied: [], lowerLinks: [] });
      } catch (error) {
        await this.#drop(row);
        throw error;
      }
      return row;
    });
  }

  hold(ids: readonly string[], onHold: (id: string) => void): boolean {
    if (!ids.every((id) => this.has(id))) return false;
    for (const id of ids) this.#rows.hold(id, onHold);
    return true;
  }

  release(ids: readonly string[]): void {
    this.#rows.release(ids);
  }

  /** From the top down, since a layer with another one on it cannot go. One that a snapshot stands on stays as well. */
  async sweep(used: ReadonlySet<string>): Promise<void> {
    const isUnused = (row: LayerRow) => row.ready && !used.has(row.id) && !this.#rows.isHeld(row.id);
    let removed = 0;
    for (let progress = true; progress; ) {
      progress = false;
      for (const row of this.#rows.all().filter(isUnused)) {
        if (this.#rows.all().some(({ base }) => base === row.snapshot)) continue;
        // A pull that wants the layer waits, and then makes it again.
        const work = async () => isUnused(row) && (await this.#remove(row));
        if (!(await this.#locked(row.snapshot ?? '', work))) continue;
        progress = true;
        removed++;
      }
    }
    if (removed > 0) await this.#cleanup();
  }

  async #cleanup(): Promise<void> {
    try {
      await this.#options.client.cleanup();
    } catch (error) {
      this.#options.log.warn({ reason: explain(error) }, 'the snapshotter could not clear its disk');
    }
  }

  /** False when the layer stays. */
  async #remove(row: LayerRow): Promise<boolean> {
    const { client, log } = this.#options;
    this.#rows.drop(row);
    row.ready = false; // nobody finds it any more
    try {
      if ((await client.remove(row.snapshot ?? '')) === 'removed') {
        this.#rows.delete(row.id);
        return true;
      }
    } catch (error) {
      log.warn({ layer: row.id, reason: explain(error) }, 'a layer could not be removed from the snapshotter');
    }
    row.ready = true;
    this.#rows.add(row);
    return false;
  }

  async recover(used: ReadonlySet<string>, { keepUnknown = false } = {}): Promise<void> {
    const { client, log, worker, root } = this.#options;
    await mkdir(this.folder, { recursive: true, mode: 0o700 });
    const known = this.#rows.all();
    const folders = await readdir(this.folder);
    this.#rows.goOnBehind([...folders, ...known.map(({ id }) => id)]);
    for (const row of known) {
      if (row.ready && row.snapshot !== undefined) this.#rows.add(row);
      else this.#rows.delete(row.id);
    }
    // Whatever is unpacked here was on its way to the snapshotter.
    if (!keepUnknown) for (const name of folders) await worker.removeLayer({ dir: join(this.folder, name) });
    try {
      const all = await client.list();
      const committed = new Set(all.filter((one) => one.committed).map(({ name }) => name));
      for (const row of this.#rows.all()) {
        if (committed.has(row.snapshot ?? '')) continue;
        log.warn({ layer: row.id, snapshot: row.snapshot }, 'the snapshotter has lost a layer');
        this.#rows.drop(row);
        this.#rows.delete(row.id);
      }
      if (keepUnknown) return;
      const own = all.filter(({ labels }) => labels[DAEMON] === this.#options.labels[DAEMON]);
      for (const { name, committed: isLayer } of own.reverse()) {
        const isKnown = isLayer ? this.#rows.find(name) !== undefined : await exist(join(root, 'snapshots', name));
        if (!isKnown && !name.startsWith(VIEWS)) await client.remove(name);
      }
      await this.sweep(used);
    } catch (error) {
      log.error({ reason: explain(error) }, 'the snapshotter does not say what it has; its layers are taken for there');
    }
  }

  /** Runs `work` when nobody else makes this layer. */
  async #locked<T>(name: string, work: () => Promise<T>): Promise<T> {
    const before = this.#locks.get(name);
    const own = (async () => {
      await before?.catch(() => {}); // the other pull tells its caller
      return await work();
    })();
    this.#locks.set(name, own);
    try {
      return await own;
    } finally {
      if (this.#locks.get(name) === own) this.#locks.delete(name);
    }
  }

  /** One layer, those below it being there. */
  async #layer(plan: Plan, at: number): Promise<LayerRow> {
    const { client, onLayer } = this.#options;
    const { names, options, progress, abort } = plan;
    const name = names[at] ?? '';
    const wanted = plan.layers[at];
    const own = progress[at];
    if (!wanted || !own) throw new Error(`the image has no layer ${at}`);
    abort.signal.throwIfAborted();
    const done = (row: LayerRow) => {
      Object.assign(own, { downloaded: own.size, state: 'done' });
      return row;
    };
    const present = this.#rows.find(name);
    if (present) {
      this.#rows.hold(present.id, options.onHold);
      onLayer?.('present');
      return done(present);
    }
    const row = plan.downloads.get(at)?.row ?? this.#rows.begin({ diffId: wanted.diffId, ...wanted.blob });
    this.#rows.hold(row.id, options.onHold);
    try {
      const parent = names[at - 1] ?? '';
      const key = `${EXTRACT}${row.id}-${crypto.randomUUID().slice(0, 8)}`;
      if ((await client.stat(name))?.committed) return done(await this.#adopt(row, name, parent));
      const mounts = await client.prepare(key, parent, this.#labelsOf(plan, at));
      if (mounts === 'exists') {
        if (!(await client.stat(name))?.committed) throw exists(name);
        onLayer?.('present');
        return done(await this.#adopt(row, name, parent));
      }
      try {
        onLayer?.('pulled');
        const { implied, lowerLinks } = await this.#fetched(plan, at, row);
        await this.#handOver(row, { key, name, parent, mounts, implied, lowerLinks });
      } catch (error) {
        await client.remove(key);
        throw error;
      }
      return done(row);
    } catch (error) {
      await this.#drop(row);
      throw error;
    }
  }

  /** The layer's folder; with the first that is needed all those above begin as well. */
  #fetched(plan: Plan, at: number, own: LayerRow): Promise<FetchedLayer> {
    const { layers, downloads, options, abort, names } = plan;
    for (let next = at; downloads.size === 0 || next > at; next++) {
      const wanted = layers[next];
      const progress = plan.progress[next];
      if (!wanted || !progress) break;
      if (next > at && this.#rows.find(names[next] ?? '') !== undefined) continue;
      const row = next === at ? own : this.#rows.begin({ diffId: wanted.diffId, ...wanted.blob });
      const dir = join(this.folder, row.id);
      const work = () => {
        abort.signal.throwIfAborted();
        return this.#fetcher.fetch(wanted, { dir, signal: abort.signal, progress });
      };
      const fetched = this.#queue.run(plan, work, options.urgent);
      fetched.catch(() => {}); // whoever comes to the layer gets it
      downloads.set(next, { row, fetched });
    }
    const download = downloads.get(at);
    if (!download) throw new Error(`layer ${at} is not fetched`);
    return download.fetched;
  }

  async #handOver(
    row: LayerRow,
    {
      key,
      name,
      parent,
      mounts,
      implied,
      lowerLinks,
    }: Pick<FetchedLayer, 'implied' | 'lowerLinks'> & {
      key: string;
      name: string;
      parent: string;
      mounts: Exclude<Awaited<ReturnType<Snapshots['prepare']>>, 'exists'>;
    },
  ): Promise<void> {
    const { client, worker, labels } = this.#options;
    const dir = join(this.folder, row.id);
    await worker.fill({ dir, mounts, implied, lowerLinks, scratch: `${dir}.mount` });
    if ((await client.commit(name, key, labels)) === 'exists') await client.remove(key);
    await worker.removeLayer({ dir });
    await this.#adopt(row, name, parent);
  }

  async #adopt(row: LayerRow, name: string, base: string): Promise<LayerRow> {
    Object.assign(row, await this.#options.client.usage(name), { snapshot: name, base, ready: true });
    this.#rows.put(row);
    this.#rows.add(row);
    return row;
  }

  async #drop(row: LayerRow): Promise<void> {
    await this.#options.worker.removeLayer({ dir: join(this.folder, row.id) });
    this.#rows.delete(row.id);
  }

  /** Folders of layers that the pull has not come to. */
  async #dropDownloads({ downloads }: Plan): Promise<void> {
    for (const { row, fetched } of downloads.values()) {
      await fetched.catch(() => {});
      if (!row.ready) await this.#drop(row);
    }
  }

  #labelsOf({ layers, names, options: { image } }: Plan, at: number): Record<string, string> {
    const own = layers[at]?.blob;
    const annotations = Object.entries(own?.annotations ?? {}).filter(([name]) => name.startsWith(INHERITED));
    const labels = { ...Object.fromEntries(annotations), ...this.#options.labels, [REF]: names[at] ?? '' };
    if (!image || !own) return labels;
    const key = `${CRI}image-layers`;
    let list = '';
    for (const { blob } of layers.slice(at)) {
      const longer = list === '' ? blob.digest : `${list},${blob.digest}`;
      if (key.length + longer.length > MAX_LABEL) break;
      list = longer;
    }
    return {
      ...labels,
      [`${CRI}image-ref`]: image.reference,
      [`${CRI}manifest-digest`]: image.manifest,
      [`${CRI}layer-digest`]: own.digest,
      [key]: list,
    };
  }
}

/** The label by which a daemon knows what is its own. */
export const DAEMON = 'sluice/daemon';
const VIEWS = 'sluice-view-';

const exists = (name: string) =>
  new SluiceError('SNAPSHOTTER_FAILED', `the snapshotter says that ${name} exists, and does not have it`);

async function exist(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch {
    return false;
  }
}

import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AuthConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { HostFiles } from '../../workers/host-paths/read-file.ts';
import type { LookUpUser } from '../../workers/image/look-up-user.ts';
import type { FoundUser, UserRequest } from '../../workers/image/users.ts';
import type { handlers } from '../../workers/image.ts';
import type { Usage } from '../../workers/measure-tree.ts';
import type { DiskReading } from '../../workers/stats/disk.ts';
import type { Config } from '../config/config.ts';
import { parseQuantity } from '../network/quantity.ts';
import type { Log } from '../observe/log.ts';
import type { Table } from '../store/table.ts';
import type { Pool } from '../threads/pool.ts';
import type { ExportedImage, ExportOptions } from './archive-export.ts';
import { BlobStore } from './blob-store.ts';
import { Collector } from './collector.ts';
import { authKey } from './credentials.ts';
import { FsInfo, type FsUsage } from './fs-info.ts';
import { ImageArchives } from './image-archives.ts';
import { ImageIntake } from './image-intake.ts';
import { ImageNames } from './image-names.ts';
import { recoverImages } from './image-recovery.ts';
import { ImageUsers } from './image-users.ts';
import type { LayerFetcherOptions } from './layer-fetcher.ts';
import type { FetchOptions, LayerStore } from './layer-store.ts';
import { BUILT_IN_PAUSE, pauseImage } from './pause-image.ts';
import { fullName, parseReference } from './reference.ts';
import { Registry } from './registry.ts';
import type { Resolved } from './resolve.ts';
import type { ImageRow, LayerRow } from './rows.ts';
import { makeSnapshotter } from './snapshotters/make.ts';
import { removeProxied } from './snapshotters/proxy.ts';
import type { LayerMount, Snapshotter, SnapshotWorker, WritableSnapshot } from './snapshotters/snapshotter.ts';
import { Sweeper } from './sweeper.ts';
import type { Ask } from './tokens.ts';

/** What images use of other services of the node. */
export interface ImageSurroundings {
  /** Ids of the images that containers and pods were made from. */
  usedImages: () => Promise<Set<string>>;
  diskUsage: (folder: string) => Promise<DiskReading | undefined>;
  /** Handlers of the image workers, in a pool where they do not wait for downloads. */
  lookUpUser: (input: LookUpUser) => Promise<FoundUser>;
  removeLayer: (dir: string) => Promise<void>;
  snapshots: SnapshotWorker;
  /** Starts the thread of {@link ImagesOptions.ask}. */
  warmRegistry: () => Promise<void>;
  installPause: (dir: string) => Promise<Usage>;
  onLayer: (how: 'pulled' | 'present' | 'joined') => void;
  onFetched: NonNullable<LayerFetcherOptions['onFetched']>;
  onSynced: (seconds: number) => void;
  /** Bytes that were freed because images took more than they may. */
  onCollected: (bytes: number) => void;
  onRetry: () => void;
}

export interface ImagesOptions extends ImageSurroundings {
  config: Pick<Config, 'root' | 'images'>;
  pool: Pool<typeof handlers>;
  /** Reads registries' configurations, credentials and policies. */
  files: HostFiles;
  /** Sends a small request to a registry, in a worker. */
  ask: Ask;
  images: Table<ImageRow>;
  layers: Table<LayerRow>;
  log: Log;
}

/** RemoveImage waits so long for the layers' folders to go: kubelet measures the disk again after it. */
const REMOVE_MS = 10_000;

/** The images on the node and their layers. */
export class Images implements Disposable {
  /** Reference of the pause process's image. */
  readonly sandboxImage: string;
  /** Where the file system of images and writable layers is found. */
  readonly mountpoint: string;
  readonly layers: LayerStore;
  readonly #snapshotter: Snapshotter;
  readonly #client: Disposable | undefined;
  readonly #options: ImagesOptions;
  readonly #names: ImageNames;
  readonly #fsInfo: FsInfo;
  readonly #blobs: BlobStore;
  readonly #collector: Collector;
  readonly #sweeper: Sweeper;
  readonly #archives: ImageArchives;
  readonly #users: ImageUsers;
  readonly #intake: ImageIntake;

  constructor(options: ImagesOptions) {
    const { config, pool, ask, layers, images, log } = options;
    this.#options = options;
    this.sandboxImage = config.images.sandbox_image || BUILT_IN_PAUSE;
    this.mountpoint = config.root;
    this.#blobs = new BlobStore(config.root);
    this.#names = new ImageNames(images);
    const {
      layers: store,
      snapshotter,
      client,
    } = makeSnapshotter({
      config,
      root: config.root,
      pool,
      rows: layers,
      worker: options.snapshots,
      removeLayer: options.removeLayer,
      measure: options.diskUsage,
      maxDownloads: config.images.max_downloads,
      progressTimeoutMs: () => config.images.progress_timeout_seconds * 1000, // likewise
      keepBlob: (digest) => (config.images.keep_blobs ? this.#blobs.pathOf(digest) : undefined),
      storeImage: (row) => {
        if (images.get(row.id) === row) images.put(row);
      },
      onFetched: options.onFetched,
      onLayer: options.onLayer,
      onSynced: options.onSynced,
      log,
    });
    this.layers = store;
    this.#snapshotter = snapshotter;
    this.#client = client;
    this.#sweeper = new Sweeper({
      images,
      layers: store,
      blobs: this.#blobs,
      snapshotter,
      usedImages: options.usedImages,
      log,
    });
    this.#users = new ImageUsers(snapshotter, options.lookUpUser);
    this.#archives = new ImageArchives({
      root: config.root,
      pool,
      blobs: this.#blobs,
      layerFolder: (id) => join(store.folder, id),
      idleMs: () => config.images.progress_timeout_seconds * 1000,
      hasLayers: snapshotter.name !== 'proxy',
    });
    this.#collector = new Collector({
      root: config.root,
      limits: () => ({
        quotaBytes: parseQuantity(config.images.quota || '0') ?? 0,
        highPercent: config.images.gc_high_percent,
        lowPercent: config.images.gc_low_percent,
      }),
      candidates: () => this.list().filter((row) => !this.isPinned(row)),
      used: options.usedImages,
      bytes: () => this.#bytes(),
      remove: async (row) => {
        this.#names.removeAll(row);
        await this.sweep();
      },
      onCollected: (_, bytes) => options.onCollected(bytes),
      log,
    });
    this.#intake = new ImageIntake({
      ...{ config, images, layers: store, snapshotter, sandboxImage: this.sandboxImage, files: options.files },
      ...{ names: this.#names, blobs: this.#blobs, archives: this.#archives },
      ...{ sweeper: this.#sweeper, collector: this.#collector },
      registry: new Registry({
        get config() {
          return config.images.registry_config; // a reload changes it
        },
        ask,
        files: options.files,
        onRetry: options.onRetry,
      }),
    });
    this.#fsInfo = new FsInfo({
      root: config.root,
      layers: () => sum(this.layers.usage, this.#snapshotter.usage()),
      blobs: () => this.#blobs.usage(),
      walk: options.diskUsage,
      onProblem: (folder, err) => log.warn({ folder, err }, 'the size of the snapshots is not known'),
    });
  }

  /** After a start, see {@link recoverImages}; then what no image needs is removed. Throws CONFIG_INVALID. */
  async recover({ keepUnknown = false } = {}): Promise<void> {
    const { log } = this.#options;
    const own = { names: this.#names, blobs: this.#blobs, archives: this.#archives };
    const all = { ...this.#options, ...own, store: this.layers, snapshotter: this.#snapshotter };
    await recoverImages(all, { keepUnknown });
    this.sweep().catch((err) => log.error({ err }, 'layers of no image could not be removed'));
  }

  /**
   * By name (completed first), id, unique beginning of an id, or digest. Throws INVALID_REQUEST when several ids begin
   * so.
   */
  find(text: string): ImageRow | undefined {
    return this.#names.find(text);
  }

  /** The image with this id, also one that was removed and still has containers. Throws IMAGE_NOT_FOUND. */
  get(id: string): ImageRow {
    const row = this.#options.images.get(id);
    if (!row) throw SluiceError.of('IMAGE_NOT_FOUND', id);
    return row;
  }

  /** All images, without those that are only kept for their containers. */
  list(): ImageRow[] {
    return [...this.#options.images.values()].filter(({ names }) => names.length > 0);
  }

  /** May nobody's clean-up remove it? */
  isPinned(row: ImageRow): boolean {
    return this.find(this.sandboxImage) === row;
  }

  /** The key by which pulls are joined: the reference and the login. Throws INVALID_REQUEST. */
  pullKey(text: string, auth: AuthConfig | undefined): string {
    return `${fullName(parseReference(text))} ${authKey(auth)}`;
  }

  /** First stage of a pull, see {@link ImageIntake.resolve}. */
  resolve(text: string, auth: AuthConfig | undefined): Promise<Resolved> {
    return this.#intake.resolve(text, auth);
  }

  /** Second stage: all layers on the disk, held until {@link release}. Returns their ids, bottom first. */
  fetchLayers(resolved: Resolved, options: FetchOptions): Promise<string[]> {
    return this.#intake.fetchLayers(resolved, options);
  }

  /** Last stage: the image under its names, which older images lose. */
  commit(resolved: Resolved, layers: string[]): Promise<ImageRow> {
    return this.#intake.commit(resolved, layers);
  }

  /** Puts the images of an archive file on the node, see {@link ImageIntake.import}. */
  import(path: string, options: FetchOptions & { name?: string }): Promise<ImageRow[]> {
    return this.#intake.import(path, options);
  }

  /** Writes images to an archive file; see {@link ImageArchives.write}. */
  export(rows: readonly ImageRow[], path: string, onLayer?: ExportOptions['onLayer']): Promise<ExportedImage[]> {
    return this.#archives.write(rows, path, onLayer);
  }

  /**
   * Removes images that no pod, container or image volume uses, but for the pinned one: all of them, or, with
   * `keepBytes`, those whose last use lies furthest back until images take no more than that. Returns them with the
   * bytes that they freed.
   */
  async removeUnused({ keepBytes }: { keepBytes?: number } = {}): Promise<{ images: ImageRow[]; bytes: number }> {
    const before = await this.#bytes();
    const enough = async () => keepBytes !== undefined && (await this.#bytes()) <= keepBytes;
    const images = await this.#collector.collect(enough);
    return { images, bytes: before - (await this.#bytes()) };
  }

  /**
   * Starts the threads that a first pull would wait for: pulls come soon after a start, and loading what they run takes
   * each of them a tenth of a second. `practise`: a folder that may be made. They end when nothing has come for some
   * seconds.
   */
  warm(practise: string): void {
    this.layers.warm(practise);
    const { warmRegistry, log } = this.#options;
    warmRegistry().catch((err) => log.debug({ err }, 'the thread for registries is not started early'));
  }

  /** Keeps the limits of the configuration from now on. */
  startCollecting(): void {
    this.#collector.start();
  }

  [Symbol.dispose](): void {
    this.#collector[Symbol.dispose]();
    this.#client?.[Symbol.dispose]();
  }

  /** Bytes of layers, of what the snapshotter makes of them, and of blobs. */
  async #bytes(): Promise<number> {
    return sum(sum(this.layers.usage, this.#snapshotter.usage()), await this.#blobs.usage()).bytes;
  }

  /** A pull is over, in whatever way: layers that no image took are not kept for it any longer. */
  release(layers: readonly string[]): void {
    this.layers.release(layers);
  }

  /**
   * Removes all names of an image, and its layers unless a container needs them; waits until their folders are gone,
   * 10 s at most. The built-in pause image keeps its name: no registry has it, and pods would not start any more.
   */
  async remove(row: ImageRow): Promise<void> {
    this.#names.removeAll(row);
    const isBuiltIn = this.#options.config.images.sandbox_image === '' && row.id === pauseImage().id;
    if (isBuiltIn) this.#names.give(row, [BUILT_IN_PAUSE]);
    await Promise.race([this.sweep(), sleep(REMOVE_MS, undefined, { ref: false })]);
  }

  /** Removes images without names that nobody uses, and layers of no image. */
  sweep(): Promise<void> {
    return this.#sweeper.sweep();
  }

  /** The ids of a user that the image's /etc/passwd and /etc/group define; see {@link ImageUsers.find}. */
  lookUpUser(row: ImageRow, request: UserRequest): Promise<FoundUser> {
    return this.#users.find(row, request);
  }

  /** As CRI clients see it. */
  get snapshotterName(): string {
    return this.#snapshotter.name;
  }

  /** A container's writable snapshot on top of the image; see {@link Snapshotter.prepare}. */
  prepareSnapshot(snapshot: WritableSnapshot & { owner?: { uid: number; gid: number } }): Promise<void> {
    return this.#snapshotter.prepare(snapshot);
  }

  /** Idempotent. A snapshot of a proxy snapshotter goes there too, whatever is configured now. */
  async removeSnapshot(dir: string): Promise<void> {
    await removeProxied(dir);
    await this.#options.snapshots.remove({ dir });
  }

  /** A container's root. */
  rootfsMounts(image: ImageRow, dir: string): Promise<LayerMount[]> {
    return this.#snapshotter.mounts({ dir, image });
  }

  /** The image alone, read-only. */
  viewMounts(row: ImageRow): Promise<LayerMount[]> {
    return this.#snapshotter.view(row);
  }

  /** What images and containers take on the disk, without waiting for a walk of it. */
  fsInfo(): Promise<FsUsage> {
    return this.#fsInfo.read();
  }
}

const sum = (one: Usage, other: Usage): Usage => ({
  bytes: one.bytes + other.bytes,
  inodes: one.inodes + other.inodes,
});

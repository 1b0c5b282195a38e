import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AuthConfig } from '../../../proto/gen/cri.ts';
import { explain, SluiceError } from '../../errors.ts';
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
import { authKey, storedAuth } from './credentials.ts';
import { FsInfo, type FsUsage } from './fs-info.ts';
import { ImageArchives } from './image-archives.ts';
import { ImageNames } from './image-names.ts';
import { rowOf } from './image-row.ts';
import { ImageUsers } from './image-users.ts';
import type { LayerFetcherOptions } from './layer-fetcher.ts';
import type { FetchOptions, LayerStore } from './layer-store.ts';
import { BUILT_IN_PAUSE, pauseImage } from './pause-image.ts';
import { digestName, fullName, nameOf, parseReference, tagName } from './reference.ts';
import { Registry } from './registry.ts';
import { type Resolved, type ResolvedImage, readImage, resolveImage } from './resolve.ts';
import type { ImageRow, LayerRow } from './rows.ts';
import { checkSignature } from './signatures.ts';
import { makeSnapshotter } from './snapshotters/make.ts';
import { removeProxied } from './snapshotters/proxy.ts';
import type { LayerMount, Snapshotter, SnapshotWorker, WritableSnapshot } from './snapshotters/snapshotter.ts';
import { layersOf, Sweeper } from './sweeper.ts';
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

/** Milliseconds until the built-in image is tried once more where the disk is full. */
const INSTALL_AGAIN_MS = 60_000;
/** RemoveImage waits so long for the layers' folders to go: kubelet measures the disk again after it. */
const REMOVE_MS = 10_000;

/** The images on the node and their layers. */
export class Images implements Disposable {
  /** Reference of the pause process's image. */
  readonly sandboxImage: string;
  readonly #sandboxName: string;
  /** Where the file system of images and writable layers is found. */
  readonly mountpoint: string;
  readonly layers: LayerStore;
  readonly #snapshotter: Snapshotter;
  readonly #client: Disposable | undefined;
  readonly #options: ImagesOptions;
  readonly #names: ImageNames;
  readonly #registry: Registry;
  readonly #fsInfo: FsInfo;
  readonly #blobs: BlobStore;
  readonly #collector: Collector;
  readonly #sweeper: Sweeper;
  readonly #archives: ImageArchives;
  readonly #users: ImageUsers;
  /** Id of the built-in pause image, when it is the one that is used. */
  #builtIn: string | undefined;

  constructor(options: ImagesOptions) {
    const { config, pool, ask, layers, images, log } = options;
    this.#options = options;
    this.sandboxImage = config.images.sandbox_image || BUILT_IN_PAUSE;
    this.#sandboxName = fullName(parseReference(this.sandboxImage));
    this.mountpoint = config.root;
    this.#blobs = new BlobStore(config.root);
    this.#names = new ImageNames(images);
    this.#registry = new Registry({
      get config() {
        return config.images.registry_config; // a reload changes it
      },
      ask,
      files: options.files,
      onRetry: options.onRetry,
    });
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
    this.#fsInfo = new FsInfo({
      root: config.root,
      layers: () => sum(this.layers.usage, this.#snapshotter.usage()),
      blobs: () => this.#blobs.usage(),
      walk: options.diskUsage,
      onProblem: (folder, err) => log.warn({ folder, err }, 'the size of the snapshots is not known'),
    });
  }

  /**
   * After a start: rows and folders are made to agree, and the built-in pause image is there. `keepUnknown`: layers
   * without a row stay, since containers that the store has lost may run from them.
   */
  async recover({ keepUnknown = false } = {}): Promise<void> {
    const { images, layers, log, config } = this.#options;
    await this.#checkSnapshotter();
    for (const row of [...images.values()]) {
      if (row.layers.every((id) => layers.get(id)?.ready && this.layers.has(id))) continue;
      log.warn({ image: row.id, names: row.names }, 'layers of this image are gone; it must be pulled again');
      images.delete(row.id);
    }
    await this.layers.recover(layersOf(images), { keepUnknown });
    // A row whose folder somebody removed.
    for (const row of [...images.values()]) {
      if (!row.layers.every((id) => this.layers.has(id))) images.delete(row.id);
    }
    this.#names.rebuild();
    await this.#archives.clear();
    if (config.images.keep_blobs) await this.#blobs.prepare();
    if (config.images.sandbox_image === '') await this.#installPause();
    this.sweep().catch((err) => log.error({ err }, 'layers of no image could not be removed'));
  }

  /**
   * Layers in a proxy snapshotter and layers in folders are of no use to each other. Throws CONFIG_INVALID where
   * something runs from the others; else they are forgotten, and pulled again.
   */
  async #checkSnapshotter(): Promise<void> {
    const { layers, config, log, usedImages } = this.#options;
    const isProxy = config.images.snapshotter === 'proxy';
    const others = [...layers.values()].filter(({ ready, snapshot }) => ready && (snapshot !== undefined) !== isProxy);
    if (others.length === 0) return;
    if ((await usedImages()).size > 0) {
      const words = `images.snapshotter is "${config.images.snapshotter}" now, and pods or containers run from layers of another one: remove them first`;
      throw new SluiceError('CONFIG_INVALID', words);
    }
    log.warn(
      { snapshotter: config.images.snapshotter, layers: others.length },
      'layers of another snapshotter are dropped',
    );
    for (const { id } of others) layers.delete(id);
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

  /**
   * First stage of a pull: what the reference stands for, and the image's config. The sandbox image is pulled with the
   * node's own credentials where the caller has none.
   */
  async resolve(text: string, auth: AuthConfig | undefined): Promise<Resolved> {
    const reference = parseReference(text);
    this.layers.warm();
    const { credentials } = this.#options.config.images;
    const isSandbox = fullName(reference) === this.#sandboxName;
    const own = isSandbox && authKey(auth) === '' && credentials !== '';
    const login = own ? await storedAuth(credentials, nameOf(reference), this.#options.files) : auth;
    const repository = await this.#registry.open(reference, login);
    const known = (digest: string) => this.find(digestName(reference, digest)) ?? this.#byDigest(digest);
    const resolved = await resolveImage(repository, known);
    const policy = this.#options.config.images.signature_policy;
    if (policy !== '') await checkSignature(policy, resolved, repository, this.#options.files);
    return resolved;
  }

  /** Second stage: all layers on the disk, held until {@link release}. Returns their ids, bottom first. */
  async fetchLayers(resolved: Resolved, options: FetchOptions): Promise<string[]> {
    const { present, repository, digest } = resolved;
    if (present) {
      if (this.#options.images.get(present.id) === present && this.layers.hold(present.layers, options.onHold))
        return present.layers;
      // Removed since the first stage.
      resolved.present = undefined;
    }
    resolved.image ??= await readImage(repository, digest);
    const { layers, diffIds } = resolved.image;
    const wanted = layers.map((blob, index) => ({ blob, diffId: diffIds[index] ?? '', name: blob.name, repository }));
    const image = {
      reference: fullName(resolved.reference),
      manifest: resolved.image.manifests.at(-1)?.digest ?? digest,
    };
    const rows = await this.#sweeper.during(() => this.layers.fetchAll(wanted, { ...options, image }));
    return rows.map(({ id }) => id);
  }

  /** Last stage: the image under its names, which older images lose. */
  async commit({ reference, digest, image, present }: Resolved, layers: string[]): Promise<ImageRow> {
    try {
      return await this.#sweeper.during(async () => {
        if (image) await this.#keepTexts(image);
        const names = [tagName(reference) ?? '', digestName(reference, digest)].filter((name) => name !== '');
        const id = present?.id ?? image?.id ?? '';
        // Where it was removed meanwhile, the layers that are held make it whole again.
        const gone = present && { ...present, names: [], merged: undefined };
        const old = this.#options.images.get(id) ?? gone;
        const of = image ? rowOf(image, layers) : old;
        if (!of) throw new Error(`a pull of ${id} has neither an image nor its row`);
        return await this.#put({ names: [], ...old, ...of }, names);
      });
    } finally {
      void this.#collector.check();
    }
  }

  /** The image is on the node from now on, under these names too. */
  async #put(image: ImageRow, names: string[]): Promise<ImageRow> {
    const row: ImageRow = { ...image, pulledAt: Date.now() };
    await this.#snapshotter.adopt(row);
    this.#names.give(row, names);
    this.#collector.pulled(row.id);
    return row;
  }

  /**
   * Puts the images of an archive file on the node, each under the names that it has there; `name` is for one without
   * any. Throws IMAGE_INVALID, INVALID_REQUEST, DISK_FULL.
   */
  import(path: string, { name, ...options }: FetchOptions & { name?: string }): Promise<ImageRow[]> {
    return this.#sweeper.during(() =>
      this.#archives.read(path, name, async ({ names, digest, image }, wanted) => {
        const layers = await this.layers.fetchAll(wanted, options);
        await this.#keepTexts(image);
        const ids = layers.map(({ id }) => id);
        const byDigest =
          digest === undefined ? [] : names.map((tag) => `${tag.slice(0, tag.lastIndexOf(':'))}@${digest}`);
        const old = this.#options.images.get(image.id);
        return this.#put({ names: [], ...old, ...rowOf(image, ids) }, [...names, ...byDigest]);
      }),
    );
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
   * each of them a tenth of a second. They end when nothing has come for a minute.
   */
  warm(): void {
    this.layers.warm();
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

  /** Keeps manifest and config where layers are kept. */
  async #keepTexts({ id, manifests, configBody }: ResolvedImage): Promise<void> {
    if (!this.#options.config.images.keep_blobs) return;
    for (const { digest, body } of manifests) await this.#blobs.put(digest, body);
    if (configBody.length > 0) await this.#blobs.put(id, configBody);
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
    if (row.id === this.#builtIn) this.#names.give(row, [BUILT_IN_PAUSE]);
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

  #byDigest(digest: string): ImageRow | undefined {
    return this.list().find(({ names }) => names.some((name) => name.endsWith(`@${digest}`)));
  }

  /** The pause image comes with the program: pods start on a node that reaches no registry. */
  async #installPause(): Promise<void> {
    try {
      const { id, diffId, config, file } = pauseImage();
      const layer = await this.layers.builtIn(diffId, this.#options.installPause);
      const old = this.#options.images.get(id);
      const row: ImageRow = { id, names: [], ...old, config, file, layers: [layer.id], size: layer.bytes };
      await this.#snapshotter.adopt(row);
      this.#names.give(row, [BUILT_IN_PAUSE]);
      this.#builtIn = id;
    } catch (cause) {
      // On a full disk, say. It must not keep the daemon from starting: the disk is freed by removing pods and images.
      const { log } = this.#options;
      log.error({ reason: explain(cause) }, 'the built-in pause image cannot be installed; trying on');
      setTimeout(() => void this.#installPause(), INSTALL_AGAIN_MS).unref();
    }
  }
}

const sum = (one: Usage, other: Usage): Usage => ({
  bytes: one.bytes + other.bytes,
  inodes: one.inodes + other.inodes,
});

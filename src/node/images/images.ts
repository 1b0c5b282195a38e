import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
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
import { type ExportedImage, type ExportOptions, exportImages } from './archive-export.ts';
import { imagesIn } from './archive-import.ts';
import { BlobStore } from './blob-store.ts';
import { Collector } from './collector.ts';
import { authKey, storedAuth } from './credentials.ts';
import { FsInfo, type FsUsage } from './fs-info.ts';
import { ImageNames } from './image-names.ts';
import type { LayerFetcherOptions } from './layer-fetcher.ts';
import type { FetchOptions, LayerStore } from './layer-store.ts';
import { BUILT_IN_PAUSE, pauseImage } from './pause-image.ts';
import { digestName, fullName, nameOf, parseReference, tagName } from './reference.ts';
import { Registry, type Repository } from './registry.ts';
import { type Resolved, type ResolvedImage, readImage, resolveImage } from './resolve.ts';
import type { ImageRow, LayerRow } from './rows.ts';
import { checkSignature } from './signatures.ts';
import { makeSnapshotter } from './snapshotters/make.ts';
import { removeProxied } from './snapshotters/proxy.ts';
import type { LayerMount, Snapshotter, SnapshotWorker, WritableSnapshot } from './snapshotters/snapshotter.ts';
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

/** How often images that were removed while in use are examined. */
const SWEEP_MS = 60_000;
/** Users that are kept, the latest ones. */
const KEPT_USERS = 1000;
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
  /** Pulls and imports in flight: blobs that no record names yet may be theirs. */
  #busy = 0;
  /** Users that were looked up, by image and request; an id names one content. */
  readonly #users = new Map<string, Promise<FoundUser>>();
  /** Id of the built-in pause image, when it is the one that is used. */
  #builtIn: string | undefined;
  #sweeping: NodeJS.Timeout | undefined;

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
    await this.layers.recover(this.#usedLayers(), { keepUnknown });
    // A row whose folder somebody removed.
    for (const row of [...images.values()]) {
      if (!row.layers.every((id) => this.layers.has(id))) images.delete(row.id);
    }
    this.#names.rebuild();
    await rm(this.#scratch, { recursive: true, force: true });
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
    this.#busy++;
    try {
      const of = {
        reference: fullName(resolved.reference),
        manifest: resolved.image.manifests.at(-1)?.digest ?? digest,
      };
      return (await this.layers.fetchAll(wanted, { ...options, image: of })).map(({ id }) => id);
    } finally {
      this.#busy--;
    }
  }

  /** Last stage: the image under its names, which older images lose. */
  async commit({ reference, digest, image, present }: Resolved, layers: string[]): Promise<ImageRow> {
    this.#busy++;
    try {
      if (image) await this.#keepTexts(image);
      const names = [tagName(reference) ?? '', digestName(reference, digest)].filter((name) => name !== '');
      const id = present?.id ?? image?.id ?? '';
      // Where it was removed meanwhile, the layers that are held make it whole again.
      const gone = present && { ...present, names: [], merged: undefined };
      const old = this.#options.images.get(id) ?? gone;
      const of = image ? rowOf(image, layers) : old;
      if (!of) throw new Error(`a pull of ${id} has neither an image nor its row`);
      const row: ImageRow = { names: [], ...old, ...of, pulledAt: Date.now() };
      await this.#snapshotter.adopt(row);
      this.#names.give(row, names);
      this.#collector.pulled(id);
      return row;
    } finally {
      this.#busy--;
      void this.#collector.check();
    }
  }

  /**
   * Puts the images of an archive file on the node, each under the names that it has there; `name` is for one without
   * any. Throws IMAGE_INVALID, INVALID_REQUEST, DISK_FULL.
   */
  async import(path: string, { name, ...options }: FetchOptions & { name?: string }): Promise<ImageRow[]> {
    const folder = join(this.#scratch, crypto.randomUUID());
    this.#busy++;
    try {
      const idleMs = this.#options.config.images.progress_timeout_seconds * 1000;
      const archive = await this.#options.pool.call('readArchive', { path, folder, idleMs });
      const rows: ImageRow[] = [];
      for (const { names, digest, image, files } of await imagesIn(archive, name)) {
        const wanted = image.layers.map((blob, index) => ({
          blob,
          diffId: image.diffIds[index] ?? '',
          name: blob.name,
          repository: localLayer(files[index] ?? ''),
        }));
        const layers = await this.layers.fetchAll(wanted, options);
        await this.#keepTexts(image);
        const row: ImageRow = {
          names: [],
          ...this.#options.images.get(image.id),
          ...rowOf(
            image,
            layers.map(({ id }) => id),
          ),
          pulledAt: Date.now(),
        };
        await this.#snapshotter.adopt(row);
        const byDigest =
          digest === undefined ? [] : names.map((tag) => `${tag.slice(0, tag.lastIndexOf(':'))}@${digest}`);
        this.#names.give(row, [...names, ...byDigest]);
        this.#collector.pulled(row.id);
        rows.push(row);
      }
      return rows;
    } finally {
      this.#busy--;
      await rm(folder, { recursive: true, force: true });
    }
  }

  /** Writes images to an archive file (an OCI layout that docker reads too). Throws DISK_FULL. */
  export(rows: readonly ImageRow[], path: string, onLayer?: ExportOptions['onLayer']): Promise<ExportedImage[]> {
    const scratch = join(this.#scratch, crypto.randomUUID());
    if (this.#snapshotter.name === 'proxy')
      return Promise.reject(
        new SluiceError('INVALID_REQUEST', 'images of a proxy snapshotter are not exported: it has their layers'),
      );
    const layerFolder = (id: string) => join(this.layers.folder, id);
    const { pool } = this.#options;
    return mkdir(scratch, { recursive: true, mode: 0o700 }).then(() =>
      exportImages(rows, { pool, blobs: this.#blobs, scratch, layerFolder, path, onLayer }),
    );
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

  get #scratch(): string {
    return join(this.#options.config.root, 'tmp-images');
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
  async sweep(): Promise<void> {
    const { images, log } = this.#options;
    const nameless = () => [...images.values()].filter(({ names }) => names.length === 0);
    if (nameless().length > 0) {
      const used = await this.#options.usedImages();
      for (const row of nameless()) {
        if (used.has(row.id)) continue;
        images.delete(row.id);
      }
    }
    // What the snapshotter makes of an image stands on its layers.
    const trees = this.#busy > 0 ? Promise.resolve() : this.#snapshotter.sweep([...images.values()]);
    const removed = Promise.all([trees.then(() => this.layers.sweep(this.#usedLayers())), this.#sweepBlobs()]);
    clearTimeout(this.#sweeping);
    if (nameless().length === 0) return void (await removed);
    const again = () => this.sweep().catch((err) => log.error({ err }, 'removed images could not be swept'));
    this.#sweeping = setTimeout(again, SWEEP_MS).unref();
    await removed;
  }

  async #sweepBlobs(): Promise<void> {
    const rows = [...this.#options.images.values()];
    const used = rows.flatMap(({ blobs }) => (blobs ? [blobs.manifest, blobs.config, ...blobs.layers] : []));
    await this.#blobs.sweep(new Set(used.map(({ digest }) => digest)), this.#busy > 0);
  }

  /**
   * The ids of a user that the image's /etc/passwd and /etc/group define; each is looked up once. Throws
   * INVALID_REQUEST for a name that they do not define, IMAGE_INVALID for files out of bounds.
   */
  lookUpUser(row: ImageRow, request: UserRequest): Promise<FoundUser> {
    const key = `${row.id} ${JSON.stringify(request)}`;
    let user = this.#users.get(key);
    if (!user) {
      user = this.#snapshotter.folders(row).then((dirs) => this.#options.lookUpUser({ dirs, request }));
      this.#users.set(key, user);
      user.catch(() => this.#users.delete(key));
      for (const oldest of this.#users.keys()) {
        if (this.#users.size <= KEPT_USERS) break;
        this.#users.delete(oldest);
      }
    }
    return user;
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

  #usedLayers(): Set<string> {
    return new Set([...this.#options.images.values()].flatMap(({ layers }) => layers));
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
      setTimeout(() => void this.#installPause(), SWEEP_MS).unref();
    }
  }
}

const sum = (one: Usage, other: Usage): Usage => ({
  bytes: one.bytes + other.bytes,
  inodes: one.inodes + other.inodes,
});

function rowOf(image: NonNullable<Resolved['image']>, layers: string[]): Omit<ImageRow, 'names'> {
  const { id, config, file, size, artifact } = image;
  return { id, config, file, layers, size, blobs: blobsOf(image), ...(artifact !== undefined && { artifact }) };
}

function blobsOf({ id, manifests, configBody, layers }: ResolvedImage): ImageRow['blobs'] {
  const own = manifests.at(-1);
  if (!own || configBody.length === 0) return undefined;
  const { digest, mediaType, body } = own;
  return {
    manifest: { digest, mediaType, size: body.length },
    config: { digest: id, mediaType: 'application/vnd.oci.image.config.v1+json', size: configBody.length },
    layers: layers.map((layer) => ({ digest: layer.digest, size: layer.size, mediaType: layer.mediaType })),
  };
}

/** Stands for a registry where a blob is a file on this machine. */
function localLayer(file: string): Pick<Repository, 'layer'> {
  const source = { url: pathToFileURL(file).href, headers: {}, authorizations: {}, tls: {}, dialTimeoutMs: 1000 };
  return { layer: (_, fetch) => fetch(source, async () => undefined) };
}

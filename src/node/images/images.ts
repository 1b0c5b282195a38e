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
import type { Log } from '../observe/log.ts';
import type { Table } from '../store/table.ts';
import type { Pool } from '../threads/pool.ts';
import { type ExportedImage, type ExportOptions, exportImages } from './archive-export.ts';
import { imagesIn } from './archive-import.ts';
import { BlobStore } from './blob-store.ts';
import { authKey, storedAuth } from './credentials.ts';
import { FsInfo, type FsUsage } from './fs-info.ts';
import { ImageNames } from './image-names.ts';
import { type FetchOptions, Layers, type LayersOptions } from './layers.ts';
import { type LayerMount, layerMounts, viewOf } from './mounts.ts';
import { BUILT_IN_PAUSE, pauseImage } from './pause-image.ts';
import { digestName, fullName, nameOf, parseReference, tagName } from './reference.ts';
import { Registry, type Repository } from './registry.ts';
import { type Resolved, type ResolvedImage, readImage, resolveImage } from './resolve.ts';
import type { ImageRow, LayerRow } from './rows.ts';
import { checkSignature } from './signatures.ts';
import type { Ask } from './tokens.ts';

/** What images use of other services of the node. */
export interface ImageSurroundings {
  /** Ids of the images that containers and pods were made from. */
  usedImages: () => Promise<Set<string>>;
  diskUsage: (folder: string) => Promise<DiskReading | undefined>;
  /** Handlers of the image workers, in a pool where they do not wait for downloads. */
  lookUpUser: (input: LookUpUser) => Promise<FoundUser>;
  removeLayer: (dir: string) => Promise<void>;
  installPause: (dir: string) => Promise<Usage>;
  onLayer: (how: 'pulled' | 'present' | 'joined') => void;
  onFetched: NonNullable<LayersOptions['onFetched']>;
  onSynced: (seconds: number) => void;
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
export class Images {
  /** Reference of the pause process's image. */
  readonly sandboxImage: string;
  readonly #sandboxName: string;
  /** Where the file system of images and writable layers is found. */
  readonly mountpoint: string;
  readonly layers: Layers;
  readonly #options: ImagesOptions;
  readonly #names: ImageNames;
  readonly #registry: Registry;
  readonly #fsInfo: FsInfo;
  readonly #blobs: BlobStore;
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
    this.layers = new Layers({
      root: config.root,
      pool,
      removeLayer: options.removeLayer,
      measure: options.diskUsage,
      rows: layers,
      maxDownloads: config.images.max_downloads,
      get progressTimeoutMs() {
        return config.images.progress_timeout_seconds * 1000; // likewise
      },
      log,
      onFetched: options.onFetched,
      onLayer: options.onLayer,
      onSynced: options.onSynced,
      keepBlob: (digest) => (config.images.keep_blobs ? this.#blobs.pathOf(digest) : undefined),
    });
    this.#fsInfo = new FsInfo({
      root: config.root,
      layers: () => this.layers.usage,
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
    for (const row of [...images.values()]) {
      if (row.layers.every((id) => layers.get(id)?.ready)) continue;
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
      return (await this.layers.fetchAll(wanted, options)).map(({ id }) => id);
    } finally {
      this.#busy--;
    }
  }

  /** Last stage: the image under its names, which older images lose. */
  async commit({ reference, digest, image, present }: Resolved, layers: string[]): Promise<ImageRow> {
    if (image) await this.#keepTexts(image);
    const names = [tagName(reference) ?? '', digestName(reference, digest)].filter((name) => name !== '');
    const id = present?.id ?? image?.id ?? '';
    const old = this.#options.images.get(id);
    if (!image && !old) throw new SluiceError('IMAGE_NOT_FOUND', `image ${id} was removed while it was pulled`);
    const row: ImageRow = { names: [], ...old, ...(image ? rowOf(image, layers) : (old as ImageRow)) };
    this.#names.give(row, names);
    return row;
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
        const row = {
          names: [],
          ...this.#options.images.get(image.id),
          ...rowOf(
            image,
            layers.map(({ id }) => id),
          ),
        };
        const byDigest =
          digest === undefined ? [] : names.map((tag) => `${tag.slice(0, tag.lastIndexOf(':'))}@${digest}`);
        this.#names.give(row, [...names, ...byDigest]);
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
    const layerFolder = (id: string) => join(this.layers.folder, id);
    const { pool } = this.#options;
    return mkdir(scratch, { recursive: true, mode: 0o700 }).then(() =>
      exportImages(rows, { pool, blobs: this.#blobs, scratch, layerFolder, path, onLayer }),
    );
  }

  /**
   * Removes the images that no pod, container or image volume uses, but for the pinned one; returns them with the bytes
   * that they freed.
   */
  async removeUnused(): Promise<{ images: ImageRow[]; bytes: number }> {
    const used = await this.#options.usedImages();
    const unused = this.list().filter((row) => !used.has(row.id) && !this.isPinned(row));
    const removed = unused.map((row) => ({ ...row, names: [...row.names] }));
    const before = this.layers.usage.bytes;
    for (const row of unused) this.#names.removeAll(row);
    await this.sweep();
    return { images: removed, bytes: before - this.layers.usage.bytes };
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
    const removed = Promise.all([this.layers.sweep(this.#usedLayers()), this.#sweepBlobs()]);
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
      user = this.#options.lookUpUser({ dirs: this.#dirs(row), request });
      this.#users.set(key, user);
      user.catch(() => this.#users.delete(key));
      for (const oldest of this.#users.keys()) {
        if (this.#users.size <= KEPT_USERS) break;
        this.#users.delete(oldest);
      }
    }
    return user;
  }

  /** A container's root: its writable snapshot on top of the image. */
  rootfsMounts(row: ImageRow, snapshot: string): LayerMount[] {
    return layerMounts(this.#dirs(row), snapshot, this.#options.config.images.volatile);
  }

  /** The image alone, read-only. */
  viewMounts(row: ImageRow): LayerMount[] {
    return viewOf(this.#dirs(row));
  }

  /** What images and containers take on the disk, without waiting for a walk of it. */
  fsInfo(): Promise<FsUsage> {
    return this.#fsInfo.read();
  }

  /** Folders of the layers, topmost first. A layer that is there twice counts where it is on top. */
  #dirs(row: ImageRow): string[] {
    const ids = new Set(row.layers.toReversed());
    return ids.size === 0 ? [this.layers.emptyDir] : [...ids].map((id) => this.layers.dirOf(id));
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
      const row = { id, names: [], config, file, layers: [layer.id], size: layer.bytes };
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

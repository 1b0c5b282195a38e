import type { AuthConfig } from '../../../proto/gen/cri.ts';
import type { HostFiles } from '../../workers/host-paths/read-file.ts';
import type { Config } from '../config/config.ts';
import type { Table } from '../store/table.ts';
import type { BlobStore } from './blob-store.ts';
import type { Collector } from './collector.ts';
import { authKey, storedAuth } from './credentials.ts';
import type { ImageArchives } from './image-archives.ts';
import type { ImageNames } from './image-names.ts';
import { rowOf } from './image-row.ts';
import type { FetchOptions, LayerStore } from './layer-store.ts';
import { digestName, fullName, nameOf, parseReference, tagName } from './reference.ts';
import type { Registry } from './registry.ts';
import { type Resolved, type ResolvedImage, readImage, resolveImage } from './resolve.ts';
import type { ImageRow } from './rows.ts';
import { checkSignature } from './signatures.ts';
import type { Snapshotter } from './snapshotters/snapshotter.ts';
import type { Sweeper } from './sweeper.ts';

export interface ImageIntakeOptions {
  config: Pick<Config, 'images'>;
  /** Reference of the pause process's image. */
  sandboxImage: string;
  files: HostFiles;
  registry: Registry;
  images: Table<ImageRow>;
  names: ImageNames;
  layers: LayerStore;
  snapshotter: Snapshotter;
  blobs: BlobStore;
  archives: ImageArchives;
  sweeper: Sweeper;
  collector: Collector;
}

/** How images come to the node: pulled in three stages, or from an archive file. */
export class ImageIntake {
  readonly #options: ImageIntakeOptions;
  readonly #sandboxName: string;

  constructor(options: ImageIntakeOptions) {
    this.#options = options;
    this.#sandboxName = fullName(parseReference(options.sandboxImage));
  }

  /**
   * First stage of a pull: what the reference stands for, and the image's config. The sandbox image is pulled with the
   * node's own credentials where the caller has none.
   */
  async resolve(text: string, auth: AuthConfig | undefined): Promise<Resolved> {
    const reference = parseReference(text);
    this.#options.layers.warm();
    const { credentials } = this.#options.config.images;
    const isSandbox = fullName(reference) === this.#sandboxName;
    const own = isSandbox && authKey(auth) === '' && credentials !== '';
    const login = own ? await storedAuth(credentials, nameOf(reference), this.#options.files) : auth;
    const repository = await this.#options.registry.open(reference, login);
    const known = (digest: string) =>
      this.#options.names.find(digestName(reference, digest)) ?? this.#withDigest(digest);
    const resolved = await resolveImage(repository, known);
    const policy = this.#options.config.images.signature_policy;
    if (policy !== '') await checkSignature(policy, resolved, repository, this.#options.files);
    return resolved;
  }

  /**
   * Second stage: all layers on the disk, held until {@link LayerStore.release}. Returns their ids, bottom first.
   * Throws what {@link LayerStore.fetchAll} throws.
   */
  async fetchLayers(resolved: Resolved, options: FetchOptions): Promise<string[]> {
    const { present, repository, digest } = resolved;
    if (present) {
      if (this.#options.images.get(present.id) === present && this.#options.layers.hold(present.layers, options.onHold))
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
    const rows = await this.#options.sweeper.during(() => this.#options.layers.fetchAll(wanted, { ...options, image }));
    return rows.map(({ id }) => id);
  }

  /** Last stage: the image under its names, which older images lose. */
  async commit({ reference, digest, image, present }: Resolved, layers: string[]): Promise<ImageRow> {
    try {
      return await this.#options.sweeper.during(async () => {
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
      void this.#options.collector.check();
    }
  }

  /** The image is on the node from now on, under these names too. */
  async #put(image: ImageRow, names: string[]): Promise<ImageRow> {
    const row: ImageRow = { ...image, pulledAt: Date.now() };
    await this.#options.snapshotter.adopt(row);
    this.#options.names.give(row, names);
    this.#options.collector.pulled(row.id);
    return row;
  }

  /**
   * Puts the images of an archive file on the node, each under the names that it has there; `name` is for one without
   * any. Throws IMAGE_INVALID, INVALID_REQUEST, DISK_FULL.
   */
  import(path: string, { name, ...options }: FetchOptions & { name?: string }): Promise<ImageRow[]> {
    return this.#options.sweeper.during(() =>
      this.#options.archives.read(path, name, async ({ names, digest, image }, wanted) => {
        const layers = await this.#options.layers.fetchAll(wanted, options);
        await this.#keepTexts(image);
        const ids = layers.map(({ id }) => id);
        const byDigest =
          digest === undefined ? [] : names.map((tag) => `${tag.slice(0, tag.lastIndexOf(':'))}@${digest}`);
        const old = this.#options.images.get(image.id);
        return this.#put({ names: [], ...old, ...rowOf(image, ids) }, [...names, ...byDigest]);
      }),
    );
  }

  /** Keeps manifest and config where layers are kept. */
  async #keepTexts({ id, manifests, configBody }: ResolvedImage): Promise<void> {
    if (!this.#options.config.images.keep_blobs) return;
    for (const { digest, body } of manifests) await this.#options.blobs.put(digest, body);
    if (configBody.length > 0) await this.#options.blobs.put(id, configBody);
  }

  #withDigest(digest: string): ImageRow | undefined {
    return [...this.#options.images.values()].find(({ names }) => names.some((name) => name.endsWith(`@${digest}`)));
  }
}

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Mount } from '../../../../proto/gen/types.ts';
import { SluiceError } from '../../../errors.ts';
import { overlayPaths } from '../../../sys/overlay.ts';
import { Snapshots, type SnapshotsAddress } from '../../grpc/snapshots.ts';
import { chainIdOf } from '../digest.ts';
import type { ImageRow } from '../rows.ts';
import type { LayerMount, Snapshotter, SnapshotWorker, Usage, WritableSnapshot } from './snapshotter.ts';

export interface ProxySnapshotterOptions {
  client: Snapshots;
  worker: SnapshotWorker;
  /** Labels of everything that this daemon has there. */
  labels: Record<string, string>;
}

/** In a snapshot's folder: which snapshotter has it, so that its removal needs no configuration. */
const MARK = 'proxy.json';

/**
 * Another daemon that speaks containerd's snapshots protocol, and keeps the layers (proxy-layers.ts) as well as what
 * containers write. Names there: a layer's chainID, a container's id.
 */
export class ProxySnapshotter implements Snapshotter {
  readonly name = 'proxy';
  readonly #options: ProxySnapshotterOptions;

  constructor(options: ProxySnapshotterOptions) {
    this.#options = options;
  }

  async prepare({ dir, image, owner }: WritableSnapshot & { owner?: { uid: number; gid: number } }): Promise<void> {
    const { client, worker, labels } = this.#options;
    await mkdir(dir, { recursive: true, mode: 0o700 });
    // Before anything exists there that a removal would have to know of.
    await writeFile(join(dir, MARK), JSON.stringify(client.address), { mode: 0o600 });
    const key = basename(dir);
    const made = await client.prepare(key, parentOf(image), labels);
    const mounts = made === 'exists' ? await client.mounts(key) : made;
    const upper = upperOf(mounts);
    if (owner && upper === undefined) {
      const words = `the snapshotter at ${client.address.socket} gives no overlay, which a pod with a user namespace needs`;
      throw new SluiceError('SNAPSHOTTER_FAILED', words);
    }
    if (upper !== undefined) await worker.link({ dir, upper, owner });
  }

  async mounts({ dir }: WritableSnapshot): Promise<LayerMount[]> {
    return (await this.#options.client.mounts(basename(dir))).map(asMount);
  }

  async view(image: ImageRow): Promise<LayerMount[]> {
    const { client, labels } = this.#options;
    return (await client.view(viewKey(image.id), parentOf(image), labels)).map(asMount);
  }

  async folders(image: ImageRow): Promise<string[]> {
    const [only, ...more] = await this.view(image);
    const folders = only && more.length === 0 ? foldersOf(only) : undefined;
    if (folders) return folders;
    const types = [only, ...more].map((mount) => mount?.type).join(', ');
    const words = `the snapshotter at ${this.#options.client.address.socket} gives ${types || 'no'} mounts; files are read from overlay and bind mounts only`;
    throw new SluiceError('SNAPSHOTTER_FAILED', words);
  }

  /** What images take there is counted with the layers. */
  usage(): Usage {
    return { bytes: 0, inodes: 0 };
  }

  async adopt(): Promise<void> {}

  /** Removes the views of images that are gone; with {@link ProxySnapshotter.view} they are made again. */
  async sweep(images: readonly ImageRow[]): Promise<void> {
    const { client } = this.#options;
    const kept = new Set(images.map(({ id }) => viewKey(id)));
    for (const { name } of await client.list()) if (name.startsWith(VIEW) && !kept.has(name)) await client.remove(name);
  }
}

const VIEW = 'sluice-view-';
const viewKey = (id: string) => `${VIEW}${id}`;
const parentOf = ({ file }: ImageRow) => chainIdOf(file.rootfs.diff_ids);
const asMount = ({ type, source, target, options }: Mount): LayerMount => ({ type, source, target, options });

function optionOf({ type, options }: Mount | LayerMount, name: string): string | undefined {
  if (type !== 'overlay') return undefined;
  return options.find((option) => option.startsWith(`${name}=`))?.slice(name.length + 1);
}

/** The folder that a container writes to; undefined where it is none of this machine's folders. */
function upperOf(mounts: readonly Mount[]): string | undefined {
  const [only, ...more] = mounts;
  if (!only || more.length > 0) return undefined;
  return only.type === 'bind' ? only.source : overlayPaths(optionOf(only, 'upperdir') ?? '')[0];
}

function foldersOf(mount: LayerMount): string[] | undefined {
  if (mount.type === 'bind') return [mount.source];
  const lower = optionOf(mount, 'lowerdir');
  const upper = optionOf(mount, 'upperdir');
  if (lower === undefined) return undefined;
  return [...overlayPaths(upper ?? ''), ...overlayPaths(lower)];
}

/**
 * Removes the snapshot of this folder from the snapshotter that its mark names; a folder without one has none
 * elsewhere. Throws SNAPSHOTTER_FAILED.
 */
export async function removeProxied(dir: string): Promise<void> {
  let address: SnapshotsAddress;
  try {
    address = JSON.parse(await readFile(join(dir, MARK), 'utf8')) as SnapshotsAddress;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  using client = new Snapshots(address);
  await client.remove(basename(dir));
  await client.cleanup();
}

import type { FillSnapshot } from '../../../workers/image/snapshots.ts';
import type { MountSpec } from '../../../workers/shim/rootfs.ts';
import type { ImageRow } from '../rows.ts';

/** A mount in the form that both the shim's task API and the workers take. */
export type LayerMount = Required<MountSpec>;

export interface Usage {
  bytes: number;
  inodes: number;
}

/** A container's (or pause process's) own writable file system on top of an image. */
export interface WritableSnapshot {
  /** <root>/snapshots/<id>: everything of it lies below, or is named after its last part. */
  dir: string;
  image: ImageRow;
}

/** How containers get a file system of an image's layers. */
export interface Snapshotter {
  /** As CRI clients see it. */
  readonly name: string;
  /**
   * Makes a writable snapshot; `owner` is the host id of root in the pod's user namespace. Idempotent. Throws
   * NAMESPACE_FAILED, DISK_FULL, SNAPSHOTTER_FAILED.
   */
  prepare(snapshot: WritableSnapshot & { owner?: { uid: number; gid: number } }): Promise<void>;
  /** What is mounted, in this order, for a container to run in it. */
  mounts(snapshot: WritableSnapshot): Promise<LayerMount[]>;
  /** The image alone, read-only. */
  view(image: ImageRow): Promise<LayerMount[]>;
  /** The same as folders, topmost first, as an overlay would have them: for reading files without a mount. */
  folders(image: ImageRow): Promise<string[]>;
  /** What it keeps of images besides their layers. */
  usage(): Usage;
  /** An image's layers are complete: makes what its snapshots need. Called before the image is listed. */
  adopt(image: ImageRow): Promise<void>;
  /** Removes what it keeps of other images than these. */
  sweep(images: readonly ImageRow[]): Promise<void>;
}

/** The handlers of the shim pool's workers that snapshotters use. */
export interface SnapshotWorker {
  prepare(input: { dir: string; owner?: { uid: number; gid: number } }): Promise<void>;
  remove(input: { dir: string }): Promise<void>;
  copy(input: { from: string; dir: string }): Promise<void>;
  merge(input: { layers: string[]; dir: string }): Promise<Usage>;
  fill(input: FillSnapshot): Promise<void>;
  link(input: { dir: string; upper: string; owner?: { uid: number; gid: number } }): Promise<void>;
  removeLayer(input: { dir: string }): Promise<void>;
}

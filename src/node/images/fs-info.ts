import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { DiskReading } from '../../workers/stats/disk.ts';
import { DiskUsage } from '../stats/disk-usage.ts';

export interface FsUsage {
  /** Nanoseconds since the epoch. */
  timestamp: bigint;
  /** Layers of images, blobs that are kept, and writable layers of containers. */
  image: { bytes: bigint; inodes: bigint };
  /** Writable layers alone. */
  containers: { bytes: bigint; inodes: bigint };
}

export interface FsInfoOptions {
  /** The daemon's root folder. */
  root: string;
  /** Layers, and what the snapshotter makes of them. */
  layers: () => { bytes: number; inodes: number };
  /** Blobs that are kept. */
  blobs: () => Promise<{ bytes: number; inodes: number }>;
  walk: (folder: string) => Promise<DiskReading | undefined>;
  onProblem: (folder: string, error: unknown) => void;
}

/** The kubelet asks every ten seconds and decides about eviction by the answer: an old one is better than none. */
const PATIENCE_MS = 250;

/** Disk use of images and containers: layers from their records, snapshots by walking them in the background. */
export class FsInfo {
  readonly #options: FsInfoOptions;
  readonly #disk: DiskUsage;

  constructor(options: FsInfoOptions) {
    this.#options = options;
    this.#disk = new DiskUsage({ walk: options.walk, onProblem: options.onProblem, firstWalkMs: PATIENCE_MS });
  }

  /** Within a quarter of a second; before the first walk has ended, without the writable layers. */
  async read(): Promise<FsUsage> {
    const snapshots = await this.#disk.of(join(this.#options.root, 'snapshots'));
    const [layers, blobs] = [this.#options.layers(), await this.#options.blobs()];
    const folders = await ownFolders(this.#options.root);
    const bytes = layers.bytes + blobs.bytes + folders.bytes;
    const inodes = layers.inodes + blobs.inodes + folders.inodes;
    const containers = { bytes: snapshots?.usedBytes ?? 0n, inodes: snapshots?.inodes ?? 0n };
    return {
      timestamp: BigInt(Date.now()) * 1_000_000n,
      image: { bytes: BigInt(bytes) + containers.bytes, inodes: BigInt(inodes) + containers.inodes },
      containers,
    };
  }
}

/** The folders that hold layers and blobs: without them the sum would differ from what du counts. */
const FOLDERS = ['layers', 'layers/_', 'layers/_/fs', 'blobs', 'blobs/sha256', 'blobs/sha512', 'native'];

async function ownFolders(root: string): Promise<{ bytes: number; inodes: number }> {
  const found = await Promise.allSettled(FOLDERS.map((name) => stat(join(root, name))));
  const blocks = found.flatMap((result) => (result.status === 'fulfilled' ? [result.value.blocks] : []));
  return { bytes: blocks.reduce((sum, count) => sum + count * 512, 0), inodes: blocks.length };
}

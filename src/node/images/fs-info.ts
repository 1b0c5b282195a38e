import { join } from 'node:path';
import type { DiskReading } from '../../workers/stats/disk.ts';
import { DiskUsage } from '../stats/disk-usage.ts';

export interface FsUsage {
  /** Nanoseconds since the epoch. */
  timestamp: bigint;
  /** Layers of images and writable layers of containers. */
  image: { bytes: bigint; inodes: bigint };
  /** Writable layers alone. */
  containers: { bytes: bigint; inodes: bigint };
}

export interface FsInfoOptions {
  /** The daemon's root folder. */
  root: string;
  layers: () => { bytes: number; inodes: number };
  walk: (folder: string) => Promise<DiskReading | undefined>;
  onProblem: (folder: string, error: unknown) => void;
}

/** The kubelet asks every ten seconds and decides about eviction with the answer: it must come, if a little old. */
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
    const layers = this.#options.layers();
    const containers = { bytes: snapshots?.usedBytes ?? 0n, inodes: snapshots?.inodes ?? 0n };
    return {
      timestamp: BigInt(Date.now()) * 1_000_000n,
      image: { bytes: BigInt(layers.bytes) + containers.bytes, inodes: BigInt(layers.inodes) + containers.inodes },
      containers,
    };
  }
}

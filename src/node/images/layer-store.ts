import { SluiceError } from '../../errors.ts';
import type { Descriptor } from './manifest.ts';
import type { Repository } from './registry.ts';
import type { LayerRow } from './rows.ts';

export interface WantedLayer {
  diffId: string;
  blob: Descriptor;
  /** The blob is a file of an artifact, to be stored under this path, and not an archive. */
  name?: string;
  repository: Pick<Repository, 'layer'>;
}

/** What one layer of a pull has come to. */
export interface LayerProgress {
  digest: string;
  /** Bytes of the blob, and how many of them have come. */
  size: number;
  downloaded: number;
  state: 'waiting' | 'downloading' | 'done';
}

export interface FetchOptions {
  /** Called with the id of each layer before anything of it exists. */
  onHold: (id: string) => void;
  /** Aborts when the last caller of the pull has left. */
  signal?: AbortSignal;
  /** Before the layers of other pulls. */
  urgent?: boolean;
  /** Is filled with the layers and kept up to date. */
  progress?: LayerProgress[];
  /** The image's name and the digest of its manifest, for a snapshotter that fetches layers itself. */
  image?: { reference: string; manifest: string };
}

/** The layers of images on the node. */
export interface LayerStore {
  /** Where layers are unpacked. */
  readonly folder: string;
  /** What all layers occupy on the disk. */
  readonly usage: { bytes: number; inodes: number };
  /** Layers that are fetched at the same time, from now on. */
  set maxDownloads(limit: number);
  /**
   * Starts what a first layer would wait for. With the path of a folder that may be made, there is time to practise
   * there, too.
   */
  warm(practise?: string): void;
  has(id: string): boolean;
  /**
   * Fetches the layers of an image, given bottom first, and returns their rows; each is held until {@link release}.
   * They are on the disk for good when it returns. A cancelled pull throws CALLER_GONE.
   */
  fetchAll(layers: readonly WantedLayer[], options: FetchOptions): Promise<LayerRow[]>;
  /** A layer that is part of the program; `install` fills its folder. */
  builtIn(diffId: string, install: (dir: string) => Promise<{ bytes: number; inodes: number }>): Promise<LayerRow>;
  /** Holds layers that are present; returns false, and holds none, when one of them is not. */
  hold(ids: readonly string[], onHold: (id: string) => void): boolean;
  release(ids: readonly string[]): void;
  /** Removes the layers that are neither in `used` nor held; resolves when they are gone from the disk. */
  sweep(used: ReadonlySet<string>): Promise<void>;
  /** After a start: removes unfinished layers of a dead daemon, and strays unless `keepUnknown`. */
  recover(used: ReadonlySet<string>, options?: { keepUnknown?: boolean }): Promise<void>;
}

export const cancelled = () => new SluiceError('CALLER_GONE', 'the pull was cancelled: its last caller has left');

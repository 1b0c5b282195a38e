import { mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

export interface LayerFoldersOptions {
  /** The daemon's root folder. */
  root: string;
  /** Removes a layer's folder; not in the pool of downloads, for which it would wait. */
  removeLayer: (dir: string) => Promise<void>;
}

/** Not the name of any layer. */
const EMPTY = '_';
/** How long ext4 without a journal avoids a freed inode (RECENTCY_MIN and RECENTCY_DIRTY in fs/ext4/ialloc.c). */
const AVOID_MS = 360_000;
const MAX_AVOIDED = 200;

/** Where layers are on the disk: `<root>/layers/<id>`, with what is mounted in `fs`. */
export class LayerFolders {
  readonly #options: LayerFoldersOptions;
  /** Layers removed lately: the inode of the folder, and when. */
  #removed: { ino: number; at: number }[] = [];

  constructor(options: LayerFoldersOptions) {
    this.#options = options;
  }

  get folder(): string {
    return join(this.#options.root, 'layers');
  }

  of(id: string): string {
    return join(this.folder, id);
  }

  /** The folder that is mounted. */
  mounted(id: string): string {
    return join(this.folder, id, 'fs');
  }

  /**
   * The mounted folders of layers given bottom first, topmost first; an empty one for an image without layers. A layer
   * that is there twice counts where it is on top.
   */
  stack(ids: readonly string[]): string[] {
    const distinct = new Set(ids.length === 0 ? [EMPTY] : ids.toReversed());
    return [...distinct].map((id) => this.mounted(id));
  }

  /** Makes what all layers need, and returns the names of the layers' folders. */
  async prepare(): Promise<Set<string>> {
    await mkdir(this.folder, { recursive: true, mode: 0o700 });
    await mkdir(this.mounted(EMPTY), { recursive: true, mode: 0o755 });
    const names = new Set(await readdir(this.folder));
    names.delete(EMPTY);
    return names;
  }

  async remove(id: string): Promise<void> {
    const folder = this.of(id);
    const ino = await inodeOf(folder);
    if (ino !== undefined) this.#removed = [...this.#avoided(), { ino, at: performance.now() }].slice(-MAX_AVOIDED);
    await this.#options.removeLayer(folder);
  }

  /** Inode numbers of folders that were removed lately: their neighbourhood is slow to make files in. */
  get avoided(): number[] {
    return this.#avoided().map(({ ino }) => ino);
  }

  #avoided(): { ino: number; at: number }[] {
    return this.#removed.filter(({ at }) => performance.now() - at < AVOID_MS);
  }
}

async function inodeOf(folder: string): Promise<number | undefined> {
  try {
    return (await stat(folder)).ino;
  } catch {
    return undefined; // it was never made, or somebody has removed it
  }
}

import type { Batch, FileQueue } from './file-queue.ts';
import type { SmallFile } from './small-file.ts';

/** PATH_MAX of the kernel. */
const MAX_PATH = 4096;
const MAX_ID = 0xffff_ffff;

export interface SmallFilesOptions {
  /** Absent: this thread makes all of them. */
  queue: FileQueue | undefined;
  /** Makes a file, whatever has its name, and returns its blocks of 512 bytes. */
  make: (file: SmallFile, data: Buffer) => number;
  /** Called for files that were made, once for each, with the blocks of all of them. */
  onMade: (files: number, blocks: number) => void;
}

/** A batch that this thread has filled, and the paths of its files. */
interface Filled {
  batch: Batch;
  paths: string[];
}

/**
 * The small files of one layer. They are made at once, or by other threads until {@link settle} returns; which of the
 * two must make no difference, so whoever is going to look at a path or to change it asks {@link isComing} before.
 * Disposing it gives up the files that nobody has begun.
 */
export class SmallFiles implements Disposable {
  readonly #options: SmallFilesOptions;
  /** Being filled. */
  #open: Filled | undefined;
  readonly #offered = new Set<Filled>();
  readonly #coming = new Set<string>();

  constructor(options: SmallFilesOptions) {
    this.#options = options;
  }

  /** The file may not be there yet. */
  isComing(path: string): boolean {
    return this.#coming.has(path);
  }

  /**
   * Makes the file, or leaves it to another thread, unless it has to be made `now`. Throws what making it throws, and
   * what making one of those before has thrown.
   */
  add(file: SmallFile, data: Buffer, { now }: { now: boolean }): void {
    if (now || !this.#leave(file, data)) this.#options.onMade(1, this.#options.make(file, data));
  }

  /** Returns when all files are made. Throws what making them throws. */
  settle(): void {
    for (const filled of this.#offered) if (filled.batch.take()) this.#finish(filled);
    const open = this.#open;
    this.#open = undefined;
    if (open) this.#finish(open);
    for (const filled of this.#offered) {
      this.#offered.delete(filled); // once it took too long, nobody waits for it again
      filled.batch.wait();
      this.#finish(filled);
    }
  }

  [Symbol.dispose](): void {
    this.#open?.batch.free();
    this.#open = undefined;
    for (const { batch } of this.#offered) {
      if (!batch.take()) batch.wait();
      batch.free();
    }
    this.#offered.clear();
  }

  /** False when nobody would take it. */
  #leave(file: SmallFile, data: Buffer): boolean {
    const { queue } = this.#options;
    const { path, owner } = file;
    if (!queue || path.length > MAX_PATH || (owner && (owner.uid > MAX_ID || owner.gid > MAX_ID))) return false;
    this.#open ??= this.#begin(queue);
    if (this.#open?.batch.add(file, data) === false) {
      this.#offer(this.#open);
      this.#open = this.#begin(queue);
      this.#open?.batch.add(file, data); // an empty batch has room
    }
    if (!this.#open) return false;
    this.#coming.add(path);
    this.#open.paths.push(path);
    if (this.#open.paths.length === queue.filesOfBatch) this.#offer(this.#open);
    return true;
  }

  #offer(filled: Filled): void {
    this.#open = undefined;
    this.#offered.add(filled);
    filled.batch.offer();
  }

  /** A new batch, unless what was offered so far keeps the others busy. */
  #begin(queue: FileQueue): Filled | undefined {
    let waiting = 0;
    for (const filled of this.#offered) {
      if (filled.batch.isDone) this.#finish(filled);
      else if (filled.batch.isOffered) waiting++;
    }
    if (queue.helpers < waiting) return undefined;
    const batch = queue.fill();
    return batch && { batch, paths: [] };
  }

  /**
   * Ends a batch that this thread has again. What another thread could not make is tried once more here, so that its
   * error is thrown where the layer is.
   */
  #finish(filled: Filled): void {
    const { batch, paths } = filled;
    const { make, onMade } = this.#options;
    this.#offered.delete(filled);
    try {
      batch.work(make);
    } finally {
      onMade(batch.made, batch.blocks);
      batch.free();
      for (const path of paths) this.#coming.delete(path);
    }
  }
}

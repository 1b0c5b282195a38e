import { closeSync, fchmodSync, fchownSync, ftruncateSync, lstatSync, writeSync } from 'node:fs';
import { setTimesOf } from '../../sys/attributes.ts';
import { startWriting } from '../../sys/sync.ts';
import { native } from './byte-paths.ts';
import { setXattrs, timesOf } from './entry-attributes.ts';
import { Holes } from './holes.ts';
import type { SmallFile } from './small-file.ts';
import type { TarEntry } from './tar.ts';

/** A file up to this size has few extents, which fit into its inode (ext4: four). */
const MANY_EXTENTS = 1 << 20;
/**
 * Bytes of a file after which the kernel begins to write them: the sync before a layer is ready then waits for less.
 */
const START_WRITING = 4 << 20;

/** A file of a layer that is written piece by piece. Disposing it closes it. */
export class LargeFile implements Disposable {
  readonly #fd: number;
  readonly #entry: TarEntry;
  readonly #path: string;
  /** Where the last data end. */
  #dataEnd = 0;
  /** Bytes that are data; the rest are holes. */
  #bytes = 0;
  /** The part before it is on its way to the disk. */
  #started = 0;
  #open = true;
  readonly #holes = new Holes((data, offset) => this.#write(data, offset));

  /** `fd` is the new file at `path` (one byte per character), open for writing. */
  constructor(fd: number, path: string, entry: TarEntry) {
    this.#fd = fd;
    this.#path = path;
    this.#entry = entry;
  }

  /** The next bytes, at `offset` in the file. */
  add(piece: Buffer, offset: number): void {
    this.#holes.add(piece, offset);
  }

  /** All bytes have come: sets what the entry says of the file, and closes it. Returns its blocks of 512 bytes. */
  finish(owner: SmallFile['owner']): number {
    if (this.#dataEnd < this.#entry.size) ftruncateSync(this.#fd, this.#entry.size); // ends with a hole
    if (owner) fchownSync(this.#fd, owner.uid, owner.gid);
    fchmodSync(this.#fd, this.#entry.mode); // after chown, which clears setuid
    setXattrs(this.#path, this.#entry);
    const { atime, mtime } = timesOf(this.#entry);
    setTimesOf(this.#fd, atime, mtime);
    this[Symbol.dispose]();
    // xfs gives back what it has reserved behind a file when the file is closed.
    return lstatSync(native(this.#path)).blocks;
  }

  /** It may get blocks for its map of extents when it is written to the disk. */
  get growsWhenWritten(): boolean {
    return this.#bytes < this.#entry.size || this.#entry.size > MANY_EXTENTS;
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    closeSync(this.#fd);
  }

  #write(data: Buffer, offset: number): void {
    for (let at = 0; at < data.length; ) at += writeSync(this.#fd, data, at, data.length - at, offset + at);
    this.#dataEnd = offset + data.length;
    this.#bytes += data.length;
    if (this.#dataEnd - this.#started >= START_WRITING) {
      startWriting(this.#fd, this.#started, this.#dataEnd - this.#started);
      this.#started = this.#dataEnd;
    }
  }
}

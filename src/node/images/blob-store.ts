import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { namesIn, removeFile } from '../../sys/folder.ts';

/** Blobs as the registry sent them, kept under their digests for export (`images.keep_blobs`). */
export class BlobStore {
  readonly #folder: string;

  /** `root` is the daemon's root folder. */
  constructor(root: string) {
    this.#folder = join(root, 'blobs');
  }

  pathOf(digest: string): string {
    const [algorithm = '', hex = ''] = digest.split(':');
    return join(this.#folder, algorithm, hex);
  }

  async prepare(): Promise<void> {
    for (const algorithm of ['sha256', 'sha512'])
      await mkdir(join(this.#folder, algorithm), { recursive: true, mode: 0o700 });
  }

  async has(digest: string): Promise<boolean> {
    return (await sizeOf(this.pathOf(digest))) !== undefined;
  }

  async put(digest: string, body: Uint8Array): Promise<void> {
    const path = this.pathOf(digest);
    if (await this.has(digest)) return;
    const temporary = `${path}.tmp-${crypto.randomUUID().slice(0, 8)}`;
    await writeFile(temporary, body, { mode: 0o600 });
    await rename(temporary, path);
  }

  read(digest: string): Promise<Buffer> {
    return readFile(this.pathOf(digest));
  }

  /**
   * Removes the blobs that are not in `used`, and unfinished ones; `busy`: pulls are in flight, so the younger ones
   * stay.
   */
  async sweep(used: ReadonlySet<string>, busy: boolean): Promise<void> {
    for (const algorithm of ['sha256', 'sha512']) {
      for (const hex of await namesIn(join(this.#folder, algorithm))) {
        if (!used.has(`${algorithm}:${hex}`) && !busy) await removeFile(join(this.#folder, algorithm, hex));
      }
    }
  }

  /** Bytes and inodes on the disk. */
  async usage(): Promise<{ bytes: number; inodes: number }> {
    const total = { bytes: 0, inodes: 0 };
    for (const algorithm of ['sha256', 'sha512']) {
      const folder = join(this.#folder, algorithm);
      for (const name of await namesIn(folder)) {
        total.bytes += (await sizeOf(join(folder, name))) ?? 0;
        total.inodes++;
      }
    }
    return total;
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).blocks * 512;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

import { createHash } from 'node:crypto';
import { closeSync, createReadStream, mkdirSync, openSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { streamRemoteFile } from '../host-paths/remote.ts';
import { placeOf } from '../host-paths/resolve.ts';
import { components } from './byte-paths.ts';
import { decompress } from './decompress.ts';
import { invalid } from './invalid.ts';
import { TarReader, type TarSink } from './tar.ts';

export interface ReadArchive {
  /**
   * A regular file: an OCI archive or one of `docker save`, compressed or not. One in another mount namespace
   * (`/proc/PID/root/...`) must be named without symbolic links.
   */
  path: string;
  /** A new folder for its members. */
  folder: string;
  /** Milliseconds for which a mount that may hang may give nothing. */
  idleMs: number;
}

/** A member of an archive, by its cleaned name. */
export interface Member {
  /** Where it has been put. */
  file: string;
  size: number;
  digest: string;
}

export interface Archive {
  members: Record<string, Member>;
  /** The text of the JSON files on the top: index.json, manifest.json, oci-layout. */
  texts: Record<string, string>;
}

const PIECE = 1 << 20;
const MAX_MEMBERS = 10_000;
const MAX_TEXT = 16 << 20;
/** Links of `docker save` lead from one image's layer to the same layer of another. */
const MAX_LINKS = 10;

/**
 * Puts the files of an image archive into a folder, one file for each, and returns their digests. Throws IMAGE_INVALID
 * for what is not an archive, INVALID_REQUEST for what is not a regular file, TIMED_OUT for a mount that hangs.
 */
export async function readArchive({ path, folder, idleMs }: ReadArchive): Promise<Archive> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const spool = new Spool(folder);
  const reader = new TarReader(spool);
  try {
    await decompress(open(path, idleMs), (piece) => reader.write(piece));
    reader.end();
    return spool.archive();
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  } finally {
    spool.close();
  }
}

function open(path: string, idleMs: number): AsyncIterable<Buffer> {
  const place = placeOf(path);
  if (place.kind === 'remote') return streamRemoteFile(place.path, place.mount, idleMs);
  if (!statSync(path).isFile()) throw new SluiceError('INVALID_REQUEST', `${path} is not a regular file`);
  return createReadStream(path, { highWaterMark: PIECE }) as AsyncIterable<Buffer>;
}

class Spool implements TarSink {
  readonly #folder: string;
  readonly #members = new Map<string, Member>();
  /** Links by name, with their targets. */
  readonly #links = new Map<string, string>();
  #open: { fd: number; name: string; file: string; hash: ReturnType<typeof createHash>; size: number } | undefined;

  constructor(folder: string) {
    this.#folder = folder;
  }

  entry(entry: Parameters<TarSink['entry']>[0]): void {
    const name = components(entry.path).join('/');
    if (this.#members.size + this.#links.size > MAX_MEMBERS)
      throw invalid(`the archive has more than ${MAX_MEMBERS} members: it is not one of images`);
    if (entry.type === 'file') {
      const file = join(this.#folder, String(this.#members.size));
      this.#open = { fd: openSync(file, 'wx', 0o600), name, file, hash: createHash('sha256'), size: 0 };
    } else if (entry.type === 'symlink') {
      this.#links.set(name, components(`${name}/../${entry.link}`).join('/'));
    } else if (entry.type === 'hardlink') {
      this.#links.set(name, components(entry.link).join('/'));
    }
  }

  data(piece: Buffer, offset: number): void {
    const open = this.#open;
    if (!open) return;
    if (offset !== open.size) throw invalid(`${open.name}: image archives have no sparse files`);
    for (let at = 0; at < piece.length; ) at += writeSync(open.fd, piece, at, piece.length - at);
    open.hash.update(piece);
    open.size += piece.length;
  }

  end(): void {
    const open = this.#open;
    if (!open) return;
    const { file, size, name, hash } = open;
    this.#members.set(name, { file, size, digest: `sha256:${hash.digest('hex')}` });
    this.close();
  }

  close(): void {
    if (this.#open) closeSync(this.#open.fd);
    this.#open = undefined;
  }

  archive(): Archive {
    for (const [name, target] of this.#links) {
      let found = target;
      for (let i = 0; i < MAX_LINKS && !this.#members.has(found); i++) found = this.#links.get(found) ?? found;
      const member = this.#members.get(found);
      if (member) this.#members.set(name, member);
    }
    const texts: Record<string, string> = {};
    for (const [name, { file, size }] of this.#members) {
      if (name.includes('/') || !/^(?:.*\.json|oci-layout)$/.test(name) || size > MAX_TEXT) continue;
      texts[name] = readFileSync(file, 'utf8');
    }
    return { members: Object.fromEntries(this.#members), texts };
  }
}

/** Writes tar archives: image archives for export, and layers whose blobs are not kept. */
import { createHash, type Hash } from 'node:crypto';
import { closeSync, lstatSync, openSync, readdirSync, readlinkSync, readSync, type Stats, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { deviceParts, getXattr, listXattrs } from '../../sys/attributes.ts';
import { placeOf } from '../host-paths/resolve.ts';
import { yielder } from '../yield.ts';
import { native, toBytes } from './byte-paths.ts';
import { isOpaque, isWhiteout, OPAQUE_MARK } from './opaque.ts';

const BLOCK = 512;
const PIECE = 1 << 20;
const MAX_XATTR = 64 << 10;

export interface WriteArchive {
  /**
   * The file to write; an existing one is replaced. One in another mount namespace (`/proc/PID/root/...`) must be named
   * without symbolic links.
   */
  path: string;
  members: { name: string; file?: string; text?: string }[];
}

/**
 * Writes an archive of whole files and texts. Throws SysError and Node's errors, ENOSPC among them, and INVALID_REQUEST
 * for a file on a mount that may hang, where each write would hold this thread.
 */
export async function writeArchive({ path, members }: WriteArchive): Promise<{ bytes: number }> {
  const place = placeOf(dirname(path));
  if (place.kind === 'remote') {
    const { type, mountPoint } = place.mount;
    throw new SluiceError(
      'INVALID_REQUEST',
      `${path} lies on the ${type} mount ${mountPoint}, which may hang: archives are written to local file systems (see TMPDIR)`,
    );
  }
  using tar = new TarWriter(path);
  const yieldThread = yielder();
  for (const { name, file, text = '' } of members) {
    if (file === undefined) {
      const data = Buffer.from(text);
      tar.header({ path: name, type: '0', size: data.length, mode: 0o644 });
      tar.body(data);
    } else {
      const { size } = lstatSync(file);
      tar.header({ path: name, type: '0', size, mode: 0o644 });
      await tar.file(file, size, yieldThread);
    }
  }
  tar.end();
  return { bytes: tar.bytes };
}

/**
 * Makes a layer's archive anew from its folder, with whiteouts in the form of the image spec. Its digest is not the one
 * that the registry has: times of a second's fraction, order and headers differ from builder to builder. Returns the
 * digest and the size.
 */
export async function exportLayer({
  dir,
  path,
}: {
  dir: string;
  path: string;
}): Promise<{ digest: string; size: number }> {
  const hash = createHash('sha256');
  using tar = new TarWriter(path, hash);
  const yieldThread = yielder();
  const linked = new Map<number, string>();
  const root = toBytes(`${dir}/fs`);
  const folders = [''];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    const at = folder === '' ? root : `${root}/${folder}`;
    const stats = lstatSync(native(at));
    tar.entry({ path: folder === '' ? './' : `${folder}/`, type: '5', stats, xattrs: xattrsOf(at) });
    if (isOpaque(at)) tar.header({ path: join(folder, OPAQUE_MARK), type: '0', size: 0, mode: 0o644 });
    const names = readdirSync(native(at), { encoding: 'latin1' }).sort();
    for (const name of names.toReversed())
      if (lstatSync(native(`${at}/${name}`)).isDirectory()) folders.push(join(folder, name));
    for (const name of names) {
      await yieldThread();
      const path = join(folder, name);
      const file = `${root}/${path}`;
      const own = lstatSync(native(file));
      if (own.isDirectory() || name === OPAQUE_MARK) continue;
      if (isWhiteout(own)) {
        tar.header({ path: join(folder, `.wh.${name}`), type: '0', size: 0, mode: 0o644 });
        continue;
      }
      const first = own.nlink > 1 ? linked.get(own.ino) : undefined;
      if (own.nlink > 1 && first === undefined) linked.set(own.ino, path);
      if (first !== undefined) tar.entry({ path, type: '1', link: first, stats: own });
      else if (own.isSymbolicLink())
        tar.entry({ path, type: '2', link: readlinkSync(native(file), 'latin1'), stats: own, xattrs: xattrsOf(file) });
      else if (own.isFile()) {
        tar.entry({ path, type: '0', size: own.size, stats: own, xattrs: xattrsOf(file) });
        await tar.file(native(file), own.size, yieldThread);
      } else {
        const type = own.isCharacterDevice() ? '3' : own.isBlockDevice() ? '4' : own.isFIFO() ? '6' : undefined;
        if (type) tar.entry({ path, type, stats: own, xattrs: xattrsOf(file) });
      }
    }
  }
  tar.end();
  return { digest: `sha256:${hash.digest('hex')}`, size: tar.bytes };
}

const join = (folder: string, name: string) => (folder === '' ? name : `${folder}/${name}`);

function xattrsOf(path: string): [string, Buffer][] {
  return listXattrs(native(path)).flatMap((name) => {
    if (name.startsWith('trusted.')) return [];
    const value = getXattr(native(path), name, MAX_XATTR);
    return value ? [[name, value] as [string, Buffer]] : [];
  });
}

interface Header {
  /** One byte per character. */
  path: string;
  type: string;
  size?: number;
  mode: number;
  link?: string;
  uid?: number;
  gid?: number;
  mtime?: number;
  major?: number;
  minor?: number;
}

/** Writes a tar archive into a new file. */
export class TarWriter implements Disposable {
  bytes = 0;
  readonly #fd: number;
  readonly #hash: Hash | undefined;

  constructor(path: string, hash?: Hash) {
    this.#fd = openSync(path, 'w', 0o600);
    this.#hash = hash;
  }

  entry(of: {
    path: string;
    type: string;
    size?: number;
    link?: string;
    stats: Stats;
    xattrs?: [string, Buffer][];
  }): void {
    const { path, type, size, link, stats, xattrs = [] } = of;
    const seconds = Math.floor(stats.mtimeMs / 1000);
    const records: [string, Buffer][] = xattrs.map(([name, value]) => [`SCHILY.xattr.${name}`, value]);
    if (Buffer.byteLength(path, 'latin1') > 100) records.push(['path', Buffer.from(path, 'latin1')]);
    if (link !== undefined && link.length > 100) records.push(['linkpath', Buffer.from(link, 'latin1')]);
    if (records.length > 0) {
      const data = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)));
      this.header({ path: 'pax', type: 'x', size: data.length, mode: 0o644 });
      this.body(data);
    }
    const isDevice = type === '3' || type === '4';
    const { uid, gid } = stats;
    const device = isDevice ? deviceParts(stats.rdev) : {};
    this.header({ path, type, size, link, uid, gid, mode: stats.mode & 0o7777, mtime: seconds, ...device });
  }

  header({ path, type, size = 0, mode, link = '', uid = 0, gid = 0, mtime = 0, major = 0, minor = 0 }: Header): void {
    const block = Buffer.alloc(BLOCK);
    block.write(path.slice(0, 100), 0, 'latin1');
    number(block, 100, 8, mode);
    number(block, 108, 8, uid);
    number(block, 116, 8, gid);
    number(block, 124, 12, size);
    number(block, 136, 12, Math.max(0, mtime));
    block.fill(0x20, 148, 156);
    block.write(type, 156, 'latin1');
    block.write(link.slice(0, 100), 157, 'latin1');
    block.write('ustar\u000000', 257, 'latin1');
    number(block, 329, 8, major);
    number(block, 337, 8, minor);
    let sum = 0;
    for (const byte of block) sum += byte;
    block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    this.#write(block);
  }

  body(data: Buffer): void {
    this.#write(data);
    this.#pad(data.length);
  }

  /** A file's bytes; one that changes meanwhile is cut or filled up to `size`. */
  async file(path: string | Buffer, size: number, yieldThread: () => Promise<void>): Promise<void> {
    const fd = openSync(path, 'r');
    try {
      const piece = Buffer.alloc(Math.min(PIECE, size));
      for (let left = size; left > 0; ) {
        const got = readSync(fd, piece, 0, Math.min(piece.length, left), null);
        const chunk = got === 0 ? Buffer.alloc(Math.min(PIECE, left)) : piece.subarray(0, got);
        this.#write(chunk);
        left -= chunk.length;
        await yieldThread();
      }
    } finally {
      closeSync(fd);
    }
    this.#pad(size);
  }

  end(): void {
    this.#write(Buffer.alloc(2 * BLOCK));
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  #pad(size: number): void {
    const rest = -size & (BLOCK - 1);
    if (rest > 0) this.#write(Buffer.alloc(rest));
  }

  #write(data: Buffer): void {
    for (let at = 0; at < data.length; ) at += writeSync(this.#fd, data, at, data.length - at);
    this.#hash?.update(data);
    this.bytes += data.length;
  }
}

/** Octal digits, or base-256 (GNU) for what they cannot hold. */
function number(block: Buffer, at: number, length: number, value: number): void {
  const digits = value.toString(8);
  if (digits.length < length) {
    block.write(`${digits.padStart(length - 1, '0')}\0`, at, 'latin1');
    return;
  }
  let rest = BigInt(value);
  for (let i = length - 1; i > 0; i--) {
    block[at + i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  block[at] = 0x80;
}

function paxRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), value, Buffer.from('\n')]);
  let length = rest.length;
  while (rest.length + String(length).length !== length) length = rest.length + String(length).length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

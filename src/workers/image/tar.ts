/**
 * A tar reader for layers that takes pieces of any size: POSIX ustar and PAX, GNU long names and base-256 numbers,
 * sparse files in all four encodings, v7 and star headers. Names, link targets and xattr values are bytes, not text:
 * strings here hold one byte per character (latin1). Rules: POSIX pax(1), "GNU tar manual: Basic Tar Format" and
 * "Storing Sparse Files"; where these leave a choice, Go's archive/tar, which builders, scanners and the other runtimes
 * use.
 */
import type { TimeSpec } from '../../sys/attributes.ts';
import { invalid } from './invalid.ts';
import { type PaxRecord, paxInteger, paxRecords, paxTime } from './pax.ts';
import { type Extent, gnuExtents, MapReader, paxExtents, type SparseMap } from './sparse.ts';
import { tarNumber, tarText } from './tar-fields.ts';

export const BLOCK = 512;
/** Bytes of a PAX or GNU long-name header, limited as in Go's reader. */
const MAX_META = 1 << 20;
/** More entries than any real layer has. */
const MAX_ENTRIES = 5_000_000;

export type TarType = 'file' | 'hardlink' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo';

export interface TarEntry {
  /** As written in the archive: not cleaned, one byte per character. */
  path: string;
  /** Target of a symbolic or hard link, as written. */
  link: string;
  type: TarType;
  /** Length of the unpacked file, holes included; 0 for everything else. */
  size: number;
  /** Permission bits with setuid, setgid and sticky. */
  mode: number;
  uid: number;
  gid: number;
  mtime: TimeSpec;
  atime?: TimeSpec;
  major: number;
  minor: number;
  /** `SCHILY.xattr.*`, without that prefix. */
  xattrs: [name: string, value: Buffer][];
}

/** Receives the entries. All calls are synchronous, so that things get to the disk in the order of the archive. */
export interface TarSink {
  entry(entry: TarEntry): void;
  /** A piece of the current file, which belongs at `offset`. Valid only during the call. */
  data(piece: Buffer, offset: number): void;
  /** The current entry is complete. */
  end(): void;
}

const TYPES: Record<string, TarType> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  S: 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'char',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
};

type State = 'header' | 'meta' | 'sparse-header' | 'sparse-map' | 'body' | 'skip' | 'drain';

export class TarReader {
  readonly #sink: TarSink;
  #state: State = 'header';
  /** A block whose bytes are not complete yet. */
  readonly #block = Buffer.alloc(BLOCK);
  #filled = 0;
  #sawZeroBlock = false;
  #entries = 0;

  /** The PAX or GNU header that is being collected. */
  #meta: { type: string; data: Buffer; filled: number } | undefined;
  #records: PaxRecord[] = [];
  #longName: string | undefined;
  #longLink: string | undefined;

  /** The entry that is being read. */
  #path = '';
  #sparse: SparseMap | undefined;
  #map = new MapReader();
  #extents: Extent[] = [];
  #extent = 0;
  #done = 0;
  /** Bytes of the body in the archive, and of the padding behind it, that have not come yet. */
  #left = 0;
  #padding = 0;
  /** The padding is that of a PAX or GNU header. */
  #skipsMeta = false;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  /** Reads the next piece of the archive. Throws IMAGE_INVALID, and what the sink throws. */
  write(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      const left = chunk.length - at;
      switch (this.#state) {
        case 'drain':
          return; // bytes behind the end marker only count for the digest
        case 'skip': {
          const take = Math.min(left, this.#padding);
          this.#padding -= take;
          at += take;
          if (this.#padding === 0) this.#state = 'header';
          break;
        }
        case 'body': {
          const take = Math.min(left, this.#left);
          this.#body(take === chunk.length ? chunk : chunk.subarray(at, at + take));
          at += take;
          break;
        }
        case 'meta': {
          const meta = this.#meta;
          if (!meta) throw new Error('no header is being collected');
          const take = Math.min(left, meta.data.length - meta.filled);
          chunk.copy(meta.data, meta.filled, at, at + take);
          meta.filled += take;
          at += take;
          if (meta.filled === meta.data.length) this.#metaDone(meta.type, meta.data);
          break;
        }
        default: {
          if (this.#filled === 0 && left >= BLOCK) {
            this.#oneBlock(chunk.subarray(at, at + BLOCK));
            at += BLOCK;
            break;
          }
          const take = Math.min(left, BLOCK - this.#filled);
          chunk.copy(this.#block, this.#filled, at, at + take);
          this.#filled += take;
          at += take;
          if (this.#filled === BLOCK) {
            this.#filled = 0;
            this.#oneBlock(this.#block);
          }
        }
      }
    }
  }

  /**
   * Ends the archive. Throws IMAGE_INVALID when it stops inside an entry; Go accepts a missing end marker, and so does
   * this.
   */
  end(): void {
    if (this.#state === 'drain' || (this.#state === 'skip' && !this.#skipsMeta)) return;
    if (this.#state === 'header' && this.#filled === 0 && !this.#pending()) return;
    const where =
      this.#state === 'body' ? `inside ${printable(this.#path)}, ${this.#left} bytes early` : 'inside a header';
    throw invalid(`the tar archive ends ${where}`);
  }

  #pending(): boolean {
    return this.#longName !== undefined || this.#longLink !== undefined || this.#records.length > 0;
  }

  #oneBlock(block: Buffer): void {
    switch (this.#state) {
      case 'sparse-header':
        this.#sparseHeader(block);
        break;
      case 'sparse-map':
        this.#sparseMap(block);
        break;
      default:
        this.#header(block);
    }
  }

  #header(block: Buffer): void {
    if (isZero(block)) {
      if (this.#sawZeroBlock) this.#state = 'drain';
      this.#sawZeroBlock = true;
      return;
    }
    if (this.#sawZeroBlock) throw invalid('the tar archive goes on after a lone zero block');
    checkSum(block);
    const type = String.fromCharCode(block[156] ?? 0);
    const size = tarNumber(block, 124, 12, 'size');
    if (size < 0) throw invalid(`a tar header gives the size ${size}`);
    if (type === 'x' || type === 'g' || type === 'L' || type === 'K') {
      if (size > MAX_META) throw invalid(`a tar header of type ${type} has ${size} bytes, more than ${MAX_META}`);
      this.#meta = { type, data: Buffer.alloc(size), filled: 0 };
      this.#padding = -size & (BLOCK - 1);
      this.#state = 'meta';
      if (size === 0) this.#metaDone(type, Buffer.alloc(0));
      return;
    }
    if (type === 'V')
      this.#ignore(size); // a volume's label
    else this.#entry(block, type, size);
  }

  #metaDone(type: string, data: Buffer): void {
    this.#meta = undefined;
    this.#skipsMeta = true;
    if (type === 'L') this.#longName = tarText(data, 0, data.length);
    else if (type === 'K') this.#longLink = tarText(data, 0, data.length);
    else if (type === 'x') this.#records = paxRecords(data);
    else paxRecords(data); // Go checks global headers and applies them to no entry; they would accumulate without bound
    this.#state = this.#padding > 0 ? 'skip' : 'header';
  }

  #ignore(size: number): void {
    this.#padding = size + (-size & (BLOCK - 1));
    this.#skipsMeta = true;
    this.#state = this.#padding > 0 ? 'skip' : 'header';
  }

  #entry(block: Buffer, flag: string, headerSize: number): void {
    if (++this.#entries > MAX_ENTRIES) throw invalid(`the layer has more than ${MAX_ENTRIES} entries`);
    const pax = this.#records.length === 0 ? NO_PAX : paxOf(this.#records);
    const name = this.#longName ?? ownName(block);
    const path = text(pax, 'GNU.sparse.name') ?? text(pax, 'path') ?? name;
    const link = text(pax, 'linkpath') ?? this.#longLink ?? tarText(block, 157, 100);
    const records = this.#records;
    this.#records = [];
    this.#longName = undefined;
    this.#longLink = undefined;
    this.#path = path;

    let type = TYPES[flag];
    if (type === undefined) {
      throw invalid(`${printable(path)}: unhandled tar header type ${JSON.stringify(flag)}`);
    }
    // Before POSIX a folder was a file whose name ends in a slash.
    if (flag === '\0' && path.endsWith('/')) type = 'directory';

    // Only files have a body. Some writers give sizes of links, without a body: Go's reader ignores them.
    const stored = type === 'file' ? (paxInteger(pax, 'size') ?? headerSize) : 0;
    if (stored < 0) throw invalid(`${printable(path)}: the size is ${stored}`);
    this.#left = stored;
    this.#padding = -stored & (BLOCK - 1);
    this.#sparse = undefined;
    if (type === 'file') this.#sparse = flag === 'S' ? gnuExtents(block) : paxExtents(pax, records);

    const entry: TarEntry = {
      path,
      link,
      type,
      size: this.#sparse?.size ?? stored,
      mode: tarNumber(block, 100, 8, 'mode') & 0o7777,
      uid: owner(paxInteger(pax, 'uid') ?? tarNumber(block, 108, 8, 'uid'), path),
      gid: owner(paxInteger(pax, 'gid') ?? tarNumber(block, 116, 8, 'gid'), path),
      mtime: paxTime(pax, 'mtime') ?? { seconds: tarNumber(block, 136, 12, 'mtime'), nanoseconds: 0 },
      atime: paxTime(pax, 'atime'),
      major: type === 'char' || type === 'block' ? tarNumber(block, 329, 8, 'device number') : 0,
      minor: type === 'char' || type === 'block' ? tarNumber(block, 337, 8, 'device number') : 0,
      xattrs: pax === NO_PAX ? [] : xattrs(pax),
    };
    this.#sink.entry(entry);

    this.#done = 0;
    this.#extent = 0;
    if (!this.#sparse) {
      this.#extents = [{ offset: 0, size: stored }];
      this.#startBody();
    } else if (this.#sparse.more === 'header') this.#state = 'sparse-header';
    else if (this.#sparse.more === 'map') {
      this.#map = new MapReader();
      this.#state = 'sparse-map';
    } else this.#sparseReady(this.#sparse);
  }

  /** Old GNU sparse files: 21 more extents, and whether another block of them follows. */
  #sparseHeader(block: Buffer): void {
    const sparse = this.#sparse;
    if (!sparse) throw new Error('no sparse file is being read');
    gnuExtents(block, sparse);
    if (sparse.more === undefined) this.#sparseReady(sparse);
  }

  /** PAX 1.0: the map stands at the start of the body, as decimal lines, padded to whole blocks. */
  #sparseMap(block: Buffer): void {
    const sparse = this.#sparse;
    if (!sparse) throw new Error('no sparse file is being read');
    this.#left -= BLOCK;
    if (this.#left < 0) throw invalid(`${printable(this.#path)}: the map of the sparse file is longer than the file`);
    if (!this.#map.add(block, sparse)) return;
    this.#sparseReady(sparse);
  }

  #sparseReady({ extents, size }: SparseMap): void {
    let end = 0;
    let sum = 0;
    for (const extent of extents) {
      if (extent.offset < end) throw invalid(`${printable(this.#path)}: the pieces of the sparse file overlap`);
      end = extent.offset + extent.size;
      sum += extent.size;
    }
    if (end > size || sum !== this.#left) {
      throw invalid(
        `${printable(this.#path)}: the pieces of the sparse file have ${sum} bytes up to ${end}, the archive ${this.#left} of ${size}`,
      );
    }
    this.#extents = extents;
    this.#startBody();
  }

  #startBody(): void {
    this.#state = 'body';
    if (this.#left === 0) this.#bodyDone();
  }

  #body(piece: Buffer): void {
    for (let at = 0; at < piece.length; ) {
      const extent = this.#extents[this.#extent];
      if (!extent) throw new Error('a body is longer than its extents');
      const take = Math.min(piece.length - at, extent.size - this.#done);
      if (take > 0) {
        this.#sink.data(take === piece.length ? piece : piece.subarray(at, at + take), extent.offset + this.#done);
      }
      at += take;
      this.#done += take;
      if (this.#done === extent.size) {
        this.#extent++;
        this.#done = 0;
      }
    }
    this.#left -= piece.length;
    if (this.#left === 0) this.#bodyDone();
  }

  #bodyDone(): void {
    this.#sink.end();
    this.#skipsMeta = false;
    this.#state = this.#padding > 0 ? 'skip' : 'header';
  }
}

/** Of most entries. */
const NO_PAX: ReadonlyMap<string, Buffer> = new Map();

/** The last record of a key counts, and an empty value takes away what an earlier one said. */
function paxOf(records: readonly PaxRecord[]): ReadonlyMap<string, Buffer> {
  const pax = new Map(records.map(({ key, value }) => [key, value]));
  for (const [key, value] of pax) if (value.length === 0 && !key.startsWith('SCHILY.xattr.')) pax.delete(key);
  return pax;
}

/** Accepts the sum of unsigned bytes (the standard) and that of signed ones (old Suns). */
function checkSum(block: Buffer): void {
  const found = tarNumber(block, 148, 8, 'checksum');
  let unsigned = 8 * 32; // the field itself counts as spaces
  for (let i = 0; i < 148; i++) unsigned += block[i] ?? 0;
  for (let i = 156; i < BLOCK; i++) unsigned += block[i] ?? 0;
  if (found === unsigned) return;
  let signed = unsigned;
  for (let i = 0; i < BLOCK; i++) if ((i < 148 || i >= 156) && (block[i] ?? 0) > 127) signed -= 256;
  if (found !== signed) throw invalid(`a tar header has the checksum ${found} and not ${unsigned}`);
}

function isZero(block: Buffer): boolean {
  for (let i = 0; i < BLOCK; i++) if (block[i] !== 0) return false;
  return true;
}

/**
 * The name fields of the header. With GNU's magic ("ustar ") the prefix holds other fields; star's prefix is shorter.
 */
function ownName(block: Buffer): string {
  const name = tarText(block, 0, 100);
  if (block[345] === 0) return name; // as in most headers, whatever the magic is
  if (block.toString('latin1', 257, 263) !== 'ustar\0') return name;
  const prefix = tarText(block, 345, block.toString('latin1', 508, 512) === 'tar\0' ? 131 : 155);
  return prefix === '' ? name : `${prefix}/${name}`;
}

function text(pax: ReadonlyMap<string, Buffer>, key: string): string | undefined {
  const value = pax.get(key)?.toString('latin1');
  if (value?.includes('\0')) throw invalid(`the PAX record ${key} has a zero byte`);
  return value;
}

function owner(id: number, path: string): number {
  // chown takes 2^32 - 1 for "unchanged".
  if (id < 0 || id >= 0xffff_ffff) throw invalid(`${printable(path)}: the owner ${id} is impossible`);
  return id;
}

function xattrs(pax: ReadonlyMap<string, Buffer>): [string, Buffer][] {
  const found: [string, Buffer][] = [];
  for (const [key, value] of pax) {
    if (key.startsWith('SCHILY.xattr.')) found.push([key.slice('SCHILY.xattr.'.length), value]);
  }
  return found;
}

/** A name for a message: bytes other than printable ASCII are written as \xNN. */
export function printable(path: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return path.replace(/[\x00-\x1f\x7f-\xff\\]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

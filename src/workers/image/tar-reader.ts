/**
 * A tar archive as it streams by. Everything is synchronous: whoever feeds the reader has the entry on disk when `write` returns,
 * and a file's bytes go from the chunk they arrived in to the file without a copy.
 *
 * npm's tar packages lose binary xattrs and device nodes, which layers need, hence a reader of our own.
 */
import { BLOCK, parseHeader, type RawHeader, TarError, type Time } from './tar-header.ts';
import { type PaxRecords, parsePax, paxNumber, paxTime } from './tar-pax.ts';
import { checkMap, MapInData, oldGnuExtension, oldGnuMap, paxSparse, type SparseMap } from './tar-sparse.ts';

export type EntryType = 'file' | 'hardlink' | 'symlink' | 'char' | 'block' | 'folder' | 'fifo';

/** Names and link names are latin1: one character for each byte. */
export interface TarEntry {
  type: EntryType;
  name: string;
  linkName: string;
  /** Permission bits, setuid and its like included. */
  mode: number;
  uid: number;
  gid: number;
  /** Bytes of the whole file, holes included; 0 for all but files. */
  size: number;
  /** Parts of the file come, not all of it. */
  sparse: boolean;
  mtime: Time;
  atime: Time | undefined;
  devMajor: number;
  devMinor: number;
  /** Extended attributes by their full names. */
  xattrs: Map<string, Buffer>;
}

export interface TarSink {
  entry(entry: TarEntry): void;
  /** Bytes of the file last announced, at their place in it. The buffer is only lent. */
  data(bytes: Buffer, position: number): void;
  /** The file is complete. */
  end(): void;
}

const TYPES: Record<string, EntryType> = {
  '\0': 'file',
  '0': 'file',
  '7': 'file', // "contiguous"
  S: 'file', // GNU sparse
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'char',
  '4': 'block',
  '5': 'folder',
  '6': 'fifo',
};
/** A label of the volume: nothing to unpack. */
const VOLUME_LABEL = 'V';
/** Headers before the header: names and PAX records. What is longer is an attack. */
const MAX_META = 1 << 20;
const XATTR = 'SCHILY.xattr.';

export class TarReader {
  readonly #sink: TarSink;
  /** What is gathered whole: a block, or an extended header with its filling. */
  #want = BLOCK;
  #gathered: Buffer[] = [];
  #have = 0;
  #then: (data: Buffer) => void;
  /** Bytes of a file still to come, then filling to skip; nothing is gathered meanwhile. */
  #fileLeft = 0;
  #skip = 0;
  #inFile = false;
  #segments: { offset: number; length: number }[] = [];
  #segment = 0;
  #position = 0;

  #records: PaxRecords = [];
  #longName: string | undefined;
  #longLink: string | undefined;
  #sawZeros = false;
  #ended = false;

  constructor(sink: TarSink) {
    this.#sink = sink;
    this.#then = this.#header;
  }

  /** Takes the next bytes. What follows the end of the archive is ignored. Throws {@link TarError}, and what the sink throws. */
  write(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length && !this.#ended) {
      const left = chunk.length - at;
      if (this.#fileLeft > 0) {
        const size = Math.min(left, this.#fileLeft);
        this.#fileData(chunk.subarray(at, at + size));
        at += size;
      } else if (this.#skip > 0) {
        const size = Math.min(left, this.#skip);
        this.#skip -= size;
        at += size;
      } else {
        const size = Math.min(left, this.#want - this.#have);
        this.#gathered.push(chunk.subarray(at, at + size));
        this.#have += size;
        at += size;
        if (this.#have === this.#want) this.#gatheredAll();
      }
    }
  }

  /** The stream is over. An archive may end without its blocks of zeros, but not inside an entry. */
  finish(): void {
    if (this.#ended) return;
    const between = this.#then === this.#header && this.#have === 0 && this.#fileLeft === 0 && this.#skip === 0;
    const dangling = this.#records.length > 0 || this.#longName !== undefined || this.#longLink !== undefined;
    if (!between || dangling) throw new TarError('the archive ends in the middle of an entry');
  }

  #gatheredAll(): void {
    const data = this.#gathered.length === 1 ? this.#gathered[0] : Buffer.concat(this.#gathered);
    const then = this.#then;
    this.#gathered = [];
    this.#have = 0;
    this.#want = BLOCK;
    this.#then = this.#header;
    if (data) then.call(this, data);
  }

  #gather(size: number, then: (data: Buffer) => void): void {
    this.#want = size;
    this.#then = then;
  }

  #header(block: Buffer): void {
    const raw = parseHeader(block);
    if (!raw) {
      // Two blocks of zeros end an archive; one alone is only allowed at the very end.
      this.#ended = this.#sawZeros;
      this.#sawZeros = true;
      return;
    }
    if (this.#sawZeros) throw new TarError('an entry follows a block of zeros');
    switch (raw.type) {
      case 'x':
      case 'X':
        this.#meta(raw, (data) => this.#records.push(...parsePax(data)));
        return;
      case 'g': // records for all later entries: no builder of layers writes them, and containerd passes over them too
        this.#meta(raw, () => {});
        return;
      case 'L':
        this.#meta(raw, (data) => {
          this.#longName = upToNul(data);
        });
        return;
      case 'K':
        this.#meta(raw, (data) => {
          this.#longLink = upToNul(data);
        });
        return;
      case VOLUME_LABEL:
        this.#skip = padded(raw.size);
        this.#forgetMeta();
        return;
      default:
        this.#start(raw, block);
    }
  }

  #meta(raw: RawHeader, use: (data: Buffer) => void): void {
    if (raw.size > MAX_META) throw new TarError(`an extended header of ${raw.size} bytes`);
    if (raw.size === 0) return;
    this.#gather(padded(raw.size), (data) => use(data.subarray(0, raw.size)));
  }

  #start(raw: RawHeader, block: Buffer): void {
    const type = TYPES[raw.type];
    if (!type) throw new TarError(`${JSON.stringify(raw.name)} is of unknown type ${JSON.stringify(raw.type)}`);
    const records = this.#records;
    const entry = this.#entry(raw, type);
    if (type !== 'file') {
      this.#sink.entry({ ...entry, size: 0 });
      return;
    }
    const stored = entry.size;
    if (raw.type === 'S') {
      const { more, ...map } = oldGnuMap(block);
      if (more) this.#gather(BLOCK, (next) => this.#oldExtension(entry, map, stored, next));
      else this.#startFile(entry, stored, map);
      return;
    }
    const sparse = paxSparse(records);
    if (!sparse) {
      this.#startFile(entry, stored);
      return;
    }
    if (sparse.name !== undefined) entry.name = sparse.name;
    if (sparse.inData) this.#gather(BLOCK, (next) => this.#mapBlock(entry, sparse, new MapInData(), stored, next));
    else this.#startFile(entry, stored, sparse);
  }

  /** Puts the header and what came before it together. */
  #entry(raw: RawHeader, type: EntryType): TarEntry {
    const entry: TarEntry = {
      type,
      name: this.#longName ?? raw.name,
      linkName: this.#longLink ?? raw.linkName,
      mode: raw.mode & 0o7777,
      uid: raw.uid,
      gid: raw.gid,
      size: raw.size,
      sparse: false,
      mtime: raw.mtime,
      atime: undefined,
      devMajor: raw.devMajor,
      devMinor: raw.devMinor,
      xattrs: new Map(),
    };
    for (const [key, value] of this.#records) applyRecord(entry, key, value);
    this.#forgetMeta();
    // Before POSIX a folder was a file whose name ends in a slash.
    if ((raw.type === '0' || raw.type === '\0') && raw.format === 'v7' && entry.name.endsWith('/')) {
      entry.type = 'folder';
      this.#skip = padded(entry.size);
      entry.size = 0;
    }
    return entry;
  }

  #forgetMeta(): void {
    this.#records = [];
    this.#longName = undefined;
    this.#longLink = undefined;
  }

  #oldExtension(entry: TarEntry, map: SparseMap, stored: number, block: Buffer): void {
    const { segments, more } = oldGnuExtension(block);
    map.segments.push(...segments);
    if (more) this.#gather(BLOCK, (next) => this.#oldExtension(entry, map, stored, next));
    else this.#startFile(entry, stored, map);
  }

  #mapBlock(entry: TarEntry, map: SparseMap, inData: MapInData, stored: number, block: Buffer): void {
    const left = stored - BLOCK;
    if (left < 0) throw new TarError('a sparse map is longer than its file');
    const segments = inData.add(block);
    if (segments) this.#startFile(entry, left, { segments, realSize: map.realSize });
    else this.#gather(BLOCK, (next) => this.#mapBlock(entry, map, inData, left, next));
  }

  #startFile(entry: TarEntry, stored: number, map?: SparseMap): void {
    if (map) checkMap(map, stored);
    if (entry.type === 'folder') {
      this.#sink.entry(entry);
      return;
    }
    this.#segments = map?.segments.filter(({ length }) => length > 0) ?? [{ offset: 0, length: stored }];
    this.#segment = 0;
    this.#position = 0;
    this.#sink.entry({ ...entry, size: map?.realSize ?? stored, sparse: map !== undefined });
    this.#skip = padded(stored) - stored;
    this.#fileLeft = stored;
    this.#inFile = true;
    if (stored === 0) this.#endFile();
  }

  #fileData(bytes: Buffer): void {
    this.#fileLeft -= bytes.length;
    for (let at = 0; at < bytes.length; ) {
      const segment = this.#segments[this.#segment];
      if (!segment) throw new TarError('a file has more bytes than its map');
      const size = Math.min(bytes.length - at, segment.length - this.#position);
      this.#sink.data(bytes.subarray(at, at + size), segment.offset + this.#position);
      at += size;
      this.#position += size;
      if (this.#position === segment.length) {
        this.#segment++;
        this.#position = 0;
      }
    }
    if (this.#fileLeft === 0) this.#endFile();
  }

  #endFile(): void {
    if (!this.#inFile) return;
    this.#inFile = false;
    this.#sink.end();
  }
}

/** An empty value takes an earlier one back (POSIX); later records win. */
function applyRecord(entry: TarEntry, key: string, value: string): void {
  if (key.startsWith(XATTR)) {
    entry.xattrs.set(key.slice(XATTR.length), Buffer.from(value, 'latin1'));
    return;
  }
  if (value === '') return;
  switch (key) {
    case 'path':
      entry.name = value;
      break;
    case 'linkpath':
      entry.linkName = value;
      break;
    case 'size':
      entry.size = paxNumber(value, key);
      break;
    case 'uid':
      entry.uid = paxNumber(value, key);
      break;
    case 'gid':
      entry.gid = paxNumber(value, key);
      break;
    case 'mtime':
      entry.mtime = paxTime(value, key);
      break;
    case 'atime':
      entry.atime = paxTime(value, key);
      break;
  }
}

const padded = (size: number) => Math.ceil(size / BLOCK) * BLOCK;

function upToNul(data: Buffer): string {
  const end = data.indexOf(0);
  return data.toString('latin1', 0, end < 0 ? data.length : end);
}

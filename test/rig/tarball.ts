/**
 * Makes tar archives byte by byte, honest ones and others: every kind of entry and header that the reader has to know.
 */

export type TarKind = 'file' | 'hardlink' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo';

export interface TarballEntry {
  path: string | Buffer;
  /** Default file. */
  kind?: TarKind;
  /** The type byte itself, in place of the one that `kind` has. */
  flag?: string;
  content?: string | Uint8Array;
  /** Told size, where it is not that of the content. */
  size?: number;
  link?: string | Buffer;
  mode?: number;
  uid?: number;
  gid?: number;
  mtime?: number;
  major?: number;
  minor?: number;
  /** A PAX header before the entry, its keys in this order; xattrs are `SCHILY.xattr.NAME`. */
  pax?: Record<string, string | Buffer> | [string, string | Buffer][];
  /** The last word: changes the finished header, whose checksum is made after it. */
  patch?: (header: Buffer) => void;
  /** Behind the header, before the content: blocks of old GNU sparse files. */
  extra?: Uint8Array;
}

const FLAGS: Record<TarKind, string> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  char: '3',
  block: '4',
  directory: '5',
  fifo: '6',
};

/** The archive with its two zero blocks; `end: false` leaves them out. */
export function tarball(entries: readonly TarballEntry[], { end = true }: { end?: boolean } = {}): Buffer {
  return Buffer.concat([...entries.flatMap(blocks), ...(end ? [Buffer.alloc(1024)] : [])]);
}

/** `LENGTH KEY=VALUE\n`, the length counting itself. */
export function paxRecord(key: string, value: string | Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value), Buffer.from('\n')]);
  let length = rest.length;
  while (rest.length + String(length).length !== length) length = rest.length + String(length).length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** GNU's way to write a number that octal digits cannot hold. */
export function base256(header: Buffer, at: number, length: number, value: bigint): void {
  for (let i = length - 1; i >= 0; i--) {
    header[at + i] = Number(value & 0xffn);
    value >>= 8n;
  }
  header[at] = (header[at] ?? 0) | 0x80;
}

export function octal(header: Buffer, at: number, length: number, value: number): void {
  header.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, length, 'latin1');
}

function blocks(entry: TarballEntry): Buffer[] {
  const made: Buffer[] = [];
  if (entry.pax) {
    const records = Array.isArray(entry.pax) ? entry.pax : Object.entries(entry.pax);
    const content = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)));
    made.push(...blocks({ path: 'PaxHeaders/x', flag: 'x', content }));
  }
  const path = Buffer.from(entry.path);
  const link = Buffer.from(entry.link ?? '');
  if (path.length > 100) made.push(...longName('L', path));
  if (link.length > 100) made.push(...longName('K', link));
  const kind = entry.kind ?? 'file';
  const content = Buffer.from(entry.content ?? '');
  const header = Buffer.alloc(512);
  path.copy(header, 0, 0, 100);
  octal(header, 100, 8, entry.mode ?? (kind === 'directory' ? 0o755 : 0o644));
  octal(header, 108, 8, entry.uid ?? 0);
  octal(header, 116, 8, entry.gid ?? 0);
  octal(header, 124, 12, entry.size ?? content.length);
  octal(header, 136, 12, entry.mtime ?? 1_600_000_000);
  header.write(entry.flag ?? FLAGS[kind], 156, 'latin1');
  link.copy(header, 157, 0, 100);
  header.write('ustar\x0000', 257, 'latin1');
  octal(header, 329, 8, entry.major ?? 0);
  octal(header, 337, 8, entry.minor ?? 0);
  entry.patch?.(header);
  header.fill(' ', 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  made.push(header, Buffer.from(entry.extra ?? ''), content, Buffer.alloc(-content.length & 511));
  return made;
}

function longName(flag: 'L' | 'K', name: Buffer): Buffer[] {
  return blocks({ path: '././@LongLink', flag, content: Buffer.concat([name, Buffer.alloc(1)]) });
}

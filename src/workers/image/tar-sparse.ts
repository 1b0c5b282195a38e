/** Sparse files: which parts of the file the archive holds. GNU's old form and the PAX versions 0.0, 0.1 and 1.0. */
import { BLOCK, number, sizeOf, TarError } from './tar-header.ts';
import { type PaxRecords, paxNumber } from './tar-pax.ts';

export interface Segment {
  offset: number;
  length: number;
}

export interface SparseMap {
  segments: Segment[];
  /** Size of the whole file, holes included. */
  realSize: number;
}

/** As long as a map may be before it is an attack. */
const MAX_MAP = 8 << 20;

/** Checks a map against what the archive holds of the file. Throws {@link TarError}. */
export function checkMap({ segments, realSize }: SparseMap, stored: number): void {
  let end = 0;
  let sum = 0;
  for (const { offset, length } of segments) {
    if (offset < end || offset + length > realSize) throw new TarError('a sparse map is out of order or too long');
    end = offset + length;
    sum += length;
  }
  if (sum !== stored) throw new TarError(`a sparse map of ${sum} bytes, of which the archive holds ${stored}`);
}

/** The four entries in a GNU sparse header, the real size, and whether a block of more entries follows. */
export function oldGnuMap(block: Buffer): SparseMap & { more: boolean } {
  return {
    segments: oldEntries(block, 386, 4),
    realSize: sizeOf(number(block, 483, 12, 'realsize')),
    more: block[482] !== 0,
  };
}

export function oldGnuExtension(block: Buffer): { segments: Segment[]; more: boolean } {
  return { segments: oldEntries(block, 0, 21), more: block[504] !== 0 };
}

function oldEntries(block: Buffer, at: number, count: number): Segment[] {
  const segments: Segment[] = [];
  for (let i = 0; i < count; i++, at += 24) {
    if (block[at] === 0) break; // unused from here on
    const offset = sizeOf(number(block, at, 12, 'offset'));
    segments.push({ offset, length: sizeOf(number(block, at + 12, 12, 'numbytes')) });
  }
  return segments;
}

/** What PAX records say of a sparse file; `inData` when its map stands at the head of the data (version 1.0). */
export function paxSparse(
  records: PaxRecords,
): { name?: string; realSize: number; segments: Segment[]; inData: boolean } | undefined {
  const last = new Map(records.filter(([key]) => key.startsWith('GNU.sparse.')));
  if (last.size === 0) return undefined;
  const name = last.get('GNU.sparse.name');
  const size = last.get('GNU.sparse.realsize') ?? last.get('GNU.sparse.size');
  if (size === undefined) throw new TarError('a sparse file without its real size');
  const realSize = paxNumber(size, 'GNU.sparse.size');
  const major = last.get('GNU.sparse.major');
  if (major !== undefined && major !== '0') {
    if (major !== '1' || last.get('GNU.sparse.minor') !== '0') {
      throw new TarError(`sparse files of version ${major}.${last.get('GNU.sparse.minor')} are not known`);
    }
    return { name, realSize, segments: [], inData: true };
  }
  const map = last.get('GNU.sparse.map');
  const numbers =
    map !== undefined
      ? map.split(',').filter((part) => part !== '')
      : records
          .filter(([key]) => key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes')
          .map(([, value]) => value);
  return { name, realSize, segments: pairs(numbers), inData: false };
}

/** Gathers the map at the head of the data: lines of numbers, the count first, filled up to whole blocks. */
export class MapInData {
  readonly #blocks: string[] = [];
  #lines = 0;
  #wanted: number | undefined;

  /** Takes the next block; the segments once the map is whole. */
  add(block: Buffer): Segment[] | undefined {
    const text = block.toString('latin1', 0, BLOCK);
    this.#blocks.push(text);
    for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) this.#lines++;
    if (this.#wanted === undefined) {
      const end = text.indexOf('\n');
      if (end < 0) throw new TarError('a sparse map without a count');
      const count = paxNumber(text.slice(0, end), 'sparse map');
      if (count * 4 > MAX_MAP) throw new TarError(`a sparse map of ${count} entries`);
      this.#wanted = 1 + 2 * count;
    }
    if (this.#blocks.length * BLOCK > MAX_MAP) throw new TarError('a sparse map without an end');
    if (this.#lines < this.#wanted) return undefined;
    return pairs(this.#blocks.join('').split('\n', this.#wanted).slice(1));
  }
}

function pairs(numbers: string[]): Segment[] {
  if (numbers.length % 2 !== 0) throw new TarError('a sparse map has an odd number of values');
  const segments: Segment[] = [];
  for (let i = 0; i < numbers.length; i += 2) {
    segments.push({
      offset: paxNumber(numbers[i] ?? '', 'sparse offset'),
      length: paxNumber(numbers[i + 1] ?? '', 'sparse length'),
    });
  }
  return segments;
}

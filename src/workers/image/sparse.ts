/** The four encodings of sparse files ("GNU tar manual: Storing Sparse Files"), all read into one list of extents. */
import { invalid } from './invalid.ts';
import { type PaxRecord, paxInteger } from './pax.ts';
import { tarNumber } from './tar-fields.ts';

export interface Extent {
  offset: number;
  size: number;
}

export interface SparseMap {
  /** Length of the file with its holes. */
  size: number;
  extents: Extent[];
  /** Where the rest of the extents is: in further header blocks (old GNU) or at the start of the body (PAX 1.0). */
  more?: 'header' | 'map';
}

/** More pieces than any real file has. */
const MAX_EXTENTS = 100_000;
const MAX_DIGITS = 16;

/** Old GNU: the four extents of the header, or, when the map so far is given, the 21 of a block behind it. */
export function gnuExtents(block: Buffer, map?: SparseMap): SparseMap {
  const [at, count, flag] = map ? [0, 21, 504] : [386, 4, 482];
  map ??= { size: tarNumber(block, 483, 12, 'real size'), extents: [] };
  for (let i = 0; i < count; i++) {
    const field = at + 24 * i;
    if (block[field] === 0) break;
    const offset = tarNumber(block, field, 12, 'sparse offset');
    add(map, offset, tarNumber(block, field + 12, 12, 'sparse size'));
  }
  map.more = block[flag] ? 'header' : undefined;
  return map;
}

/** PAX 0.0, 0.1 and 1.0, which differ in their records; undefined when the file is not sparse. */
export function paxExtents(pax: ReadonlyMap<string, Buffer>, records: readonly PaxRecord[]): SparseMap | undefined {
  const real = paxInteger(pax, 'GNU.sparse.realsize');
  const size = real ?? paxInteger(pax, 'GNU.sparse.size');
  if (pax.get('GNU.sparse.major')?.toString('latin1') === '1') {
    if (size === undefined) throw invalid('a sparse file comes without its size');
    return { size, extents: [], more: 'map' };
  }
  const line = pax.get('GNU.sparse.map')?.toString('latin1');
  if (size === undefined && line === undefined) return undefined;
  if (size === undefined) throw invalid('a sparse file comes without its size');
  const map: SparseMap = { size, extents: [] };
  const numbers: number[] = [];
  if (line !== undefined) for (const part of line.split(',')) numbers.push(decimal(part));
  // PAX 0.0 repeats its two keys, so the order of the records counts.
  else {
    for (const { key, value } of records) {
      if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') numbers.push(decimal(value.toString('latin1')));
    }
  }
  if (numbers.length % 2) throw invalid('the map of a sparse file has an odd number of entries');
  for (let i = 0; i < numbers.length; i += 2) add(map, numbers[i] ?? 0, numbers[i + 1] ?? 0);
  return map;
}

/**
 * The map of PAX 1.0 at the start of a file's body: a count, then offset and size of each extent, one number a line.
 */
export class MapReader {
  /** The numbers read so far, the count first, and the digits of a line that is not complete. */
  readonly #numbers: number[] = [];
  #line = '';

  /** Reads the next block of the body into `map`; false while the map goes on behind it. Throws IMAGE_INVALID. */
  add(block: Buffer, map: SparseMap): boolean {
    const lines = (this.#line + block.toString('latin1')).split('\n');
    const rest = lines.pop() ?? '';
    for (const line of lines) {
      this.#numbers.push(decimal(line));
      const [count = 0] = this.#numbers;
      if (count > MAX_EXTENTS) throw invalid(`a sparse file has ${count} pieces`);
      if (this.#numbers.length < 1 + 2 * count) continue;
      for (let i = 1; i <= 2 * count; i += 2) add(map, this.#numbers[i] ?? 0, this.#numbers[i + 1] ?? 0);
      map.more = undefined;
      return true;
    }
    if (rest.length > MAX_DIGITS) throw invalid('the map of a sparse file has a line that is not a number');
    this.#line = rest;
    return false;
  }
}

function add(map: SparseMap, offset: number, size: number): void {
  if (offset < 0 || size < 0 || !Number.isSafeInteger(offset + size))
    throw invalid('a sparse file has an impossible piece');
  if (map.extents.length >= MAX_EXTENTS) throw invalid(`a sparse file has more than ${MAX_EXTENTS} pieces`);
  map.extents.push({ offset, size });
}

function decimal(text: string): number {
  if (!/^[0-9]{1,16}$/.test(text)) throw invalid(`the map of a sparse file has ${JSON.stringify(text)} for a number`);
  return Number(text);
}

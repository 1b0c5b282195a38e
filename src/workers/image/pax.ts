import type { TimeSpec } from '../../sys/attributes.ts';
import { invalid } from './invalid.ts';

export interface PaxRecord {
  key: string;
  /** Bytes, because xattr values are not text. */
  value: Buffer;
}

/**
 * The records of a PAX header, in order: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record. Throws
 * IMAGE_INVALID.
 */
export function paxRecords(data: Buffer): PaxRecord[] {
  const records: PaxRecord[] = [];
  for (let at = 0; at < data.length; ) {
    const space = data.indexOf(0x20, at);
    const digits = space < 0 || space > at + 10 ? '' : data.toString('latin1', at, space);
    const end = at + Number(digits);
    if (!/^[0-9]+$/.test(digits) || end > data.length || end <= space + 1 || data[end - 1] !== 0x0a) {
      throw invalid('a PAX header has a record of the wrong length');
    }
    const equals = data.indexOf(0x3d, space);
    if (equals < 0 || equals >= end || equals === space + 1) throw invalid('a PAX header has a record without a key');
    records.push({ key: data.toString('latin1', space + 1, equals), value: data.subarray(equals + 1, end - 1) });
    at = end;
  }
  return records;
}

/** An integer of a PAX header; undefined when it is absent. Throws IMAGE_INVALID. */
export function paxInteger(pax: ReadonlyMap<string, Buffer>, key: string): number | undefined {
  const text = pax.get(key)?.toString('latin1');
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!/^-?[0-9]+$/.test(text) || !Number.isSafeInteger(value)) {
    throw invalid(`the PAX record ${key} is ${JSON.stringify(text)}, not a number`);
  }
  return value;
}

/**
 * A time of a PAX header: seconds with a fraction, cut to nanoseconds; undefined when it is absent. Throws
 * IMAGE_INVALID.
 */
export function paxTime(pax: ReadonlyMap<string, Buffer>, key: string): TimeSpec | undefined {
  const text = pax.get(key)?.toString('latin1');
  if (text === undefined) return undefined;
  const [, sign, whole = '', fraction = ''] = /^(-?)([0-9]+)(?:\.([0-9]*))?$/.exec(text) ?? [];
  const [seconds, nanoseconds] = [Number(whole), Number(fraction.slice(0, 9).padEnd(9, '0'))];
  if (whole === '' || !Number.isSafeInteger(seconds)) {
    throw invalid(`the PAX record ${key} is ${JSON.stringify(text)}, not a time`);
  }
  if (sign !== '-') return { seconds, nanoseconds };
  // Nanoseconds count upwards also before 1970: -0.25 s is -1 s and 750 ms.
  if (nanoseconds === 0) return { seconds: 0 - seconds, nanoseconds };
  return { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds };
}

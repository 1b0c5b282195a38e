import type { TimeSpec } from '../../sys/attributes.ts';
import { invalid } from './invalid.ts';

export interface PaxRecord {
  key: string;
  /** Bytes: xattr values are no text. */
  value: Buffer;
}

/** The records of a PAX header, in order: `LENGTH KEY=VALUE\n`, where the length counts the whole record. */
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

/** A whole number of a PAX header, when it is there. */
export function paxInteger(pax: Map<string, Buffer>, key: string): number | undefined {
  const text = pax.get(key)?.toString('latin1');
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!/^-?[0-9]+$/.test(text) || !Number.isSafeInteger(value)) {
    throw invalid(`the PAX record ${key} is ${JSON.stringify(text)}, not a number`);
  }
  return value;
}

/** Seconds with a fraction, of which nanoseconds are kept. */
export function paxTime(pax: Map<string, Buffer>, key: string): TimeSpec | undefined {
  const text = pax.get(key)?.toString('latin1');
  if (text === undefined) return undefined;
  const [, sign, whole = '', fraction = ''] = /^(-?)([0-9]+)(?:\.([0-9]*))?$/.exec(text) ?? [];
  const [seconds, nanoseconds] = [Number(whole), Number(fraction.slice(0, 9).padEnd(9, '0'))];
  if (whole === '' || !Number.isSafeInteger(seconds)) {
    throw invalid(`the PAX record ${key} is ${JSON.stringify(text)}, not a time`);
  }
  if (sign !== '-') return { seconds, nanoseconds };
  // Nanoseconds count upwards: -0.25 is -1 and three quarters.
  if (nanoseconds === 0) return { seconds: 0 - seconds, nanoseconds };
  return { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds };
}

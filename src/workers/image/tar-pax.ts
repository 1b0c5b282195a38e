/** PAX extended headers: `LENGTH KEY=VALUE\n` records (POSIX.1-2017 pax, "pax Extended Header"). Values are bytes, kept as latin1. */
import { sizeOf, TarError, type Time } from './tar-header.ts';

/** In the order they stand; sparse maps of version 0.0 repeat their keys. */
export type PaxRecords = [key: string, value: string][];

export function parsePax(data: Buffer): PaxRecords {
  const records: PaxRecords = [];
  for (let at = 0; at < data.length; ) {
    const blank = data.indexOf(0x20, at);
    const digits = blank < 0 ? '' : data.toString('latin1', at, blank);
    const end = at + (/^[0-9]{1,9}$/.test(digits) ? Number(digits) : 0);
    if (end <= blank + 1 || end > data.length || data[end - 1] !== 0x0a) {
      throw new TarError('a PAX record has a wrong length');
    }
    const equals = data.indexOf(0x3d, blank + 1);
    if (equals <= blank + 1 || equals >= end) throw new TarError('a PAX record has no key');
    const key = data.toString('latin1', blank + 1, equals);
    const value = data.toString('latin1', equals + 1, end - 1);
    const isName = key === 'path' || key === 'linkpath' || key === 'GNU.sparse.name' || key.startsWith('SCHILY.xattr.');
    if (key.includes('\0') || (isName && !key.startsWith('SCHILY') && value.includes('\0'))) {
      throw new TarError(`the PAX record ${JSON.stringify(key)} holds a NUL`);
    }
    records.push([key, value]);
    at = end;
  }
  return records;
}

/** Seconds with an optional fraction, which may be longer than nanoseconds and is then cut. */
export function paxTime(value: string, key: string): Time {
  const match = /^(-?)(\d{1,15})(?:\.(\d*))?$/.exec(value);
  if (!match) throw new TarError(`the PAX record ${key} is no time: ${JSON.stringify(value)}`);
  const whole = Number(match[2]);
  const fraction = Number((match[3] ?? '').slice(0, 9).padEnd(9, '0'));
  if (match[1] !== '-') return { seconds: whole, nanoseconds: fraction };
  // -1.25 is -2 seconds and 750 000 000 nanoseconds: the kernel counts nanoseconds upwards.
  return fraction === 0 ? { seconds: 0 - whole, nanoseconds: 0 } : { seconds: -whole - 1, nanoseconds: 1e9 - fraction };
}

export function paxNumber(value: string, key: string): number {
  if (!/^\d{1,20}$/.test(value)) throw new TarError(`the PAX record ${key} is no number: ${JSON.stringify(value)}`);
  return sizeOf(Number(value));
}

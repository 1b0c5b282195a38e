/**
 * Internet addresses as the kernel has them: 4 or 16 bytes in network order; and as texts, in the canonical form of RFC
 * 5952.
 */
import { isIPv4, isIPv6 } from 'node:net';

export type Address = Buffer;

/** An address and the length of its network's prefix. */
export interface Prefix {
  address: Address;
  length: number;
}

/** Reads an address; an IPv4 one in IPv6 clothes (::ffff:10.0.0.1) becomes IPv4. Undefined for text that is none. */
export function parseAddress(text: string): Address | undefined {
  if (isIPv4(text)) return Buffer.from(text.split('.').map(Number));
  if (!isIPv6(text) || text.includes('%')) return undefined;
  const [head = '', tail] = text.split('::');
  const left = groups(head);
  const right = tail === undefined ? [] : groups(tail);
  const bytes = Buffer.from([...left, ...new Array<number>(16 - left.length - right.length).fill(0), ...right]);
  const mapped = bytes.subarray(0, 10).every((byte) => byte === 0) && bytes.readUInt16BE(10) === 0xffff;
  return mapped ? Buffer.from(bytes.subarray(12)) : bytes;
}

function groups(text: string): number[] {
  if (text === '') return [];
  return text.split(':').flatMap((group) => {
    if (group.includes('.')) return group.split('.').map(Number);
    const value = Number.parseInt(group, 16);
    return [value >> 8, value & 0xff];
  });
}

/** Reads "address/length"; the address keeps its host bits. Undefined for text that is none. */
export function parsePrefix(text: string): Prefix | undefined {
  const [host = '', digits = '', ...more] = text.split('/');
  const address = parseAddress(host);
  if (!address || more.length > 0 || !/^\d{1,3}$/.test(digits)) return undefined;
  const length = Number(digits) - (address.length === 4 && host.includes(':') ? 96 : 0);
  return length < 0 || length > address.length * 8 ? undefined : { address, length };
}

export function addressText(address: Address): string {
  if (address.length === 4) return address.join('.');
  const words = Array.from({ length: 8 }, (_, index) => address.readUInt16BE(index * 2));
  let best = { from: 0, length: 1 };
  for (let from = 0; from < 8; from++) {
    let length = 0;
    while (from + length < 8 && words[from + length] === 0) length++;
    if (length > best.length) best = { from, length };
  }
  const hex = (part: number[]) => part.map((word) => word.toString(16)).join(':');
  if (best.length === 1) return hex(words);
  return `${hex(words.slice(0, best.from))}::${hex(words.slice(best.from + best.length))}`;
}

export const prefixText = ({ address, length }: Prefix): string => `${addressText(address)}/${length}`;

export const isSix = (address: Address): boolean => address.length === 16;

/** The network's mask, or for a whole address all ones. */
export function maskOf(bytes: number, length: number): Buffer {
  const mask = Buffer.alloc(bytes);
  for (let bit = 0; bit < length; bit++) mask[bit >> 3] = (mask[bit >> 3] ?? 0) | (0x80 >> (bit & 7));
  return mask;
}

/** The address with its host bits cleared. */
export function networkOf({ address, length }: Prefix): Address {
  const mask = maskOf(address.length, length);
  return Buffer.from(address.map((byte, index) => byte & (mask[index] ?? 0)));
}

/** The last address of the network: all host bits set. */
export function lastOf({ address, length }: Prefix): Address {
  const mask = maskOf(address.length, length);
  return Buffer.from(address.map((byte, index) => byte | (~(mask[index] ?? 0) & 0xff)));
}

export function contains(prefix: Prefix, address: Address): boolean {
  if (prefix.address.length !== address.length) return false;
  return networkOf(prefix).equals(networkOf({ address, length: prefix.length }));
}

/** The address after (or, with -1, before) this one; the last one is followed by zero. */
export function neighbour(address: Address, step: 1 | -1 = 1): Address {
  const next = Buffer.from(address);
  for (let at = next.length - 1; at >= 0; at--) {
    const value = (next[at] ?? 0) + step;
    next[at] = value & 0xff;
    if (value >= 0 && value <= 0xff) break;
  }
  return next;
}

/**
 * Is a program in bin_dirs the reference plugin of its name? Go writes into every program which package it was made
 * from (the "build information" of Go 1.18 and newer, as `go version -m` shows it). A wrapper is a script, or a program
 * of another package, and is never taken for the plugin that it calls. Where the record is absent (older Go, packed
 * programs) the answer is no.
 */
import { closeSync, openSync, readSync, statSync } from 'node:fs';

/** Import paths by the plugin's name. */
const PACKAGES: Record<string, readonly string[]> = {
  bridge: ['github.com/containernetworking/plugins/plugins/main/bridge'],
  ptp: ['github.com/containernetworking/plugins/plugins/main/ptp'],
  loopback: ['github.com/containernetworking/plugins/plugins/main/loopback'],
  'host-local': ['github.com/containernetworking/plugins/plugins/ipam/host-local'],
  portmap: ['github.com/containernetworking/plugins/plugins/meta/portmap'],
  tuning: ['github.com/containernetworking/plugins/plugins/meta/tuning'],
  flannel: ['github.com/flannel-io/cni-plugin', 'github.com/containernetworking/plugins/plugins/meta/flannel'],
};

/** The types of plugins whose program is known. */
export const REFERENCE_PLUGINS: readonly string[] = Object.keys(PACKAGES);

const ELF = Buffer.from([0x7f, 0x45, 0x4c, 0x46]);
/**
 * debug/buildinfo: the magic at a multiple of 16 bytes, pointer size and flags after it; flag 2: the texts follow
 * inline from 32 on.
 */
const MAGIC = Buffer.from('\xff Go buildinf:', 'latin1');
const INLINE = 2;
const TEXTS = 32;
/** Around the module information, so that it is found in a running program as well. */
const SENTINEL = 16;
const PT_LOAD = 1;
const PF_W = 2;
const MOST_DATA = 32 << 20;

/** Answers by path, valid for one state of the file. */
const known = new Map<string, { state: string; package: string | undefined }>();

/** Never throws: a file that can't be read is not a reference plugin. */
export function isReferencePlugin(name: string, path: string): boolean {
  const found = packageOf(path);
  return found !== undefined && (PACKAGES[name] ?? []).includes(found);
}

/** The package that a Go program was made from; undefined for anything else. */
export function packageOf(path: string): string | undefined {
  try {
    const { dev, ino, size, mtimeMs, ctimeMs } = statSync(path);
    const state = [dev, ino, size, mtimeMs, ctimeMs].join(' ');
    const before = known.get(path);
    if (before?.state === state) return before.package;
    const found = readPackage(path);
    known.set(path, { state, package: found });
    return found;
  } catch {
    return undefined; // unreadable: its process will say why
  }
}

function readPackage(path: string): string | undefined {
  const file = openSync(path, 'r');
  try {
    const header = read(file, 0, 64);
    if (!header.subarray(0, 4).equals(ELF) || header[4] !== 2 || header[5] !== 1) return undefined; // 64 bits, little-endian
    const data = dataSegment(file, header);
    return data && mainPackage(data);
  } finally {
    closeSync(file);
  }
}

/** The first writable segment, which begins with the build information. */
function dataSegment(file: number, header: Buffer): Buffer | undefined {
  const at = Number(header.readBigUInt64LE(32));
  const size = header.readUInt16LE(54);
  const count = header.readUInt16LE(56);
  const table = read(file, at, size * count);
  for (let index = 0; index < count; index++) {
    const entry = table.subarray(index * size, (index + 1) * size);
    if (entry.readUInt32LE(0) !== PT_LOAD || !(entry.readUInt32LE(4) & PF_W)) continue;
    const length = Number(entry.readBigUInt64LE(32));
    return length > MOST_DATA ? undefined : read(file, Number(entry.readBigUInt64LE(8)), length);
  }
  return undefined;
}

function mainPackage(data: Buffer): string | undefined {
  let at = data.indexOf(MAGIC);
  while (at >= 0 && at % 16 !== 0) at = data.indexOf(MAGIC, at + 1);
  if (at < 0 || !((data[at + 15] ?? 0) & INLINE)) return undefined;
  const version = text(data, at + TEXTS);
  const module = version && text(data, version.end);
  if (!module) return undefined;
  const lines = module.text.subarray(SENTINEL, -SENTINEL).toString('utf8').split('\n');
  return lines.find((line) => line.startsWith('path\t'))?.slice('path\t'.length);
}

/** A text with its length before it, as a varint. */
function text(data: Buffer, from: number): { text: Buffer; end: number } | undefined {
  let length = 0;
  let at = from;
  for (let shift = 0; shift < 28; shift += 7) {
    const byte = data[at++];
    if (byte === undefined) return undefined;
    length |= (byte & 0x7f) << shift;
    if (byte < 0x80) break;
  }
  const end = at + length;
  return length === 0 || end > data.length ? undefined : { text: data.subarray(at, end), end };
}

function read(file: number, position: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  const got = readSync(file, buffer, 0, length, position);
  return buffer.subarray(0, got);
}

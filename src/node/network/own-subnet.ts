import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { endianness } from 'node:os';
import { dirname, join } from 'node:path';
import { daemonId } from './daemon-id.ts';

/** 10.192.0.0/16 to 10.243.0.0/16: private, and seldom met (clusters are at 10.0, 10.42 and 10.96, flannel at 10.244, Docker at 172.17). */
const FIRST = 192;
const COUNT = 52;

/**
 * The subnet of a built-in network whose configuration leaves it open ("auto"). Each daemon begins to look at another one, so that
 * two on one machine do not want the same, and takes the first that no route of the machine overlaps. The choice is kept under
 * its root folder: pods have addresses in it. `routes`: the text of /proc/net/route.
 */
export function ownSubnet(root: string, routes = readFileSync('/proc/net/route', 'latin1')): string {
  const file = join(root, 'cni/subnet');
  const kept = read(file);
  if (kept !== undefined) return kept;
  const start = Number.parseInt(daemonId(root), 16) % COUNT;
  const candidates = Array.from({ length: COUNT }, (_, i) => FIRST + ((start + i) % COUNT));
  const taken = parseRoutes(routes);
  const free = candidates.find((second) => !taken.some((route) => overlaps(route, second)));
  // Where all are taken the network says itself that another has its addresses too.
  const subnet = `10.${free ?? candidates[0]}.0.0/16`;
  mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
  writeFileSync(file, `${subnet}\n`);
  return subnet;
}

function read(file: string): string | undefined {
  try {
    return /^10\.\d+\.0\.0\/16$/m.exec(readFileSync(file, 'latin1'))?.[0];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

interface Route {
  destination: number;
  mask: number;
}

/** Destinations of all routes but the default one. The kernel prints an address as the number that its four bytes are to the machine. */
function parseRoutes(text: string): Route[] {
  const address = (hex = '') => {
    const bytes = Buffer.from(hex, 'hex');
    return endianness() === 'LE' ? bytes.readUInt32LE() : bytes.readUInt32BE();
  };
  return text
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => line.split('\t'))
    .map((fields) => ({ destination: address(fields[1]), mask: address(fields[7]) }))
    .filter(({ mask }) => mask !== 0);
}

function overlaps({ destination, mask }: Route, second: number): boolean {
  const common = (mask & 0xffff0000) >>> 0;
  const candidate = ((10 << 24) | (second << 16)) >>> 0;
  return (destination & common) >>> 0 === (candidate & common) >>> 0;
}

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { endianness } from 'node:os';
import { dirname, join } from 'node:path';
import { daemonId } from './daemon-id.ts';

/**
 * 10.192.0.0/16 to 10.243.0.0/16 are private and rarely used: clusters use 10.0, 10.42 and 10.96, flannel 10.244,
 * Docker 172.17.
 */
const FIRST = 192;
const COUNT = 52;

/**
 * The subnet of a built-in network that is configured as "auto": the first candidate that overlaps no route of the
 * machine. Each daemon starts at another candidate, so that two daemons on one machine choose different subnets. The
 * choice is kept in <root>/cni/subnet, because pods have addresses in it. `routes` is the text of /proc/net/route.
 */
export function ownSubnet(root: string, routes = readFileSync('/proc/net/route', 'latin1')): string {
  const file = join(root, 'cni/subnet');
  const kept = read(file);
  if (kept !== undefined) return kept;
  const start = Number.parseInt(daemonId(root), 16) % COUNT;
  const candidates = Array.from({ length: COUNT }, (_, i) => FIRST + ((start + i) % COUNT));
  const taken = parseRoutes(routes);
  const free = candidates.find((second) => !taken.some((route) => overlaps(route, second)));
  // When every candidate overlaps a route, builtin.ts reports the overlap as a problem of the network.
  const subnet = `10.${free ?? candidates[0]}.0.0/16`;
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
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

/**
 * Destinations of all routes except the default route. The kernel prints an address as a 32-bit number in host byte
 * order.
 */
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

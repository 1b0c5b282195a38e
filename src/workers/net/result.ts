/**
 * The result of a plugin, converted between versions of the specification. 0.1 and 0.2 have `ip4` and `ip6`; 0.3 and
 * 0.4 have a list `ips`, whose entries have a `version` of "4" or "6"; 1.0 drops that field; 1.1 adds fields to
 * interfaces and routes.
 */
import { SluiceError } from '../../errors.ts';
import { isObject, type Json } from '../json.ts';
import { isIPv6Cidr } from './cidr.ts';
import { atLeast, isKnownVersion, NEWEST_VERSION } from './cni-version.ts';
import type { CniResult } from './types.ts';

type Ip = NonNullable<CniResult['ips']>[number];
type Route = NonNullable<CniResult['routes']>[number];

/** A result as the plugin printed it (`raw`) and in the shape of the newest version. */
export interface ParsedResult {
  version: string;
  raw: Json;
  result: CniResult;
}

/**
 * Parses the stdout of a plugin after ADD. A result without `cniVersion` has the version of the request (`requested`).
 * Throws CNI_FAILED with the reason and, for text that is not JSON, its beginning.
 */
export function parseResult(text: string, requested: string): ParsedResult {
  if (text.trim() === '') throw wrong('printed no result');
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch {
    throw wrong(`printed something that is not JSON: ${excerpt(text)}`);
  }
  if (!isObject(raw)) throw wrong(`printed a result that is not an object: ${excerpt(text)}`);
  const version = raw.cniVersion || requested;
  if (typeof version !== 'string' || !isKnownVersion(version)) {
    throw wrong(`printed a result of version ${JSON.stringify(version)}, which is not supported`);
  }
  return { version, raw, result: toNewest(raw, version) };
}

/** A recorded result; undefined for an invalid one, which is omitted as in libcni. */
export function previousResult(result: Json | undefined, version: string): ParsedResult | undefined {
  if (!result) return undefined;
  try {
    return parseResult(JSON.stringify(result), version);
  } catch {
    return undefined;
  }
}

/** The result in the version `wanted`, as `prevResult` carries it. */
export function inVersion({ raw, version, result }: ParsedResult, wanted: string): Json {
  if (version === wanted) return { ...raw, cniVersion: wanted };
  if (!atLeast(wanted, '0.3.0')) return toOldest(result, wanted);
  const older = !atLeast(wanted, '1.0.0');
  return {
    ...result,
    cniVersion: wanted,
    ips: result.ips?.map((ip) => (older ? { version: isIPv6Cidr(ip.address) ? '6' : '4', ...ip } : ip)),
  };
}

function toNewest(raw: Json, version: string): CniResult {
  const result: CniResult = { cniVersion: NEWEST_VERSION };
  if (isObject(raw.dns)) result.dns = raw.dns;
  if (!atLeast(version, '0.3.0')) {
    const families = [raw.ip4, raw.ip6].filter(isObject);
    result.ips = families.map((family) => ipOf({ address: family.ip, gateway: family.gateway }, 0));
    result.routes = families.flatMap((family) => list(family, 'routes').map(routeOf));
    return result;
  }
  result.interfaces = list(raw, 'interfaces').map((entry) => {
    if (typeof entry.name !== 'string') throw wrong('printed an interface without a name');
    return { ...entry, name: entry.name };
  });
  const interfaces = result.interfaces.length;
  result.ips = list(raw, 'ips').map((entry) => ipOf(entry, interfaces));
  result.routes = list(raw, 'routes').map(routeOf);
  return result;
}

function ipOf({ version: _, ...entry }: Json, interfaces: number): Ip {
  const { address, gateway, interface: index, ...rest } = entry;
  if (typeof address !== 'string' || !address.includes('/')) {
    throw wrong(`printed an address that is not a CIDR: ${JSON.stringify(address)}`);
  }
  const ip: Ip = { ...rest, address };
  if (typeof gateway === 'string' && gateway !== '') ip.gateway = gateway;
  if (index !== undefined && index !== null) {
    if (!Number.isInteger(index) || Number(index) < 0 || Number(index) >= interfaces) {
      throw wrong(
        `printed an address whose interface index is ${JSON.stringify(index)}, but it has ${interfaces} interfaces`,
      );
    }
    ip.interface = Number(index);
  }
  return ip;
}

function routeOf(entry: Json): Route {
  if (typeof entry.dst !== 'string') throw wrong('printed a route without a destination');
  return { ...entry, dst: entry.dst };
}

function toOldest(result: CniResult, wanted: string): Json {
  const family = (ipv6: boolean) => {
    const ip = result.ips?.find(({ address }) => isIPv6Cidr(address) === ipv6);
    if (!ip) return undefined;
    const routes = result.routes?.filter(({ dst }) => isIPv6Cidr(dst) === ipv6);
    return { ip: ip.address, gateway: ip.gateway, routes };
  };
  return { cniVersion: wanted, ip4: family(false), ip6: family(true), dns: result.dns };
}

/** The list of objects under `key`; absent and null count as empty. */
function list(raw: Json, key: string): Json[] {
  const value = raw[key] ?? [];
  if (!Array.isArray(value) || !value.every(isObject))
    throw wrong(`printed a result whose "${key}" is not a list of objects`);
  return value;
}

/** The beginning of a text, on one line, for an error message. */
export function excerpt(text: string, length = 200): string {
  const line = text.trim().replaceAll(/\s+/g, ' ');
  return line.length > length ? `${line.slice(0, length)}…` : line;
}

const wrong = (what: string): SluiceError => new SluiceError('CNI_FAILED', what);

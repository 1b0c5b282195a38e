import { isIPv4, isIPv6 } from 'node:net';
import { SluiceError } from '../../errors.ts';

export interface ListenAddress {
  /** Host name or address, IPv6 without its brackets. */
  host: string;
  /** 0: any free port. */
  port: number;
}

/** Reads `host:port` or `[v6]:port`; undefined when it is neither. */
export function parseListen(text: string): ListenAddress | undefined {
  const match = /^(?:\[(?<v6>[^\]]+)\]|(?<host>[^:[\]]+)):(?<port>\d{1,5})$/.exec(text);
  if (!match?.groups) return undefined;
  const { v6, host, port } = match.groups;
  if (Number(port) > 65_535) return undefined;
  if (v6 !== undefined) return isIPv6(v6) ? { host: v6, port: Number(port) } : undefined;
  if (host === undefined) return undefined;
  const looksNumeric = /^[\d.]+$/.test(host);
  if (looksNumeric ? !isIPv4(host) : !/^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$/.test(host)) return undefined;
  return { host, port: Number(port) };
}

/** Reads an IPv4 subnet; undefined when it is none, has bits set behind the prefix, or is too large or small for a pod network. */
export function parseSubnet(text: string): { address: string; prefix: number } | undefined {
  const [address = '', length = '', ...rest] = text.split('/');
  if (rest.length > 0 || !isIPv4(address) || !/^\d{1,2}$/.test(length)) return undefined;
  const prefix = Number(length);
  if (prefix < 8 || prefix > 29) return undefined;
  const bits = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  return bits % 2 ** (32 - prefix) === 0 ? { address, prefix } : undefined;
}

/**
 * What a failed listen() of the address under `key` means to the operator: which key to change, and why two daemons with the
 * defaults collide here.
 */
export function listenError(key: string, address: string, cause: unknown): SluiceError {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  const reason =
    code === 'EADDRINUSE'
      ? 'the port is taken, perhaps by another sluiced: set another one'
      : code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND'
        ? 'this machine does not have that address'
        : code === 'EACCES'
          ? 'the port needs more rights'
          : 'it cannot be listened on';
  return new SluiceError('CONFIG_INVALID', `${key} = ${JSON.stringify(address)}: ${reason}`, { cause });
}

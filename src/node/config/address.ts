import { isIPv4, isIPv6 } from 'node:net';
import { SluiceError } from '../../errors.ts';

interface ListenAddress {
  /** Host name or address, IPv6 without its brackets. */
  host: string;
  /** 0 means any free port. */
  port: number;
}

/** Parses `host:port` or `[IPv6 address]:port`; undefined when the text is neither. */
export function parseListen(text: string): ListenAddress | undefined {
  const match = /^(?:\[(?<v6>[^\]]+)\]|(?<host>[^:[\]]+)):(?<port>\d{1,5})$/.exec(text);
  if (!match?.groups) return undefined;
  const { v6, host, port } = match.groups;
  if (Number(port) > 65_535) return undefined;
  if (v6 !== undefined) return isIPv6(v6) ? { host: v6, port: Number(port) } : undefined;
  if (host === undefined) return undefined;
  const numeric = /^[\d.]+$/.test(host);
  if (numeric ? !isIPv4(host) : !/^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$/.test(host)) return undefined;
  return { host, port: Number(port) };
}

/**
 * Parses an IPv4 subnet; undefined for anything else, for host bits that are not zero, and for a prefix outside of 8 to
 * 29.
 */
export function parseSubnet(text: string): { address: string; prefix: number } | undefined {
  const [address = '', length = '', ...rest] = text.split('/');
  if (rest.length > 0 || !isIPv4(address) || !/^\d{1,2}$/.test(length)) return undefined;
  const prefix = Number(length);
  if (prefix < 8 || prefix > 29) return undefined;
  const bits = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  return bits % 2 ** (32 - prefix) === 0 ? { address, prefix } : undefined;
}

/**
 * Converts the error of a failed listen() to CONFIG_INVALID with the configuration key and the reason. A taken port
 * names another sluiced as a possible cause, because two daemons with default configurations use the same one.
 */
export function listenError(key: string, address: string, cause: unknown): SluiceError {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  const reason =
    code === 'EADDRINUSE'
      ? 'the port is in use, perhaps by another sluiced: set another port'
      : code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND'
        ? 'this machine does not have that address'
        : code === 'EACCES'
          ? 'the daemon lacks the privilege to bind this port'
          : 'cannot listen on it';
  return new SluiceError('CONFIG_INVALID', `${key} = ${JSON.stringify(address)}: ${reason}`, { cause });
}

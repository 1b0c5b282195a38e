import { isIPv6 } from 'node:net';

/** The address of a CIDR, without its prefix length. */
export const addressOf = (cidr: string): string => cidr.split('/')[0] ?? '';

/** True when the CIDR's address is IPv6. */
export const isIPv6Cidr = (cidr: string): boolean => isIPv6(addressOf(cidr));

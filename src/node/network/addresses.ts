import { isIPv6 } from 'node:net';
import { addressOf } from '../../workers/net/cidr.ts';
import type { CniResult } from '../../workers/net/types.ts';

/**
 * The pod's addresses without their prefix length, IPv4 first and otherwise in the plugin's order; empty when there are
 * none. An address belongs to the pod when it is on the interface `ifName`, or when the result names no interface for
 * it (the field is optional in the CNI specification).
 */
export function addresses(result: CniResult, ifName: string): string[] {
  const own = (result.ips ?? []).filter(({ interface: index }) => {
    if (index === undefined) return true;
    return result.interfaces?.[index]?.name === ifName;
  });
  const plain = [...new Set(own.map(({ address }) => addressOf(address)))];
  return [...plain.filter((address) => !isIPv6(address)), ...plain.filter((address) => isIPv6(address))];
}

import { isIPv6 } from 'node:net';
import type { CniResult } from '../../workers/net/types.ts';

/**
 * The pod's addresses without their prefix, IPv4 first and otherwise in the plugin's order; empty when there are none. An address
 * counts when it is on `ifName` inside the pod, or when the plugin does not say on which interface it is (which it need not).
 */
export function addresses(result: CniResult, ifName: string): string[] {
  const own = (result.ips ?? []).filter(({ interface: index }) => {
    if (index === undefined) return true;
    return result.interfaces?.[index]?.name === ifName;
  });
  const plain = [...new Set(own.map(({ address }) => address.split('/')[0] ?? ''))];
  return [...plain.filter((address) => !isIPv6(address)), ...plain.filter((address) => isIPv6(address))];
}

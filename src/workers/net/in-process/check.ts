/** CHECK (specification, section 2): is what ADD made still there? In the words of the reference plugins. */
import { contains, type Prefix, parseAddress, parsePrefix, prefixText } from '../../../sys/ip.ts';
import type { NetlinkSocket } from '../../../sys/netlink.ts';
import { findLink, type Link, listAddresses, listRoutes } from '../../../sys/rtnetlink.ts';
import type { CniResult } from '../types.ts';
import type { Call } from './call.ts';
import { Refusal } from './refusal.ts';

type Interface = NonNullable<CniResult['interfaces']>[number];

/** What ADD answered, in the newest shape. Throws Refusal. */
export function resultToCheck({ prevResult }: Call): CniResult {
  if (!prevResult) throw new Refusal('Required prevResult missing');
  return prevResult.result;
}

/** The result's interface in the pod. Throws Refusal when the result is about another namespace. */
export function podInterfaceOf(result: CniResult, { netns, attachment }: Call): Interface {
  const found = result.interfaces?.find(({ name, sandbox }) => name === attachment.ifName && sandbox === netns);
  if (!found) throw new Refusal(`Sandbox in prevResult  doesn't match configured netns: ${netns}`);
  return found;
}

/**
 * A veth in the pod with the recorded hardware address, and all addresses and routes of the result. To be called in the
 * pod.
 */
export function checkPod(socket: NetlinkSocket, expected: Interface, { ips, routes }: CniResult): Link {
  const link = findLink(socket, expected.name);
  if (!link) throw new Refusal(`Interface name ${expected.name} not found`);
  if (link.kind !== 'veth') throw new Refusal(`Error: Container interface ${link.name} not of type veth`);
  if (expected.mac && expected.mac !== link.mac) {
    throw new Refusal(`Interface ${link.name} Mac ${expected.mac} doesn't match container Mac: ${link.mac}`);
  }
  const addresses = listAddresses(socket, link.index).map(prefixText);
  const known = listRoutes(socket);
  for (const { address, gateway } of ips ?? []) {
    const prefix = parsePrefix(address);
    if (!prefix || !addresses.includes(prefixText(prefix))) {
      throw new Refusal(`Failed to match addr ${address} on interface ${link.name}`);
    }
    const led = known.some(({ dst }) => dst.length === prefix.length && contains(dst, prefix.address));
    if (!led) throw new Refusal(`Failed to find Gateway ${gateway} for interface ${link.name}`);
  }
  for (const { dst, gw } of routes ?? []) {
    const prefix = parsePrefix(dst);
    const gateway = gw === undefined ? undefined : parseAddress(gw);
    const found = prefix && known.some((route) => sameRoute(route, prefix, gateway));
    if (!found) throw new Refusal(`Expected Route {Dst:${dst} GW:${gw ?? '<nil>'}} not found in routing table`);
  }
  return link;
}

function sameRoute(route: { dst: Prefix; gateway?: Buffer }, wanted: Prefix, gateway: Buffer | undefined): boolean {
  if (route.dst.length !== wanted.length || !contains(route.dst, wanted.address)) return false;
  // Of the default route the plugins compare the destination alone.
  return wanted.length === 0 || gateway === undefined || route.gateway?.equals(gateway) === true;
}

/** The bridge of the result: there, a bridge, with its recorded hardware address. */
export function checkBridge(host: NetlinkSocket, result: CniResult, name: string, promiscuous: boolean): Link {
  const expected = result.interfaces?.find((each) => each.name === name);
  if (!expected) throw new Refusal('Interface name missing ');
  const link = findLink(host, name);
  if (!link) throw new Refusal(`Interface name ${name} not found`);
  if (expected.sandbox) throw new Refusal(`Interface ${name} should not be in sandbox`);
  if (link.kind !== 'bridge') throw new Refusal(`Interface ${name} does not have link type of bridge`);
  if (expected.mac && expected.mac !== link.mac) {
    throw new Refusal(`Bridge interface ${name} Mac doesn't match: ${expected.mac}`);
  }
  if (promiscuous !== link.promiscuous) {
    const now = `doesn't match current state: ${link.promiscuous} `;
    throw new Refusal(`Bridge interface ${name} configured Promisc Mode ${promiscuous} ${now}`);
  }
  return link;
}

/** The host's end of the pod's veth is a port of the bridge. */
export function checkPort(host: NetlinkSocket, result: CniResult, bridge: Link, pod: Link): void {
  const found = (result.interfaces ?? []).some(({ name, sandbox, mac }) => {
    if (sandbox || name === bridge.name) return false;
    const link = findLink(host, name);
    if (link?.kind !== 'veth' || link.peer !== pod.index || link.index !== pod.peer || link.master !== bridge.index) {
      return false;
    }
    if (mac && mac !== link.mac) throw new Refusal(`Interface ${name} Mac doesn't match: ${mac} not found`);
    return true;
  });
  if (!found) throw new Refusal(`CNI veth created for bridge ${bridge.name} was not found`);
}

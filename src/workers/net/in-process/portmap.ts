/** The portmap plugin: ports of the host lead into the pod. */

import { deleteUdpFlows } from '../../../sys/conntrack.ts';
import { type Address, isSix, type Prefix, parseAddress, parsePrefix } from '../../../sys/ip.ts';
import { findLink, linkTowards } from '../../../sys/rtnetlink.ts';
import { isObject, type Json } from '../../json.ts';
import type { CniResult } from '../types.ts';
import type { Call, Work } from './call.ts';
import { resultToCheck } from './check.ts';
import { COMMON, Fields, NotOurs } from './fields.ts';
import { isMapped, mapPorts, type PortMapping, type Protocol, release, releaseOthers } from './firewall.ts';
import { during, Refusal } from './refusal.ts';
import { nftablesSocket } from './sockets.ts';
import { writeSysctl } from './sysctl.ts';

const KEYS = [...COMMON, 'snat', 'markMasqBit', 'backend'];
const DEFAULT_BIT = 13;

interface Portmap {
  snat: boolean;
  markBit: number;
  mappings: { hostPort: number; containerPort: number; protocol: Protocol; hostIP: string }[];
}

/** Throws NotOurs: for conditions and chains of iptables, for a back end that was asked for by name. */
export function readPortmap(conf: Json): Portmap {
  const fields = new Fields(conf, KEYS);
  if (!['', 'nftables'].includes(fields.text('backend'))) throw new NotOurs('"backend"');
  const runtime = isObject(conf.runtimeConfig) ? conf.runtimeConfig : {};
  const mappings = new Fields({ list: runtime.portMappings }, ['list']).list('list').map((entry) => {
    const each = new Fields(entry, ['hostPort', 'containerPort', 'protocol', 'hostIP']);
    const protocol = each.text('protocol').toLowerCase();
    if (protocol !== 'tcp' && protocol !== 'udp' && protocol !== 'sctp') throw new NotOurs(`the protocol ${protocol}`);
    const hostIP = each.text('hostIP');
    if (hostIP !== '' && !parseAddress(hostIP)) throw new NotOurs(`the host address ${hostIP}`);
    return { hostPort: each.whole('hostPort'), containerPort: each.whole('containerPort'), protocol, hostIP } as const;
  });
  return { snat: fields.flag('snat', true), markBit: fields.whole('markMasqBit', DEFAULT_BIT), mappings };
}

/** Is there anything to do at all? */
export const mapsPorts = ({ mappings }: Portmap): boolean => mappings.length > 0;

export const portmapWork = (portmap: Portmap): Work => ({
  add: (call) => add(portmap, call),
  del: (call) => del(portmap, call),
  check: (call) => check(portmap, call),
  gc: async (call) => releaseOthers(call.network.name, call),
});

async function add(portmap: Portmap, call: Call) {
  const { prevResult, network, attachment } = call;
  const { snat, markBit } = portmap;
  const mappings = validated(portmap);
  if (!prevResult) throw new Refusal('must be called as chained plugin');
  if (mappings.length === 0) return prevResult;
  const nftables = nftablesSocket();
  for (const ip of podAddresses(prevResult.result, attachment.ifName)) {
    if (snat && !isSix(ip.address)) {
      // Otherwise what comes from 127.0.0.1 may not leave by another interface than lo.
      const name = linkName(call, ip.address);
      if (name !== undefined) {
        during('unable to enable route_localnet', () => writeSysctl(`net/ipv4/conf/${name}/route_localnet`, '1'));
      }
    }
    during('unable to setup DNAT', () => mapPorts(nftables, network.name, attachment, ip, mappings, { snat, markBit }));
    const udp = mappings.flatMap(({ protocol, hostPort }) => (protocol === 'udp' ? [hostPort] : []));
    // Known flows keep the way that they had before the mapping, into nothing.
    if (udp.length > 0) deleteUdpFlows(nftables, isSix(ip.address), udp);
  }
  return prevResult;
}

/** The link by which the host reaches the pod. */
function linkName({ host }: Call, address: Address): string | undefined {
  const index = linkTowards(host, address);
  return index === undefined ? undefined : findLink(host, index)?.name;
}

async function del(portmap: Portmap, { network, attachment }: Call): Promise<void> {
  if (portmap.mappings.length === 0) return;
  const nftables = nftablesSocket();
  release(nftables, network.name, attachment, [], portmap.mappings.map(mappingOf));
}

async function check(portmap: Portmap, call: Call): Promise<void> {
  const result = resultToCheck(call);
  const mappings = validated(portmap);
  if (mappings.length === 0) return;
  const nftables = nftablesSocket();
  for (const ip of podAddresses(result, call.attachment.ifName)) {
    const lost = mappings.find((mapping) => !isMapped(nftables, call.network.name, call.attachment, ip, mapping));
    const family = isSix(ip.address) ? 'ipv6' : 'ipv4';
    if (lost) throw new Refusal(`could not check ${family} dnat: host port ${lost.hostPort} does not lead to the pod`);
  }
}

function validated({ mappings, markBit }: Portmap): PortMapping[] {
  if (markBit < 0 || markBit > 31) throw new Refusal('failed to parse config: MasqMarkBit must be between 0 and 31');
  for (const { containerPort, hostPort } of mappings) {
    if (!isPort(containerPort))
      throw new Refusal(`failed to parse config: Invalid container port number: ${containerPort}`);
    if (!isPort(hostPort)) throw new Refusal(`failed to parse config: Invalid host port number: ${hostPort}`);
  }
  return mappings.map(mappingOf);
}

const isPort = (port: number): boolean => port > 0 && port <= 0xffff;

function mappingOf({ hostIP, ...mapping }: Portmap['mappings'][number]): PortMapping {
  const hostAddress = hostIP === '' ? undefined : parseAddress(hostIP);
  return { ...mapping, ...(hostAddress ? { hostAddress } : {}) };
}

/** The pod's first address of each family, as far as it is on its interface. */
function podAddresses({ ips, interfaces }: CniResult, ifName: string): Prefix[] {
  const own = (ips ?? []).flatMap(({ address, interface: index }) => {
    const at = index === undefined ? undefined : interfaces?.[index];
    if (at && (at.name !== ifName || !at.sandbox)) return [];
    return parsePrefix(address) ?? [];
  });
  const first = (six: boolean) => own.find(({ address }) => isSix(address) === six);
  return [first(false), first(true)].flatMap((prefix) => prefix ?? []);
}

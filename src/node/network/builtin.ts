/**
 * The network for a node that has no CNI configuration yet: a bridge with addresses from host-local, so that the daemon can be
 * tried without any preparation. It is no cluster network: pods of other nodes are out of reach.
 */
import { BlockList, isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { findProgram } from '../../workers/net/programs.ts';
import type { NetworkConf, PluginConf } from '../../workers/net/types.ts';
import type { Uplink } from '../../workers/net/uplink.ts';
import { daemonId } from './daemon-id.ts';
import { ownSubnet } from './own-subnet.ts';

export const BUILT_IN = 'built-in';

export interface BuiltinSettings {
  /** The daemon's root folder: names the bridge, and addresses in use are kept under it. */
  root: string;
  /** A CIDR, an IPv4 and an IPv6 one with a comma between them, or "auto". */
  subnet: string;
  binDirs: readonly string[];
}

export interface Builtin {
  network: NetworkConf;
  /** What has to be set up before the first pod; absent without iptables. */
  uplink?: Uplink;
  /** What this network lacks on this machine, for the log. */
  lacks: string[];
}

/**
 * Composes the network from what the machine has. Masquerading is there when iptables is, by one rule for the whole subnet
 * instead of the bridge plugin's `ipMasq` (workers/net/uplink.ts says why). portmap and bandwidth stand in the list but run only
 * for pods that use them: see {@link forPod}. Throws a plain Error when the bridge or host-local plugin is missing.
 */
export function builtinNetwork({ root, subnet, binDirs }: BuiltinSettings): Builtin {
  const { bridge, subnets } = bridgeOf({ root, subnet });
  const has = (plugin: string) => findProgram(plugin, [...binDirs]) !== undefined;
  const missing = ['bridge', 'host-local'].filter((plugin) => !has(plugin));
  if (missing.length > 0) {
    throw new Error(`the built-in network needs the plugins ${missing.join(' and ')} in ${binDirs.join(', ')}`);
  }
  const lacks = subnets.flatMap((cidr) => alsoUsedBy(cidr, bridge));
  const plugins: PluginConf[] = [
    {
      type: 'bridge',
      bridge,
      isDefaultGateway: true,
      // Pods reach their own host port through the bridge.
      hairpinMode: true,
      ipam: {
        type: 'host-local',
        dataDir: join(root, 'cni'),
        ranges: subnets.map((cidr) => [{ subnet: cidr }]),
      },
    },
  ];
  const tools = [...new Set(subnets.map((cidr) => (isIPv6(hostOf(cidr)) ? 'ip6tables' : 'iptables')))];
  const absent = tools.filter((tool) => findProgram(tool) === undefined);
  if (absent.length > 0) lacks.push(`host ports and a way out of the node (no ${absent.join(', ')})`);
  else if (has('portmap')) plugins.push({ type: 'portmap', capabilities: { portMappings: true } });
  else lacks.push('host ports (no portmap plugin)');
  if (has('bandwidth')) plugins.push({ type: 'bandwidth', capabilities: { bandwidth: true } });
  else lacks.push('bandwidth limits (no bandwidth plugin)');
  const network = { name: bridge, cniVersion: '1.0.0', plugins, source: BUILT_IN };
  return { network, uplink: absent.length > 0 ? undefined : { bridge, subnets }, lacks };
}

/**
 * The network as one pod is attached to it. In the built-in one, the plugins that serve a capability are left out for pods
 * without it: they would do nothing, and take 3 ms of CPU each for it. Configurations of others run as they are written.
 */
export function forPod(network: NetworkConf, capabilityArgs: Record<string, unknown>): NetworkConf {
  if (network.source !== BUILT_IN) return network;
  const plugins = network.plugins.filter(
    ({ capabilities }) => !capabilities || Object.keys(capabilities).some((name) => name in capabilityArgs),
  );
  return { ...network, plugins };
}

/**
 * A line for each other interface whose network overlaps the subnet (a second daemon with the same settings, the machine's own
 * network): both then lead to the same addresses, and the node may look for a pod in the wrong place.
 */
function alsoUsedBy(subnet: string, bridge: string): string[] {
  const pods = blockOf(subnet);
  return Object.entries(networkInterfaces()).flatMap(([name, addresses = []]) => {
    if (name === bridge) return [];
    const clash = addresses.find(({ address, cidr, family }) => {
      const type = family === 'IPv6' ? 'ipv6' : 'ipv4';
      if ((type === 'ipv6') !== isIPv6(hostOf(subnet))) return false;
      return pods.check(address, type) || (cidr !== null && blockOf(cidr).check(hostOf(subnet), type));
    });
    return clash ? [`addresses of its own (${subnet} is also on ${name}; set cni.builtin_subnet to another one)`] : [];
  });
}

function blockOf(cidr: string): BlockList {
  const block = new BlockList();
  const host = hostOf(cidr);
  block.addSubnet(host, Number(cidr.slice(host.length + 1)), isIPv6(host) ? 'ipv6' : 'ipv4');
  return block;
}

const hostOf = (cidr: string): string => cidr.split('/')[0] ?? '';

/** The bridge's name (interfaces have at most 15 characters) and the subnets. */
function bridgeOf({ root, subnet }: Omit<BuiltinSettings, 'binDirs'>): Uplink {
  const subnets = (subnet === 'auto' ? ownSubnet(root) : subnet)
    .split(',')
    .map((cidr) => cidr.trim())
    .filter((cidr) => cidr !== '');
  return { bridge: `sluice${daemonId(root)}`, subnets };
}

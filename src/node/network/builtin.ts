/**
 * The network of a node without a CNI configuration: a bridge with addresses from host-local, so that the daemon runs
 * without preparation. It is not a cluster network: pods of other nodes cannot be reached.
 */
import { BlockList } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { addressOf, isIPv6Cidr } from '../../workers/net/cidr.ts';
import { findTool } from '../../workers/net/programs.ts';
import type { NetworkConf, PluginConf } from '../../workers/net/types.ts';
import type { Uplink } from '../../workers/net/uplink.ts';
import { daemonId } from './daemon-id.ts';
import { ownSubnet } from './own-subnet.ts';

export const BUILT_IN = 'built-in';

export interface BuiltinSettings {
  /** The daemon's root folder. The bridge's name is derived from it, and host-local keeps its addresses below it. */
  root: string;
  /** A CIDR, an IPv4 and an IPv6 CIDR separated by a comma, or "auto". */
  subnet: string;
  binDirs: readonly string[];
  /** `[cni] in_process`: unless false, bridge, host-local and portmap need no programs. */
  inProcess: 'auto' | boolean;
}

export interface Builtin {
  network: NetworkConf;
  /** The iptables rules that are set before the first pod; absent without iptables. */
  uplink?: Uplink;
  /** Features that this network lacks on this machine, for the log. */
  lacks: string[];
}

/**
 * Composes the network from the plugins and programs of this machine. With iptables, one rule masquerades the whole
 * subnet, in place of the bridge plugin's `ipMasq` (workers/net/uplink.ts explains why). portmap and bandwidth are in
 * the list but run only for pods that use them: see {@link forPod}. Without iptables the way out of the node is
 * masqueraded by nf_tables, where plugins run in process. Throws a plain Error when the program of bridge or host-local
 * is missing and needed, and TIMED_OUT for a folder of programs on a mount that hangs.
 */
export async function builtinNetwork({ root, subnet, binDirs, inProcess }: BuiltinSettings): Promise<Builtin> {
  const { bridge, subnets } = bridgeOf({ root, subnet });
  const missing = inProcess === false ? await lackingOf(['bridge', 'host-local'], [...binDirs]) : [];
  if (missing.length > 0) {
    throw new Error(`the built-in network needs the plugins ${missing.join(' and ')} in ${binDirs.join(', ')}`);
  }
  const lacks = subnets.flatMap((cidr) => alsoUsedBy(cidr, bridge));
  const plugins: PluginConf[] = [
    {
      type: 'bridge',
      bridge,
      isDefaultGateway: true,
      // A pod that connects to its own host port needs its packets sent back through the bridge port they came from.
      hairpinMode: true,
      // Each pod would tell all others about an IPv6 address that nobody has a use for (docs/operate/tuning.md).
      ...(subnets.some(isIPv6Cidr) ? {} : { ipv6LinkLocal: false }),
      ipam: {
        type: 'host-local',
        dataDir: join(root, 'cni'),
        ranges: subnets.map((cidr) => [{ subnet: cidr }]),
      },
    },
  ];
  const tools = [...new Set(subnets.map((cidr) => (isIPv6Cidr(cidr) ? 'ip6tables' : 'iptables')))];
  const absent = await lackingOf(tools);
  const optional = await lackingOf(['portmap', 'bandwidth'], [...binDirs]);
  const [bridgePlugin] = plugins;
  if (absent.length > 0 && inProcess !== false && bridgePlugin) bridgePlugin.ipMasq = true;
  else if (absent.length > 0) lacks.push(`host ports and a way out of the node (no ${absent.join(', ')})`);
  if (inProcess !== false || (absent.length === 0 && !optional.includes('portmap')))
    plugins.push({ type: 'portmap', capabilities: { portMappings: true } });
  else if (absent.length === 0) lacks.push('host ports (no portmap plugin)');
  if (!optional.includes('bandwidth')) plugins.push({ type: 'bandwidth', capabilities: { bandwidth: true } });
  else lacks.push('bandwidth limits (no bandwidth plugin)');
  const network = { name: bridge, cniVersion: '1.0.0', plugins, source: BUILT_IN };
  return { network, uplink: absent.length > 0 ? undefined : { bridge, subnets }, lacks };
}

/** Those of the programs that are in none of the folders (PATH when left out). */
async function lackingOf(programs: readonly string[], folders?: string[]): Promise<string[]> {
  const found = await Promise.all(programs.map((program) => findTool(program, folders)));
  return programs.filter((_, index) => !found[index]);
}

/**
 * The network to which one pod is attached. In the built-in network, plugins that serve a capability are omitted for
 * pods that do not use it, because each run costs 3 ms of CPU. Configurations from files are used unchanged.
 */
export function forPod(network: NetworkConf, capabilityArgs: Record<string, unknown>): NetworkConf {
  if (network.source !== BUILT_IN) return network;
  const plugins = network.plugins.filter(
    ({ capabilities }) => !capabilities || Object.keys(capabilities).some((name) => name in capabilityArgs),
  );
  return { ...network, plugins };
}

/**
 * Returns one message for each other interface whose network overlaps the subnet (a second daemon with the same
 * settings, or the machine's own network): the node would then have two routes to the same addresses.
 */
function alsoUsedBy(subnet: string, bridge: string): string[] {
  const pods = blockOf(subnet);
  return Object.entries(networkInterfaces()).flatMap(([name, addresses = []]) => {
    if (name === bridge) return [];
    const clash = addresses.find(({ address, cidr, family }) => {
      const type = family === 'IPv6' ? 'ipv6' : 'ipv4';
      if ((type === 'ipv6') !== isIPv6Cidr(subnet)) return false;
      return pods.check(address, type) || (cidr !== null && blockOf(cidr).check(addressOf(subnet), type));
    });
    return clash
      ? [`addresses of its own (${subnet} is also on ${name}; set cni.builtin_subnet to another subnet)`]
      : [];
  });
}

function blockOf(cidr: string): BlockList {
  const block = new BlockList();
  const host = addressOf(cidr);
  block.addSubnet(host, Number(cidr.slice(host.length + 1)), isIPv6Cidr(cidr) ? 'ipv6' : 'ipv4');
  return block;
}

/** The bridge's name, at most 15 characters (IFNAMSIZ). */
export const builtinBridge = (root: string): string => `sluice${daemonId(root)}`;

/** The bridge and the subnets. */
function bridgeOf({ root, subnet }: Pick<BuiltinSettings, 'root' | 'subnet'>): Uplink {
  const subnets = (subnet === 'auto' ? ownSubnet(root) : subnet)
    .split(',')
    .map((cidr) => cidr.trim())
    .filter((cidr) => cidr !== '');
  return { bridge: builtinBridge(root), subnets };
}

/**
 * Capability arguments: what a pod needs of plugins besides an address (the CNI project's CONVENTIONS.md, and the names
 * that containerd added). A plugin receives one only when it declares the capability.
 */
import { type PodSandboxConfig, Protocol } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { NetworkConf } from '../../workers/net/types.ts';
import { parseQuantity } from './quantity.ts';

const INGRESS_BANDWIDTH = 'kubernetes.io/ingress-bandwidth';
const EGRESS_BANDWIDTH = 'kubernetes.io/egress-bandwidth';
/**
 * Sluice's own annotation, since CRI has no field for it: `ipRanges` as JSON, for example
 * `[[{"subnet":"10.5.0.0/24"}]]`. Whoever may create pods chooses their addresses with it, those of other pods and of
 * the node's network included, so it is ignored unless `cni.ip_ranges_annotation` allows it.
 */
const IP_RANGES = 'sluice/ip-ranges';
const POD_ANNOTATIONS = 'io.kubernetes.cri.pod-annotations';

const PROTOCOLS: Record<number, string> = { [Protocol.TCP]: 'tcp', [Protocol.UDP]: 'udp', [Protocol.SCTP]: 'sctp' };

/** The largest burst that the bandwidth plugin accepts, so that only the rate is limited (containerd does the same). */
const BURST_BITS = 4_294_967_295;
/** kubelet's bounds of the two annotations, in bits per second. */
const LEAST_RATE = 1e3;
const MOST_RATE = 1e15;

/**
 * The arguments that the pod has and at least one plugin of the network declares, `ipRanges` only where they are
 * allowed. Throws INVALID_REQUEST for invalid annotations.
 */
export function capabilityArgs(
  config: PodSandboxConfig,
  network: NetworkConf,
  { ipRangesAllowed }: { ipRangesAllowed: boolean },
): Record<string, unknown> {
  const declared = new Set(
    network.plugins.flatMap(({ capabilities }) =>
      Object.entries(capabilities ?? {}).flatMap(([name, on]) => (on === true ? [name] : [])),
    ),
  );
  const args: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(MAKERS)) {
    if (name === 'ipRanges' && !ipRangesAllowed) continue;
    const made = declared.has(name) ? value(config) : undefined;
    if (made !== undefined) args[name] = made;
  }
  return args;
}

const MAKERS: Record<string, (config: PodSandboxConfig) => unknown> = {
  portMappings,
  bandwidth,
  dns,
  ipRanges,
  cgroupPath: ({ linux }) => linux?.cgroupParent || undefined,
  [POD_ANNOTATIONS]: ({ annotations }) => annotations,
};

function portMappings(config: PodSandboxConfig): unknown {
  const mappings = config.portMappings
    .filter(({ hostPort }) => hostPort > 0)
    .map(({ hostPort, containerPort, protocol, hostIp }) => ({
      hostPort,
      containerPort,
      protocol: PROTOCOLS[protocol] ?? 'tcp',
      hostIP: hostIp,
    }));
  return mappings.length > 0 ? mappings : undefined;
}

function bandwidth({ annotations }: PodSandboxConfig): unknown {
  const ingress = rate(annotations, INGRESS_BANDWIDTH);
  const egress = rate(annotations, EGRESS_BANDWIDTH);
  if (ingress === undefined && egress === undefined) return undefined;
  return {
    ...(ingress === undefined ? {} : { ingressRate: ingress, ingressBurst: BURST_BITS }),
    ...(egress === undefined ? {} : { egressRate: egress, egressBurst: BURST_BITS }),
  };
}

function rate(annotations: Record<string, string>, name: string): number | undefined {
  const text = annotations[name];
  if (text === undefined) return undefined;
  const bits = parseQuantity(text);
  if (bits === undefined) throw new SluiceError('INVALID_REQUEST', `annotation ${name}: "${text}" is not a quantity`);
  if (bits < LEAST_RATE || bits > MOST_RATE) {
    throw new SluiceError('INVALID_REQUEST', `annotation ${name}: "${text}" is not between 1k and 1P`);
  }
  return bits;
}

function dns({ dnsConfig }: PodSandboxConfig): unknown {
  if (!dnsConfig) return undefined;
  return { servers: dnsConfig.servers, searches: dnsConfig.searches, options: dnsConfig.options };
}

function ipRanges({ annotations }: PodSandboxConfig): unknown {
  const text = annotations[IP_RANGES];
  if (text === undefined) return undefined;
  try {
    const ranges: unknown = JSON.parse(text);
    if (Array.isArray(ranges) && ranges.every((set) => Array.isArray(set))) return ranges;
  } catch (cause) {
    throw new SluiceError('INVALID_REQUEST', `annotation ${IP_RANGES} is not JSON`, { cause });
  }
  throw new SluiceError('INVALID_REQUEST', `annotation ${IP_RANGES} is not a list of lists of ranges`);
}

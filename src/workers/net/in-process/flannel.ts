/**
 * The flannel plugin: reads the subnet that flanneld has leased for this node, and lets the bridge plugin do the rest.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { networkOf, parsePrefix, prefixText } from '../../../sys/ip.ts';
import { isObject, type Json } from '../../json.ts';
import { bridgeWork, readBridge } from './bridge.ts';
import type { Call, Work } from './call.ts';
import { COMMON, Fields, NotOurs } from './fields.ts';
import type { IsOurs } from './ipam.ts';
import { during, Refusal, reasonOf } from './refusal.ts';

const KEYS = [...COMMON, 'subnetFile', 'dataDir', 'delegate'];
export const SUBNET_FILE = '/run/flannel/subnet.env';
export const DATA_FOLDER = '/var/lib/cni/flannel';

interface Flannel {
  subnetFile: string;
  dataDir: string;
  delegate: Json;
  /** The part of IPAM's configuration that is not flanneld's to say. */
  ipam: Json;
  isOurs: IsOurs;
}

/** What flanneld wrote. */
interface Lease {
  networks: string[];
  subnets: string[];
  mtu: number;
  masquerades: boolean;
}

/** Throws NotOurs for delegates other than the bridge plugin, and what that one leaves to the program. */
export function readFlannel(network: string, conf: Json, isOurs: IsOurs): Flannel {
  const fields = new Fields(conf, KEYS);
  const delegate = fields.object('delegate');
  if (conf.runtimeConfig !== undefined || conf.args !== undefined) throw new NotOurs('arguments for the delegate');
  if (delegate.type !== undefined && delegate.type !== 'bridge') throw new NotOurs(`the delegate ${delegate.type}`);
  if (delegate.name !== undefined || delegate.ipam !== undefined) throw new NotOurs('a delegate with a name or IPAM');
  if (!isOurs('bridge') || !isOurs('host-local')) throw new NotOurs('the programs of the delegate');
  const ipam = conf.ipam === undefined ? {} : conf.ipam;
  if (!isObject(ipam) || (ipam.type !== undefined && ipam.type !== 'host-local')) throw new NotOurs('its IPAM');
  const flannel = {
    subnetFile: fields.text('subnetFile') || SUBNET_FILE,
    dataDir: fields.text('dataDir') || DATA_FOLDER,
    delegate,
    ipam,
    isOurs,
  };
  const sample: Lease = { networks: ['10.0.0.0/8'], subnets: ['10.0.0.1/24'], mtu: 1450, masquerades: true };
  readBridge(network, delegateConf(flannel, sample, { name: network, cniVersion: '1.0.0' }), isOurs);
  return flannel;
}

export const flannelWork = (flannel: Flannel): Work => ({
  async add(call) {
    const lease = readLease(flannel.subnetFile);
    const conf = delegateConf(flannel, lease, call.network);
    const path = scratchPath(flannel, call);
    during('', () => {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
      writeFileSync(path, JSON.stringify(sorted(conf)), { mode: 0o600 });
    });
    try {
      return await delegated(flannel, call, conf).add(delegatedCall(call, conf));
    } catch (cause) {
      throw new Refusal(`failed to delegate add: ${reasonOf(cause)}`, { cause });
    }
  },
  async del(call) {
    const conf = readScratch(flannel, call);
    if (!conf) return; // DEL of something that was never added, or was deleted before
    await delegated(flannel, call, conf).del(delegatedCall(call, conf));
    rmSync(scratchPath(flannel, call), { force: true });
  },
  heldLink(call) {
    const conf = readScratch(flannel, call);
    return conf && delegated(flannel, call, conf).heldLink?.(delegatedCall(call, conf));
  },
  async check(call) {
    const conf = readScratch(flannel, call);
    if (!conf) throw new Refusal(`flannel has no configuration of ${call.attachment.containerId} any more`);
    await delegated(flannel, call, conf).check(delegatedCall(call, conf));
  },
});

const delegated = ({ isOurs }: Flannel, { network }: Call, conf: Json): Work =>
  bridgeWork(readBridge(network.name, conf, isOurs));

const delegatedCall = (call: Call, conf: Json): Call => ({ ...call, conf });

/** The configuration that ADD went by is kept for DEL, which comes when flanneld may have another subnet. */
const scratchPath = ({ dataDir }: Flannel, { attachment }: Call): string => join(dataDir, attachment.containerId);

function readScratch(flannel: Flannel, call: Call): Json | undefined {
  let text: string;
  try {
    text = readFileSync(scratchPath(flannel, call), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  const conf: unknown = JSON.parse(text);
  return isObject(conf) ? conf : undefined;
}

function delegateConf(flannel: Flannel, lease: Lease, network: { name: string; cniVersion: string }): Json {
  const { delegate, ipam } = flannel;
  const routes = Array.isArray(ipam.routes) ? ipam.routes : [];
  return {
    ...delegate,
    name: network.name,
    cniVersion: network.cniVersion,
    type: 'bridge',
    // Where flanneld does not masquerade, the bridge plugin does.
    ipMasq: delegate.ipMasq ?? !lease.masquerades,
    mtu: delegate.mtu ?? lease.mtu,
    isGateway: delegate.isGateway ?? true,
    ipam: {
      ...ipam,
      type: 'host-local',
      ranges: lease.subnets.map((subnet) => [{ subnet: networkText(subnet) }]),
      routes: [...routes, ...lease.networks.map((dst) => ({ dst }))],
    },
  };
}

/** flanneld writes the gateway's address with the subnet's length. */
function networkText(cidr: string): string {
  const prefix = parsePrefix(cidr);
  return prefix ? prefixText({ address: networkOf(prefix), length: prefix.length }) : cidr;
}

function readLease(path: string): Lease {
  const text = during('loadFlannelSubnetEnv failed', () => readFileSync(path, 'utf8'));
  const values = new Map(
    text.split('\n').flatMap((line): [string, string][] => {
      const at = line.indexOf('=');
      return at < 0 ? [] : [[line.slice(0, at), line.slice(at + 1).trim()]];
    }),
  );
  const list = (key: string) => (values.get(key) ?? '').split(',').filter((each) => each !== '');
  const networks = [...list('FLANNEL_NETWORK'), ...list('FLANNEL_IPV6_NETWORK')];
  const subnets = [...list('FLANNEL_SUBNET'), ...list('FLANNEL_IPV6_SUBNET')];
  const mtu = values.get('FLANNEL_MTU');
  const masquerades = values.get('FLANNEL_IPMASQ');
  const missing = [
    ...(networks.length === 0 ? ['FLANNEL_NETWORK', 'FLANNEL_IPV6_NETWORK'] : []),
    ...(subnets.length === 0 ? ['FLANNEL_SUBNET', 'FLANNEL_IPV6_SUBNET'] : []),
    ...(mtu === undefined ? ['FLANNEL_MTU'] : []),
    ...(masquerades === undefined ? ['FLANNEL_IPMASQ'] : []),
  ];
  if (missing.length > 0) throw new Refusal(`${path} is missing ${missing.join(', ')}`);
  return { networks, subnets, mtu: Number(mtu), masquerades: masquerades === 'true' };
}

/** Keys in order, as Go writes a map. */
const sorted = (json: Json): Json => Object.fromEntries(Object.entries(json).sort(([a], [b]) => (a < b ? -1 : 1)));

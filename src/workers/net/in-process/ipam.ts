/**
 * The addresses of a pod, for the plugins that make its interface: from host-local in this thread, or from a plugin's
 * process.
 */
import { type Address, parsePrefix } from '../../../sys/ip.ts';
import type { Json } from '../../json.ts';
import { parseResult } from '../result.ts';
import type { CniResult } from '../types.ts';
import type { Call, GcCall } from './call.ts';
import { Fields, NotOurs } from './fields.ts';
import {
  familiesOf,
  hostLocalAdd,
  hostLocalCheck,
  hostLocalDel,
  hostLocalGc,
  hostLocalHolds,
  type IpamResult,
  readHostLocal,
} from './host-local.ts';
import { Refusal } from './refusal.ts';

/** Which IPAM plugins have no process: `host-local` where this says so. */
export type IsOurs = (type: string) => boolean;

export interface Ipam {
  /** "" without IPAM: the plugin makes a link and no more. */
  type: string;
  inProcess: boolean;
}

/** Throws NotOurs when host-local is to be done here and can't be. */
export function readIpam(network: string, conf: Json, isOurs: IsOurs): Ipam {
  const type = ipamType(conf);
  const inProcess = type === 'host-local' && isOurs(type);
  if (inProcess) readHostLocal(network, conf);
  return { type, inProcess };
}

function ipamType(conf: Json): string {
  const ipam = conf.ipam;
  if (ipam === undefined || ipam === null) return '';
  if (typeof ipam !== 'object' || Array.isArray(ipam)) throw new NotOurs('the value of "ipam"');
  const type = (ipam as Json).type;
  if (type !== undefined && typeof type !== 'string') throw new NotOurs('the type of "ipam"');
  return type ?? '';
}

export async function ipamAdd({ type, inProcess }: Ipam, call: Call): Promise<IpamResult> {
  const { ips, routes, dns }: IpamResult = inProcess
    ? await hostLocalAdd(call)
    : parseResult(await call.delegate(type, 'ADD'), call.network.cniVersion).result;
  if (!ips || ips.length === 0) throw new Refusal('IPAM plugin returned missing IP config');
  // The interfaces of a result are those of the plugin that makes them.
  return { ips: ips.map(({ address, gateway }) => ({ address, ...(gateway ? { gateway } : {}) })), routes, dns };
}

export async function ipamDel({ type, inProcess }: Ipam, call: Call, known: readonly Address[] = []): Promise<void> {
  if (type === '') return;
  if (inProcess) await hostLocalDel(call, known);
  else await call.delegate(type, 'DEL');
}

export async function ipamCheck({ type, inProcess }: Ipam, call: Call): Promise<void> {
  if (type === '') return;
  if (inProcess) await hostLocalCheck(call);
  else await call.delegate(type, 'CHECK');
}

/**
 * IPAM plugins that are processes are not called: the specification has no delegation of GC before 1.1, and few know
 * the verb.
 */
export async function ipamGc({ inProcess }: Ipam, call: GcCall): Promise<string[]> {
  return inProcess ? hostLocalGc(call) : [];
}

/**
 * The pod's addresses as far as they can be known at DEL: from the result of ADD, or where that never came, from the
 * files.
 */
export async function addressesAtDel({ inProcess }: Ipam, call: Call): Promise<Address[]> {
  const recorded = addressesIn(call.prevResult?.result);
  if (recorded.length > 0 || !inProcess) return recorded;
  return hostLocalHolds(call);
}

/** Can DEL wait until the pod's link is gone? A process would have to be called then. */
export const ipamCanWait = ({ type, inProcess }: Ipam): boolean => type === '' || inProcess;

/** The families in which the pod will have addresses; those of other plugins than host-local are taken to be IPv4. */
export const ipamFamilies = ({ inProcess }: Ipam, network: string, conf: Json): (4 | 6)[] =>
  inProcess ? familiesOf(network, conf) : [4];

/** The result's addresses without their prefixes. */
export const addressesIn = (result: CniResult | undefined): Address[] =>
  (result?.ips ?? []).flatMap(({ address }) => parsePrefix(address)?.address ?? []);

/** `dns` of a configuration, to stand in a result; an empty one yields to IPAM's. */
export function dnsOf(conf: Json, ipam: IpamResult | undefined): NonNullable<CniResult['dns']> {
  const fields = new Fields(conf.dns ?? {}, ['nameservers', 'domain', 'search', 'options']);
  const dns = conf.dns as NonNullable<CniResult['dns']> | undefined;
  const given = ['nameservers', 'domain', 'search', 'options'].some((key) => fields.has(key));
  return (given ? dns : ipam?.dns) ?? {};
}

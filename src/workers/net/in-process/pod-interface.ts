/**
 * Inside a pod's namespace: its interface gets its addresses, comes up, and gets its routes (the reference's
 * ipam.ConfigureIface).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { addressText, isSix, parseAddress, parsePrefix, prefixText } from '../../../sys/ip.ts';
import { SysError } from '../../../sys/libc.ts';
import type { NetlinkSocket, Request } from '../../../sys/netlink.ts';
import { inNetns } from '../../../sys/netns.ts';
import {
  addAddress,
  addRoute,
  IPV4_CONF,
  listAddresses,
  openRoute,
  setIpv4Conf,
  setUp,
  withoutLinkLocal,
} from '../../../sys/rtnetlink.ts';
import type { CniResult } from '../types.ts';
import { during, Refusal, reasonOf } from './refusal.ts';
import { readSysctl, tryWriteSysctl, writeSysctl } from './sysctl.ts';

/** Duplicate address detection may take so long; then ADD goes on, as the plugin does. */
const SETTLE_MS = 10_000;
/** Without detection the kernel settles an address in a work item, a moment after the interface is up. */
const SETTLE_PAUSES_MS = [1, 2, 4, 8, 16, 32];
const SETTLE_PAUSE_MS = 50;

/**
 * Runs `work` in the pod's namespace with a socket of it. Synchronous. Throws Refusal in the plugin's words when there
 * is none.
 */
export function inPod<T>(netns: string, work: (socket: NetlinkSocket) => T): T {
  try {
    return inNetns(netns, () => {
      using socket = openRoute();
      return work(socket);
    });
  } catch (error) {
    if (error instanceof SysError && error.code === 'ENOENT') {
      throw new Refusal(`failed to open netns "${netns}": failed to Statfs "${netns}": ${reasonOf(error)}`);
    }
    throw error;
  }
}

export interface PodInterface {
  netns: string;
  ifName: string;
  /** Its index in the pod's namespace. */
  index: number;
  ips: NonNullable<CniResult['ips']>;
  routes: NonNullable<CniResult['routes']>;
  /** IPv6 addresses are checked for duplicates before they are used. */
  detectDuplicates?: boolean;
  /** Says to the neighbours that the address has moved, when the interface comes up. */
  announce?: boolean;
  /** False: without an IPv6 address among `ips` the interface has none of its own either. */
  linkLocal?: boolean;
  /** What else is asked for once the routes are there. */
  last?: Step[];
}

/** A request to the kernel, and what it was for, in the plugin's words. */
export interface Step {
  what: string;
  request: Request;
  /** The kernel may refuse it: nothing depends on it. */
  optional?: boolean;
}

/**
 * Asks for all of it in one message. Throws Refusal for the first step that was refused; those after it have been tried
 * as well, which is fine where the whole is taken back then.
 */
export function carryOut(socket: NetlinkSocket, steps: Step[]): void {
  if (steps.length === 0) return;
  for (const [index, { error }] of socket.exchange(steps.map(({ request }) => request)).entries()) {
    const step = steps[index];
    if (!error || !step || step.optional) continue;
    during(step.what, () => {
      throw error;
    });
  }
}

/** Throws Refusal. Waits, without holding the thread, while duplicate address detection is under way. */
export async function configureInterface(pod: PodInterface): Promise<void> {
  const { netns, ifName, index, ips, last = [] } = pod;
  const up: Step = { what: `failed to set "${ifName}" UP`, request: setUp(index) };
  // After it is set up: without a carrier the kernel takes no route over it.
  const after = [...routeSteps(pod), ...last];
  const addresses = ips.map(({ address }): Step & { six: boolean } => {
    const prefix = parsePrefix(address);
    if (!prefix) throw new Refusal(`invalid CIDR address: ${address}`);
    const what = `failed to add IP addr ${prefixText(prefix)} to "${ifName}"`;
    return { what, request: addAddress(index, prefix), six: isSix(prefix.address) };
  });
  const mayBeUnsettled = ips.some(({ gateway }) => gateway?.includes(':'));
  const notify: Step[] = pod.announce
    ? [{ what: '', request: setIpv4Conf(index, IPV4_CONF.ARP_NOTIFY, 1), optional: true }]
    : [];
  const silent = pod.linkLocal === false && !addresses.some(({ six }) => six);
  const settled = inPod(netns, (socket) => {
    if (!silent) setIpv6Sysctls(pod);
    carryOut(socket, [
      ...notify,
      ...(silent ? [noLinkLocal(index)] : []),
      ...addresses,
      up,
      ...(mayBeUnsettled ? [] : after),
    ]);
    if (!mayBeUnsettled) return true;
    if (isUnsettled(socket, index)) return false;
    carryOut(socket, after);
    return true;
  });
  if (settled) return;
  for (let began = performance.now(), attempt = 0; performance.now() - began < SETTLE_MS; attempt++) {
    await sleep(SETTLE_PAUSES_MS[attempt] ?? SETTLE_PAUSE_MS);
    if (!inPod(netns, (socket) => isUnsettled(socket, index))) break;
  }
  inPod(netns, (socket) => carryOut(socket, after));
}

/** Without IPv6 in the kernel there is nothing to leave out. */
export const noLinkLocal = (index: number): Step => ({ what: '', request: withoutLinkLocal(index), optional: true });

const isUnsettled = (socket: NetlinkSocket, index: number): boolean =>
  listAddresses(socket, index, 6).some(({ unsettled }) => unsettled);

/** Routes without a gateway go through the first one of their family. */
function routeSteps({ ifName, index, ips, routes }: PodInterface): Step[] {
  const gateways = ips.flatMap(({ gateway }) => parseAddress(gateway ?? '') ?? []);
  return routes.map(({ dst, gw }) => {
    const prefix = parsePrefix(dst);
    if (!prefix) throw new Refusal(`invalid CIDR address: ${dst}`);
    const first = gateways.find((gateway) => isSix(gateway) === isSix(prefix.address));
    const gateway = gw === undefined ? first : parseAddress(gw);
    const what = `failed to add route '${dst} via ${gateway ? addressText(gateway) : '<nil>'} dev ${ifName}'`;
    return { what, request: addRoute({ dst: prefix, gateway, link: index }, { another: true }) };
  });
}

function setIpv6Sysctls({ ifName, ips, detectDuplicates }: PodInterface): void {
  if (detectDuplicates !== undefined) {
    if (detectDuplicates) tryWriteSysctl(`net/ipv6/conf/${ifName}/enhanced_dad`, '1');
    tryWriteSysctl(`net/ipv6/conf/${ifName}/accept_dad`, detectDuplicates ? '1' : '0');
  }
  if (!ips.some(({ address }) => address.includes(':'))) return;
  for (const name of ['lo', ifName]) {
    const key = `net/ipv6/conf/${name}/disable_ipv6`;
    const value = readSysctl(key);
    if (value === undefined || value === '0') continue;
    during(`failed to enable IPv6 for interface "${name}" (${key}=${value})`, () => writeSysctl(key, '0'));
  }
}

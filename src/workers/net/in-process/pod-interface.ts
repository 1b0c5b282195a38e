/**
 * Inside a pod's namespace: its interface gets its addresses, comes up, and gets its routes (the reference's
 * ipam.ConfigureIface).
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Address, addressText, isSix, parseAddress, parsePrefix, prefixText } from '../../../sys/ip.ts';
import { SysError } from '../../../sys/libc.ts';
import type { NetlinkSocket } from '../../../sys/netlink.ts';
import { inNetns } from '../../../sys/netns.ts';
import { addAddress, addRoute, findLink, type Link, listAddresses, openRoute, setUp } from '../../../sys/rtnetlink.ts';
import type { CniResult } from '../types.ts';
import { during, Refusal, reasonOf } from './refusal.ts';

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
  ips: NonNullable<CniResult['ips']>;
  routes: NonNullable<CniResult['routes']>;
  /** IPv6 addresses are checked for duplicates before they are used. */
  detectDuplicates?: boolean;
  /** Says to the neighbours that the address has moved, when the interface comes up. */
  announce?: boolean;
  /** More work in the same visit, once the addresses are there. */
  finish?: (socket: NetlinkSocket, link: Link) => void;
}

/** Throws Refusal. Waits, without holding the thread, while duplicate address detection is under way. */
export async function configureInterface(pod: PodInterface): Promise<void> {
  const { netns, ifName, ips, routes } = pod;
  let four: Address | undefined;
  let six: Address | undefined;
  for (const { gateway } of ips) {
    const address = gateway === undefined ? undefined : parseAddress(gateway);
    if (address && isSix(address)) six ??= address;
    else if (address) four ??= address;
  }
  const addRoutes = (socket: NetlinkSocket, index: number) => {
    for (const { dst, gw } of routes) {
      const prefix = parsePrefix(dst);
      if (!prefix) throw new Refusal(`invalid CIDR address: ${dst}`);
      const gateway = gw === undefined ? (isSix(prefix.address) ? six : four) : parseAddress(gw);
      during(`failed to add route '${dst} via ${gateway ? addressText(gateway) : '<nil>'} dev ${ifName}'`, () =>
        socket.request(addRoute({ dst: prefix, gateway, link: index }, { another: true })),
      );
    }
  };
  const settled = inPod(netns, (socket) => {
    const link = findLink(socket, ifName);
    if (!link) throw new Refusal(`failed to lookup "${ifName}": Link not found`);
    setSysctls(pod);
    for (const { address } of ips) {
      const prefix = parsePrefix(address);
      if (!prefix) throw new Refusal(`invalid CIDR address: ${address}`);
      during(`failed to add IP addr ${prefixText(prefix)} to "${ifName}"`, () =>
        socket.request(addAddress(link.index, prefix)),
      );
    }
    during(`failed to set "${ifName}" UP`, () => socket.request(setUp(link.index)));
    if (six && listAddresses(socket, link.index).some(({ unsettled }) => unsettled)) return false;
    addRoutes(socket, link.index);
    pod.finish?.(socket, link);
    return true;
  });
  if (settled) return;
  for (let began = performance.now(), attempt = 0; performance.now() - began < SETTLE_MS; attempt++) {
    await sleep(SETTLE_PAUSES_MS[attempt] ?? SETTLE_PAUSE_MS);
    const waiting = inPod(netns, (socket) => {
      const link = findLink(socket, ifName);
      return link !== undefined && listAddresses(socket, link.index).some(({ unsettled }) => unsettled);
    });
    if (!waiting) break;
  }
  inPod(netns, (socket) => {
    const link = findLink(socket, ifName);
    if (!link) throw new Refusal(`failed to lookup "${ifName}": Link not found`);
    addRoutes(socket, link.index);
    pod.finish?.(socket, link);
  });
}

function setSysctls({ ifName, ips, detectDuplicates, announce }: PodInterface): void {
  if (detectDuplicates !== undefined) {
    if (detectDuplicates) tryWriteSysctl(`net/ipv6/conf/${ifName}/enhanced_dad`, '1');
    tryWriteSysctl(`net/ipv6/conf/${ifName}/accept_dad`, detectDuplicates ? '1' : '0');
  }
  if (announce) tryWriteSysctl(`net/ipv4/conf/${ifName}/arp_notify`, '1');
  if (!ips.some(({ address }) => address.includes(':'))) return;
  for (const name of ['lo', ifName]) {
    const key = `net/ipv6/conf/${name}/disable_ipv6`;
    const value = readSysctl(key);
    if (value === undefined || value === '0') continue;
    during(`failed to enable IPv6 for interface "${name}" (${key}=${value})`, () => writeSysctl(key, '0'));
  }
}

/** Sysctls of the network namespace that this thread is in. */
export const writeSysctl = (key: string, value: string): void => writeFileSync(`/proc/sys/${key}`, value);

export function readSysctl(key: string): string | undefined {
  try {
    return readFileSync(`/proc/sys/${key}`, 'latin1').trim();
  } catch {
    return undefined; // a kernel without IPv6 has none of its switches
  }
}

/** For a setting that the kernel may not have, and that nothing depends on. */
export function tryWriteSysctl(key: string, value: string): void {
  try {
    writeSysctl(key, value);
  } catch {
    // The reference plugins look away here, too: without IPv6 the switch is absent and nothing is lost.
  }
}

/** Lets the host pass packets on between its interfaces. Throws Refusal. */
export function enableForwarding(six: boolean): void {
  const key = six ? 'net/ipv6/conf/all/forwarding' : 'net/ipv4/ip_forward';
  if (readSysctl(key) === '1') return;
  during('failed to enable forwarding', () => writeSysctl(key, '1'));
}

import { randomBytes } from 'node:crypto';
import { type Fd, openFd } from '../../../sys/fd.ts';
import { C, SysError } from '../../../sys/libc.ts';
import { NetlinkError, type NetlinkSocket } from '../../../sys/netlink.ts';
import { addVeth, deleteLink, findLink, isMac, type Link } from '../../../sys/rtnetlink.ts';
import type { Call } from './call.ts';
import { inPod } from './pod-interface.ts';
import { Refusal, reasonOf } from './refusal.ts';
import { ignoreRouterAdvertisements } from './sysctl.ts';

const ATTEMPTS = 10;

export interface PodVeth {
  netns: string;
  /** Of the pod's end. */
  ifName: string;
  mtu: number;
  /** Of the pod's end; "" for a random one. */
  mac: string;
  /** Index of the bridge; 0 for none. */
  master: number;
}

/** The pod's end of a veth pair. */
export interface PodEnd {
  /** In the pod's namespace. */
  index: number;
  mac: string;
}

/**
 * Makes a veth pair: one end in the pod's namespace, down, the other one here, up, under a random name like the
 * reference plugins'. Throws Refusal.
 */
export function makePodVeth(host: NetlinkSocket, veth: PodVeth): { port: Link; pod: PodEnd } {
  const { netns, ifName, mtu, master } = veth;
  const mac = veth.mac || randomMac(); // given by us: so nobody has to ask which one the kernel chose
  if (!isMac(mac)) throw new Refusal(`failed to make veth pair: address ${mac}: invalid MAC address`);
  using target = openNetns(netns);
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const name = randomVethName();
    try {
      // With an address of ours, or udev would give the end here another one a moment later, which CHECK then misses.
      const port = addVeth(host, {
        name,
        mac: randomMac(),
        mtu,
        master,
        peer: { name: ifName, mac, netns: target.number },
      });
      ignoreRouterAdvertisements(name);
      return { port, pod: { index: port.peer, mac: mac.toLowerCase() } };
    } catch (error) {
      if (!(error instanceof NetlinkError)) throw error;
      if (error.code !== 'EEXIST') throw new Refusal(`failed to make veth pair: ${error.message}`, { cause: error });
      if (findLink(host, name)) continue;
      throw new Refusal(`container veth name provided (${ifName}) already exists`, { cause: error });
    }
  }
  throw new Refusal('failed to find a unique veth name');
}

/** NetworkManager leaves links alone whose names begin like that. */
export const randomVethName = (): string => `veth${randomBytes(4).toString('hex')}`;

/** As the kernel chooses them: of one card, and locally administered (eth_random_addr). */
function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfe) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** A descriptor of the pod's namespace. Throws Refusal in the plugins' words when there is none. */
export function openNetns(netns: string): Fd {
  try {
    return openFd(netns, C.O_RDONLY);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    throw new Refusal(`failed to open netns "${netns}": failed to Statfs "${netns}": ${reasonOf(error)}`, {
      cause: error,
    });
  }
}

/**
 * Index of the host's end of the pod's veth; undefined when there is none any more. `prevResult` names it when the pod
 * is gone.
 */
export function hostEnd({ host, netns, attachment, prevResult }: Call): number | undefined {
  if (netns !== '') {
    const link = inPod(netns, (socket) => findLink(socket, attachment.ifName));
    return link?.kind === 'veth' && link.peer > 0 ? link.peer : undefined;
  }
  for (const { name, mac, sandbox } of prevResult?.result.interfaces ?? []) {
    if (sandbox || !name.startsWith('veth')) continue;
    const link = findLink(host, name);
    if (link?.kind === 'veth' && link.mac === mac) return link.index;
  }
  return undefined;
}

/** Deletes the pod's end, and with it the one on the host; what is not there is fine. Throws Refusal. */
export function deletePodLink(netns: string, ifName: string): void {
  inPod(netns, (socket) => {
    const link = findLink(socket, ifName);
    if (link) deleteLink(socket, link.index);
  });
}

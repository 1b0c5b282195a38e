/** The loopback plugin: brings `lo` up in the pod's namespace. */

import { addressText, isSix, prefixText } from '../../../sys/ip.ts';
import { findLink, listAddresses, setUp } from '../../../sys/rtnetlink.ts';
import type { Json } from '../../json.ts';
import type { Call, Work } from './call.ts';
import { COMMON, Fields } from './fields.ts';
import { inPod } from './pod-interface.ts';
import { during, Refusal } from './refusal.ts';

const LO = 'lo';

/** Throws NotOurs for keys that only the program may know. */
export function readLoopback(conf: Json): void {
  new Fields(conf, COMMON);
}

export const loopbackWork: Work = { add, del, check };

async function add({ netns, prevResult, network }: Call) {
  const ips = inPod(netns, (socket) => {
    const link = findLink(socket, LO);
    if (!link) throw new Refusal('Link not found');
    during('', () => socket.request(setUp(link.index)));
    const addresses = listAddresses(socket, link.index);
    const strange = addresses.find(({ address }) => !isLoopback(address));
    if (strange) {
      throw new Refusal(`loopback interface found with non-loopback address "${addressText(strange.address)}"`);
    }
    const first = (six: boolean) => addresses.find(({ address }) => isSix(address) === six);
    return [first(false), first(true)].flatMap((each) => (each ? [{ interface: 0, address: prefixText(each) }] : []));
  });
  if (prevResult) return prevResult;
  return {
    cniVersion: network.cniVersion,
    interfaces: [{ name: LO, mac: '00:00:00:00:00:00', sandbox: netns }],
    ips,
    dns: {},
  };
}

const isLoopback = (address: Buffer): boolean => (isSix(address) ? addressText(address) === '::1' : address[0] === 127);

async function del({ netns }: Call): Promise<void> {
  if (netns === '') return;
  inPod(netns, (socket) => {
    const link = findLink(socket, LO);
    if (!link) throw new Refusal('Link not found');
    during('', () => socket.request(setUp(link.index, false)));
  });
}

async function check({ netns }: Call): Promise<void> {
  if (!inPod(netns, (socket) => findLink(socket, LO)?.up)) throw new Refusal('loopback interface is down');
}

import type { Call } from './call.ts';
import { release } from './firewall.ts';
import { addressesAtDel, type Ipam, ipamDel } from './ipam.ts';
import { nftablesSocket } from './sockets.ts';
import { deletePodLink } from './veth.ts';

/**
 * DEL of a plugin that gives a pod a veth: the link goes before its masquerading and its addresses, which another pod
 * can then be given. What is absent is ignored. Throws NetlinkError, and Refusal for a broken host-local folder.
 */
export async function detachVeth({ ipam, ipMasq }: { ipam: Ipam; ipMasq: boolean }, call: Call): Promise<void> {
  const addresses = await addressesAtDel(ipam, call);
  if (call.netns !== '') deletePodLink(call.netns, call.attachment.ifName);
  if (ipMasq) release(nftablesSocket(), call.network.name, call.attachment, addresses, []);
  await ipamDel(ipam, call, addresses);
}

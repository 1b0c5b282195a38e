/**
 * The sockets of this thread to the host's namespace, opened at their first use. They are kept: when a socket of
 * netfilter is closed, the kernel waits for a grace period if elements were deleted just before (nft_rcv_nl_event),
 * which takes 15 ms.
 */
import type { NetlinkSocket } from '../../../sys/netlink.ts';
import { openNftables } from '../../../sys/nftables.ts';
import { openRoute } from '../../../sys/rtnetlink.ts';

let route: NetlinkSocket | undefined;
let nftables: NetlinkSocket | undefined;

/**
 * rtnetlink. A failure leaves it usable: answers that nobody has read are recognised by their sequence numbers. Throws
 * SysError.
 */
export function routeSocket(): NetlinkSocket {
  route ??= openRoute({ kept: true });
  return route;
}

/** nf_tables. Throws SysError where the kernel has none. */
export function nftablesSocket(): NetlinkSocket {
  nftables ??= openNftables({ kept: true });
  return nftables;
}

/**
 * Flows that the kernel tracks (<linux/netfilter/nfnetlink_conntrack.h>), to be forgotten where their way has changed.
 */
import {
  attribute,
  attributesOf,
  attributeU8,
  NetlinkError,
  type NetlinkSocket,
  NLA_F_NESTED,
  nested,
  type Request,
} from './netlink.ts';

const NFNL_SUBSYS_CTNETLINK = 1;
const IPCTNL_MSG_CT_GET = 1;
const IPCTNL_MSG_CT_DELETE = 2;
const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_PROTO = 2;
const CTA_PROTO_NUM = 1;
const CTA_PROTO_DST_PORT = 3;
const CTA_ID = 12;
const CTA_ZONE = 18;
const CTA_FILTER = 25;
const CTA_FILTER_ORIG_FLAGS = 1;
const CTA_FILTER_REPLY_FLAGS = 2;
/** CTA_FILTER_F_CTA_PROTO_NUM (nf_internals.h of the kernel). */
const BY_PROTOCOL = 1 << 3;
const AF_INET = 2;
const AF_INET6 = 10;
const UDP = 17;

/**
 * Forgets UDP flows towards these ports, whatever their address; their next packet is looked at anew. `socket` is one
 * of netfilter. Best effort, as in the reference plugin: a flow that stays runs out by itself.
 */
export function deleteUdpFlows(socket: NetlinkSocket, six: boolean, ports: readonly number[]): void {
  try {
    const found = flows(socket, six ? AF_INET6 : AF_INET, ports);
    if (found.length > 0) socket.exchange(found);
  } catch (error) {
    if (!(error instanceof NetlinkError)) throw error; // a kernel without this, or one that is flooded with flows
  }
}

/** A request to delete each flow. The kernel filters since Linux 5.8; older ones list everything. */
function flows(socket: NetlinkSocket, family: number, ports: readonly number[]): Request[] {
  const flags = (value: number) => {
    const payload = Buffer.alloc(4);
    payload.writeUInt32LE(value);
    return payload;
  };
  const body = Buffer.concat([
    header(family),
    nested(CTA_TUPLE_ORIG, [nested(CTA_TUPLE_PROTO, [attributeU8(CTA_PROTO_NUM, UDP)])]),
    nested(CTA_FILTER, [
      attribute(CTA_FILTER_ORIG_FLAGS, flags(BY_PROTOCOL)),
      attribute(CTA_FILTER_REPLY_FLAGS, flags(0)),
    ]),
  ]);
  return socket.dump(type(IPCTNL_MSG_CT_GET), body).flatMap(({ body: flow }) => {
    const parts = attributesOf(flow, 4);
    const tuple = parts.get(CTA_TUPLE_ORIG);
    const protocol = tuple && attributesOf(tuple).get(CTA_TUPLE_PROTO);
    const fields = protocol && attributesOf(protocol);
    const port = fields?.get(CTA_PROTO_DST_PORT)?.readUInt16BE(0);
    if (!tuple || fields?.get(CTA_PROTO_NUM)?.[0] !== UDP || !ports.includes(port ?? 0)) return [];
    const id = parts.get(CTA_ID);
    const zone = parts.get(CTA_ZONE);
    const original = attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple);
    const more = [...(id ? [attribute(CTA_ID, id)] : []), ...(zone ? [attribute(CTA_ZONE, zone)] : [])];
    return [{ type: type(IPCTNL_MSG_CT_DELETE), body: Buffer.concat([header(family), original, ...more]) }];
  });
}

const type = (kind: number): number => (NFNL_SUBSYS_CTNETLINK << 8) | kind;

const header = (family: number): Buffer => Buffer.from([family, 0, 0, 0]);

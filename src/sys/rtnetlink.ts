/**
 * Links, addresses and routes over rtnetlink (rtnetlink(7); numbers from <linux/rtnetlink.h>, if_link.h, if_addr.h,
 * if_bridge.h, veth.h).
 */
import { type Address, isSix, maskOf, networkOf, type Prefix } from './ip.ts';
import {
  attribute,
  attributesOf,
  attributeText,
  attributeU8,
  attributeU16,
  attributeU32,
  NETLINK,
  NetlinkError,
  NetlinkSocket,
  NLM_F,
  nested,
  type Request,
  textOf,
} from './netlink.ts';

const RTM = {
  NEWLINK: 16,
  DELLINK: 17,
  GETLINK: 18,
  SETLINK: 19,
  NEWADDR: 20,
  DELADDR: 21,
  GETADDR: 22,
  NEWROUTE: 24,
  DELROUTE: 25,
  GETROUTE: 26,
} as const;

const AF_UNSPEC = 0;
const AF_INET = 2;
const AF_BRIDGE = 7;
const AF_INET6 = 10;

const IFLA = {
  ADDRESS: 1,
  IFNAME: 3,
  MTU: 4,
  LINK: 5,
  MASTER: 10,
  PROTINFO: 12,
  OPERSTATE: 16,
  LINKINFO: 18,
  AF_SPEC: 26,
  NET_NS_FD: 28,
  PROMISCUITY: 30,
  NUM_TX_QUEUES: 31,
  NUM_RX_QUEUES: 32,
} as const;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const IFLA_BR_VLAN_FILTERING = 7;
const IFLA_BRPORT_MODE = 4;
const IFLA_BRIDGE_VLAN_INFO = 2;
const IFLA_INET_CONF = 1;
const IFLA_INET6_ADDR_GEN_MODE = 8;
const IN6_ADDR_GEN_MODE_NONE = 1;
const BRIDGE_VLAN_INFO_PVID = 2;
const BRIDGE_VLAN_INFO_UNTAGGED = 4;
const VETH_INFO_PEER = 1;
const IFF_UP = 1;
const IFF_PROMISC = 0x100;
const IF_OPER_UP = 6;

const IFA = { ADDRESS: 1, LOCAL: 2, BROADCAST: 4, FLAGS: 8 } as const;
/** IFA_F_TENTATIVE | IFA_F_DADFAILED: duplicate address detection is under way, or found one. */
const UNSETTLED = 0x40 | 0x08;

const RTA = { DST: 1, OIF: 4, GATEWAY: 5, PREFSRC: 7, TABLE: 15 } as const;
const RT_TABLE_MAIN = 254;
const RTPROT_BOOT = 3;
const RTN_UNICAST = 1;
export const SCOPE = { UNIVERSE: 0, LINK: 253, HOST: 254, NOWHERE: 255 } as const;

const ENODEV = 19;

export interface Link {
  index: number;
  name: string;
  /** Lower case with colons; "" for links without one. */
  mac: string;
  mtu: number;
  /** "bridge", "veth"; "" for hardware and lo. */
  kind: string;
  up: boolean;
  promiscuous: boolean;
  /** Operational: up on both sides. */
  running: boolean;
  /** Index of the bridge that it is a port of; 0 without one. */
  master: number;
  /** Index of the veth's other end, in that one's namespace; 0 for others. */
  peer: number;
}

export interface LinkAddress extends Prefix {
  index: number;
  /** Duplicate address detection has not passed it (yet). */
  unsettled: boolean;
}

export interface Route {
  /** The destination with its host bits cleared. */
  dst: Prefix;
  gateway?: Address;
  source?: Address;
  /** Index of the link. */
  link: number;
  scope?: number;
}

/**
 * A socket for links, addresses and routes of the namespace that this thread is in now; `kept`: until the thread ends.
 */
export const openRoute = (how?: { kept: boolean }): NetlinkSocket => new NetlinkSocket(NETLINK.ROUTE, how);

/** The link with this name or index; undefined where there is none. */
export function findLink(socket: NetlinkSocket, which: string | number): Link | undefined {
  return findLinks(socket, [which])[0];
}

/** The links with these names or indexes, asked for in one go. */
export function findLinks(socket: NetlinkSocket, wanted: (string | number)[]): (Link | undefined)[] {
  const requests = wanted.map((which) => {
    const body = [linkHeader({ index: typeof which === 'number' ? which : 0 })];
    if (typeof which === 'string') body.push(attributeText(IFLA.IFNAME, which));
    return { type: RTM.GETLINK, body: Buffer.concat(body) };
  });
  return socket.exchange(requests).map(({ answers: [answer], error }) => {
    if (error && error.errno !== ENODEV) throw error;
    return answer && linkOf(answer.body);
  });
}

/** All links of the namespace. */
export const listLinks = (socket: NetlinkSocket): Link[] =>
  socket.dump(RTM.GETLINK, linkHeader({})).map(({ body }) => linkOf(body));

export interface NewBridge {
  name: string;
  /** 0: the kernel's choice. */
  mtu: number;
  vlanFiltering: boolean;
}

/** Makes a bridge; NetlinkError EEXIST when there is a link of this name. */
export function addBridge(socket: NetlinkSocket, { name, mtu, vlanFiltering }: NewBridge): void {
  const info = [attributeText(IFLA_INFO_KIND, 'bridge')];
  if (vlanFiltering) info.push(nested(IFLA_INFO_DATA, [attributeU8(IFLA_BR_VLAN_FILTERING, 1)]));
  socket.request({
    type: RTM.NEWLINK,
    flags: NLM_F.CREATE | NLM_F.EXCL,
    body: Buffer.concat([
      linkHeader({}),
      attributeText(IFLA.IFNAME, name),
      ...(mtu > 0 ? [attributeU32(IFLA.MTU, mtu)] : []),
      nested(IFLA.LINKINFO, info),
    ]),
  });
}

export interface NewVeth {
  /** Of the end here; left out, the kernel chooses one, which udev may replace (systemd.link, MACAddressPolicy). */
  mac?: string;
  /** The end in the socket's namespace, which is set up at once. */
  name: string;
  /** 0: the kernel's choice; otherwise of both ends. */
  mtu: number;
  /** Index of a bridge that it becomes a port of; 0: of none. */
  master: number;
  /** The other end, which stays down. */
  peer: { name: string /** "" for a random one. */; mac: string /** Descriptor of its namespace. */; netns?: number };
}

/**
 * Otherwise the kernel makes a veth with as many queues as the machine has processors, and disables all but one: for
 * each end it waits for a grace period of RCU then, with the lock that all changes of links of all namespaces need.
 */
const ONE_QUEUE = [attributeU32(IFLA.NUM_TX_QUEUES, 1), attributeU32(IFLA.NUM_RX_QUEUES, 1)];

/**
 * Makes a pair of veths across namespaces. Returns the end in the socket's namespace as it is before it becomes a port:
 * with the answer to the request, or on Linux before 6.2 by asking for it. NetlinkError EEXIST when one of the names is
 * taken.
 */
export function addVeth(socket: NetlinkSocket, { name, mac, mtu, master, peer }: NewVeth): Link {
  const both = [...(mtu > 0 ? [attributeU32(IFLA.MTU, mtu)] : []), ...ONE_QUEUE];
  const other = [
    linkHeader({}),
    attributeText(IFLA.IFNAME, peer.name),
    ...both,
    ...(peer.mac === '' ? [] : [attribute(IFLA.ADDRESS, parseMac(peer.mac))]),
    ...(peer.netns === undefined ? [] : [attributeU32(IFLA.NET_NS_FD, peer.netns)]),
  ];
  const answers = socket.request({
    type: RTM.NEWLINK,
    flags: NLM_F.CREATE | NLM_F.EXCL | NLM_F.ECHO,
    body: Buffer.concat([
      linkHeader({ flags: IFF_UP, change: IFF_UP }),
      attributeText(IFLA.IFNAME, name),
      ...(mac === undefined ? [] : [attribute(IFLA.ADDRESS, parseMac(mac))]),
      ...both,
      ...(master > 0 ? [attributeU32(IFLA.MASTER, master)] : []),
      nested(IFLA.LINKINFO, [
        attributeText(IFLA_INFO_KIND, 'veth'),
        nested(IFLA_INFO_DATA, [nested(VETH_INFO_PEER, other)]),
      ]),
    ]),
  });
  const echo = answers.find(({ type }) => type === RTM.NEWLINK);
  const link = echo ? linkOf(echo.body) : findLink(socket, name);
  if (!link) throw new NetlinkError(ENODEV);
  return link;
}

/** Requests for {@link NetlinkSocket.exchange}: several changes of links go in one batch. */
export const setUp = (index: number, up = true): Request => ({
  type: RTM.SETLINK,
  body: linkHeader({ index, flags: up ? IFF_UP : 0, change: IFF_UP }),
});

export const setPromiscuous = (index: number): Request => ({
  type: RTM.SETLINK,
  body: linkHeader({ index, flags: IFF_PROMISC, change: IFF_PROMISC }),
});

export const setMac = (index: number, mac: string): Request => ({
  type: RTM.SETLINK,
  body: Buffer.concat([linkHeader({ index }), attribute(IFLA.ADDRESS, parseMac(mac))]),
});

/** Frames may leave a bridge through the port that they came in by. */
export const setHairpin = (index: number, on: boolean): Request => ({
  type: RTM.SETLINK,
  body: Buffer.concat([
    linkHeader({ family: AF_BRIDGE, index }),
    nested(IFLA.PROTINFO, [attributeU8(IFLA_BRPORT_MODE, on ? 1 : 0)]),
  ]),
});

/** IPv4 settings of a link that are sysctls below net/ipv4/conf, too; numbers of IPV4_DEVCONF_* in <linux/ip.h>. */
export const IPV4_CONF = { ARP_NOTIFY: 22 } as const;

/** Sets one of {@link IPV4_CONF}: as the sysctl does, without a path that the kernel looks up among all namespaces. */
export const setIpv4Conf = (index: number, setting: number, value: number): Request => ({
  type: RTM.SETLINK,
  body: Buffer.concat([
    linkHeader({ index }),
    nested(IFLA.AF_SPEC, [nested(AF_INET, [nested(IFLA_INET_CONF, [attributeU32(setting, value)])])]),
  ]),
});

/** The kernel gives the link no IPv6 address of its own (fe80::…). For a link that is down. */
export const withoutLinkLocal = (index: number): Request => ({
  type: RTM.SETLINK,
  body: Buffer.concat([
    linkHeader({ index }),
    nested(IFLA.AF_SPEC, [nested(AF_INET6, [attributeU8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)])]),
  ]),
});

/** The port's own VLAN: untagged towards the port. */
export function addPortVlan(index: number, vlan: number): Request {
  const info = Buffer.alloc(4); // struct bridge_vlan_info: flags, vid
  info.writeUInt16LE(BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED, 0);
  info.writeUInt16LE(vlan, 2);
  return {
    type: RTM.SETLINK,
    body: Buffer.concat([
      linkHeader({ family: AF_BRIDGE, index }),
      nested(IFLA.AF_SPEC, [attributeU16(0, 1), attribute(IFLA_BRIDGE_VLAN_INFO, info)]),
    ]),
  };
}

/** Deletes a link, of a veth both ends; false when it is not there. */
export function deleteLink(socket: NetlinkSocket, index: number): boolean {
  try {
    socket.request({ type: RTM.DELLINK, body: linkHeader({ index }) });
    return true;
  } catch (error) {
    if (error instanceof NetlinkError && error.errno === ENODEV) return false;
    throw error;
  }
}

/** The addresses of one link: of both families, or of one. */
export function listAddresses(socket: NetlinkSocket, index: number, only?: 4 | 6): LinkAddress[] {
  const families = [...(only === 6 ? [] : [AF_INET]), ...(only === 4 ? [] : [AF_INET6])];
  return families.flatMap((family) => {
    const header = Buffer.alloc(8);
    header.writeUInt8(family, 0);
    header.writeUInt32LE(index, 4); // with NETLINK_GET_STRICT_CHK the kernel filters by it
    const found = socket.dump(RTM.GETADDR, header).map(({ body }) => addressOf(body));
    return found.filter((each) => each.index === index);
  });
}

export const addAddress = (index: number, prefix: Prefix): Request => ({
  type: RTM.NEWADDR,
  flags: NLM_F.CREATE | NLM_F.EXCL,
  body: addressBody(index, prefix),
});

export const deleteAddress = (index: number, prefix: Prefix): Request => ({
  type: RTM.DELADDR,
  body: addressBody(index, prefix),
});

function addressBody(index: number, { address, length }: Prefix): Buffer {
  const six = isSix(address);
  const header = Buffer.alloc(8); // struct ifaddrmsg: family, prefixlen, flags, scope, index
  header.writeUInt8(six ? AF_INET6 : AF_INET, 0);
  header.writeUInt8(length, 1);
  header.writeUInt32LE(index, 4);
  const attributes = [attribute(IFA.LOCAL, address), attribute(IFA.ADDRESS, address)];
  if (!six && length < 31) {
    const mask = maskOf(4, length);
    attributes.push(attribute(IFA.BROADCAST, Buffer.from(address.map((byte, at) => byte | (~(mask[at] ?? 0) & 0xff)))));
  }
  return Buffer.concat([header, ...attributes]);
}

/** `another`: beside one of the same destination (ECMP), where otherwise that is EEXIST. */
export const addRoute = (route: Route, { another }: { another: boolean }): Request => ({
  type: RTM.NEWROUTE,
  flags: NLM_F.CREATE | (another ? 0 : NLM_F.EXCL),
  body: routeBody(route, { protocol: RTPROT_BOOT, type: RTN_UNICAST }),
});

export const deleteRoute = (route: Route): Request => ({
  type: RTM.DELROUTE,
  body: routeBody(route, { protocol: 0, type: 0 }),
});

function routeBody(route: Route, { protocol, type }: { protocol: number; type: number }): Buffer {
  const { dst, gateway, source, link, scope = SCOPE.UNIVERSE } = route;
  const header = Buffer.alloc(12); // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
  header.writeUInt8(isSix(dst.address) ? AF_INET6 : AF_INET, 0);
  header.writeUInt8(dst.length, 1);
  header.writeUInt8(RT_TABLE_MAIN, 4);
  header.writeUInt8(protocol, 5);
  header.writeUInt8(scope, 6);
  header.writeUInt8(type, 7);
  return Buffer.concat([
    header,
    ...(dst.length > 0 ? [attribute(RTA.DST, networkOf(dst))] : []),
    ...(gateway ? [attribute(RTA.GATEWAY, gateway)] : []),
    ...(source ? [attribute(RTA.PREFSRC, source)] : []),
    attributeU32(RTA.OIF, link),
  ]);
}

/** Unicast routes of the main table, both families; those over several gateways have the first one only. */
export function listRoutes(socket: NetlinkSocket): Route[] {
  return [AF_INET, AF_INET6].flatMap((family) => {
    const header = Buffer.alloc(12);
    header.writeUInt8(family, 0);
    return socket.dump(RTM.GETROUTE, header).flatMap(({ body }) => {
      const attributes = attributesOf(body, 12);
      const table = attributes.get(RTA.TABLE)?.readUInt32LE(0) ?? body.readUInt8(4);
      if (table !== RT_TABLE_MAIN || body.readUInt8(7) !== RTN_UNICAST) return [];
      const address = attributes.get(RTA.DST) ?? Buffer.alloc(family === AF_INET ? 4 : 16);
      return [
        {
          dst: { address, length: body.readUInt8(1) },
          gateway: attributes.get(RTA.GATEWAY),
          source: attributes.get(RTA.PREFSRC),
          link: attributes.get(RTA.OIF)?.readUInt32LE(0) ?? 0,
          scope: body.readUInt8(6),
        },
      ];
    });
  });
}

/** Index of the link by which the namespace reaches this address; undefined without a route. */
export function linkTowards(socket: NetlinkSocket, address: Address): number | undefined {
  const header = Buffer.alloc(12);
  header.writeUInt8(isSix(address) ? AF_INET6 : AF_INET, 0);
  header.writeUInt8(address.length * 8, 1);
  try {
    const body = Buffer.concat([header, attribute(RTA.DST, address)]);
    const [answer] = socket.request({ type: RTM.GETROUTE, body });
    return answer && attributesOf(answer.body, 12).get(RTA.OIF)?.readUInt32LE(0);
  } catch (error) {
    if (error instanceof NetlinkError) return undefined;
    throw error;
  }
}

/** struct ifinfomsg: family, type, index, flags, mask of the flags to change. */
function linkHeader(parts: { family?: number; index?: number; flags?: number; change?: number }): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt8(parts.family ?? AF_UNSPEC, 0);
  header.writeInt32LE(parts.index ?? 0, 4);
  header.writeUInt32LE(parts.flags ?? 0, 8);
  header.writeUInt32LE(parts.change ?? 0, 12);
  return header;
}

function linkOf(body: Buffer): Link {
  const attributes = attributesOf(body, 16);
  const flags = body.readUInt32LE(8);
  const number = (type: number) => attributes.get(type)?.readUInt32LE(0) ?? 0;
  const info = attributes.get(IFLA.LINKINFO);
  return {
    index: body.readInt32LE(4),
    name: textOf(attributes.get(IFLA.IFNAME)) ?? '',
    mac: macText(attributes.get(IFLA.ADDRESS)),
    mtu: number(IFLA.MTU),
    kind: (info && textOf(attributesOf(info).get(IFLA_INFO_KIND))) ?? '',
    up: (flags & IFF_UP) !== 0,
    promiscuous: number(IFLA.PROMISCUITY) > 0,
    running: attributes.get(IFLA.OPERSTATE)?.readUInt8(0) === IF_OPER_UP,
    master: number(IFLA.MASTER),
    peer: number(IFLA.LINK),
  };
}

function addressOf(body: Buffer): LinkAddress {
  const attributes = attributesOf(body, 8);
  const address = attributes.get(IFA.LOCAL) ?? attributes.get(IFA.ADDRESS) ?? Buffer.alloc(4);
  const flags = attributes.get(IFA.FLAGS)?.readUInt32LE(0) ?? body.readUInt8(2);
  return { index: body.readUInt32LE(4), address, length: body.readUInt8(1), unsettled: (flags & UNSETTLED) !== 0 };
}

const macText = (bytes: Buffer | undefined): string =>
  bytes ? [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':') : '';

const MAC = /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/i;

/** Is this a MAC address as the kernel's links have them: six bytes with colons? */
export const isMac = (text: string): boolean => MAC.test(text);

const parseMac = (text: string): Buffer => Buffer.from(text.split(':').map((byte) => Number.parseInt(byte, 16)));

/**
 * The bridge plugin: a veth pair between the pod and a bridge of the host, addresses from IPAM, the bridge as gateway,
 * masquerading.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  addressText,
  contains,
  isSix,
  neighbour,
  networkOf,
  type Prefix,
  parseAddress,
  parsePrefix,
  prefixText,
} from '../../../sys/ip.ts';
import { NetlinkError, type NetlinkSocket } from '../../../sys/netlink.ts';
import { netnsExists } from '../../../sys/netns.ts';
import {
  addAddress,
  addBridge,
  addPortVlan,
  addVeth,
  deleteAddress,
  findLink,
  findLinks,
  type Link,
  listAddresses,
  setHairpin,
  setMac,
  setPromiscuous,
  setUp,
} from '../../../sys/rtnetlink.ts';
import { isObject, type Json } from '../../json.ts';
import type { CniResult } from '../types.ts';
import { type Call, cniArg, type GcCall, type Work } from './call.ts';
import { checkBridge, checkPod, checkPort, podInterfaceOf, resultToCheck } from './check.ts';
import { detachVeth } from './detach.ts';
import { COMMON, cniArgs, Fields, NotOurs } from './fields.ts';
import { isMasqueraded, masquerade, releaseOthers } from './firewall.ts';
import { dnsOf, type Ipam, type IsOurs, ipamAdd, ipamCanWait, ipamCheck, ipamDel, ipamGc, readIpam } from './ipam.ts';
import { carryOut, configureInterface, inPod, noLinkLocal } from './pod-interface.ts';
import { during, Refusal, reasonOf } from './refusal.ts';
import { nftablesSocket } from './sockets.ts';
import { enableForwarding, ignoreRouterAdvertisements } from './sysctl.ts';
import { deletePodLink, hostEnd, makePodVeth, openNetns, randomVethName } from './veth.ts';

const KEYS = [
  ...COMMON,
  'bridge',
  'isGateway',
  'isDefaultGateway',
  'forceAddress',
  'ipMasq',
  'ipMasqBackend',
  'mtu',
  'hairpinMode',
  'promiscMode',
  'vlan',
  'preserveDefaultVlan',
  'macspoofchk',
  'enabledad',
  'ipv6LinkLocal', // Sluice's own: plugins leave keys alone that they do not know
];

/** Pauses, in milliseconds, in which the port of the bridge may come up. */
const PORT_PAUSES = [1, 2, 5, 10, 30, 50, 450, 1000, 1000];

export interface Bridge {
  name: string;
  isGateway: boolean;
  isDefaultGateway: boolean;
  forceAddress: boolean;
  ipMasq: boolean;
  mtu: number;
  hairpin: boolean;
  promiscuous: boolean;
  /** 0 for none. */
  vlan: number;
  detectDuplicates: boolean;
  /**
   * False: the link of a pod without an IPv6 address of the network has none of its own either. Otherwise each pod
   * tells all others about it for some seconds (docs/operate/tuning.md).
   */
  linkLocal: boolean;
  mac: string;
  ipam: Ipam;
}

/** Throws NotOurs for a configuration that only the program can judge. */
export function readBridge(network: string, conf: Json, isOurs: IsOurs): Bridge {
  const fields = new Fields(conf, KEYS);
  // Spoof checks are rules of nft's command; a back end of iptables was asked for by name.
  if (fields.flag('macspoofchk')) throw new NotOurs('"macspoofchk"');
  if (!['', 'nftables'].includes(fields.text('ipMasqBackend'))) throw new NotOurs('"ipMasqBackend"');
  if (!fields.flag('preserveDefaultVlan', true)) throw new NotOurs('"preserveDefaultVlan"');
  const runtime = isObject(conf.runtimeConfig) ? conf.runtimeConfig : {};
  const runtimeMac = new Fields({ mac: runtime.mac }, ['mac']).text('mac');
  dnsOf(conf, undefined);
  return {
    name: fields.text('bridge') || 'cni0',
    isGateway: fields.flag('isGateway') || fields.flag('isDefaultGateway'),
    isDefaultGateway: fields.flag('isDefaultGateway'),
    forceAddress: fields.flag('forceAddress'),
    ipMasq: fields.flag('ipMasq'),
    mtu: fields.whole('mtu'),
    hairpin: fields.flag('hairpinMode'),
    promiscuous: fields.flag('promiscMode'),
    vlan: fields.whole('vlan'),
    detectDuplicates: fields.flag('enabledad'),
    linkLocal: fields.flag('ipv6LinkLocal', true),
    mac: runtimeMac || cniArgs(fields, ['mac', 'ips']).text('mac'),
    ipam: readIpam(network, conf, isOurs),
  };
}

export const bridgeWork = (bridge: Bridge): Work => ({
  add: (call) => add(bridge, call),
  del: (call) => detachVeth(bridge, call),
  check: (call) => check(bridge, call),
  gc: (call) => gc(bridge, call),
  heldLink: (call) => (ipamCanWait(bridge.ipam) ? hostEnd(call) : undefined),
});

async function add(settings: Bridge, call: Call): Promise<CniResult> {
  const bridge = { ...settings, mac: settings.mac || cniArg(call.attachment, 'MAC') };
  const { vlan } = bridge;
  if (vlan < 0 || vlan > 4094) throw new Refusal(`invalid VLAN ID ${vlan} (must be between 0 and 4094)`);
  if (bridge.hairpin && bridge.promiscuous) {
    throw new Refusal('cannot set hairpin mode and promiscuous mode at the same time.');
  }
  const link = during(`failed to create bridge "${bridge.name}"`, () => ensureBridge(call.host, bridge));
  openNetns(call.netns)[Symbol.dispose](); // whether it is there, before anything else is made
  if (bridge.ipam.type === '') return addWithoutAddresses(bridge, call, link);

  const ipam = await ipamAdd(bridge.ipam, call);
  try {
    return await connect(bridge, call, ipam, link);
  } catch (error) {
    await giveBack(bridge, call, error);
    throw error;
  }
}

/** Takes back what a failed ADD has made, as far as possible: DEL will see to the rest. */
async function giveBack(bridge: Bridge, call: Call, cause: unknown): Promise<void> {
  try {
    if (netnsExists(call.netns)) deletePodLink(call.netns, call.attachment.ifName);
    await ipamDel(bridge.ipam, call);
  } catch (error) {
    throw new Refusal(`${reasonOf(cause)}; and what was made could not be taken back: ${reasonOf(error)}`, { cause });
  }
}

async function connect(
  bridge: Bridge,
  call: Call,
  ipam: Awaited<ReturnType<typeof ipamAdd>>,
  link: Link,
): Promise<CniResult> {
  const { host, netns, attachment } = call;
  const { ifName } = attachment;
  const { ips, routes } = withGateways(bridge, ipam);
  const prefixes = ips.map(({ address, gateway }) => ({ prefix: mustPrefix(address), gateway }));
  const interfaces: NonNullable<CniResult['interfaces']> = [];

  // The gateway first: the bridge keeps the hardware address that it has without ports.
  let vlanLink: Link | undefined;
  if (bridge.isGateway) {
    for (const { prefix, gateway } of [...prefixes].sort((a, b) => a.prefix.address.length - b.prefix.address.length)) {
      const own = { address: parseAddress(gateway ?? '') ?? neighbour(networkOf(prefix)), length: prefix.length };
      if (bridge.vlan > 0) {
        vlanLink ??= during('failed to create vlan interface', () => ensureVlanLink(host, link, bridge));
        const target = vlanLink;
        during('failed to set vlan interface for bridge with addr', () => ensureAddress(host, target, own, bridge));
      } else {
        during('failed to set bridge addr', () => ensureAddress(host, link, own, bridge));
      }
      enableForwarding(isSix(prefix.address));
    }
  }

  const { mtu, mac, detectDuplicates, linkLocal } = bridge;
  const { port, pod } = makePodVeth(host, { netns, ifName, mtu, mac, master: link.index });
  setUpPort(host, port, link, bridge);
  await configureInterface({
    netns,
    ifName,
    index: pod.index,
    ips,
    routes,
    detectDuplicates,
    linkLocal,
    announce: true,
  });
  if (bridge.ipMasq) {
    const nftables = nftablesSocket();
    during('failed to set up masquerading', () => {
      for (const { prefix } of prefixes) masquerade(nftables, call.network.name, attachment, prefix);
    });
  }
  const current = await awaitPort(host, port.index, link);
  interfaces.push(
    { name: current.name, mac: current.mac },
    { name: port.name, mac: port.mac },
    { name: ifName, mac: pod.mac, sandbox: netns },
  );
  if (vlanLink) interfaces.push({ name: vlanLink.name, mac: vlanLink.mac });
  return {
    cniVersion: '1.0.0',
    interfaces,
    ips: ips.map(({ address, gateway }) => ({ interface: 2, address, ...(gateway ? { gateway } : {}) })),
    ...(routes.length > 0 ? { routes } : {}),
    dns: dnsOf(call.conf, ipam),
  };
}

async function addWithoutAddresses(bridge: Bridge, call: Call, link: Link): Promise<CniResult> {
  const { host, netns, attachment } = call;
  const { ifName } = attachment;
  const { port, pod } = makePodVeth(host, { netns, ifName, mtu: bridge.mtu, mac: bridge.mac, master: link.index });
  setUpPort(host, port, link, bridge);
  const up = { what: `failed to set "${ifName}" up`, request: setUp(pod.index) };
  inPod(netns, (socket) => carryOut(socket, [...(bridge.linkLocal ? [] : [noLinkLocal(pod.index)]), up]));
  const current = findLink(host, link.index) ?? link;
  return {
    cniVersion: '1.0.0',
    interfaces: [
      { name: current.name, mac: current.mac },
      { name: port.name, mac: port.mac },
      { name: ifName, mac: pod.mac, sandbox: netns },
    ],
    dns: dnsOf(call.conf, undefined),
  };
}

/**
 * Gateways where the addresses came without, and the default route through the first of each family, as the
 * configuration wants.
 */
function withGateways(bridge: Bridge, ipam: Awaited<ReturnType<typeof ipamAdd>>) {
  const routes = [...(ipam.routes ?? [])];
  const ips = (ipam.ips ?? []).map(({ address, gateway }) => {
    const prefix = mustPrefix(address);
    const own = gateway ?? (bridge.isGateway ? addressText(neighbour(networkOf(prefix))) : undefined);
    const all = isSix(prefix.address) ? '::/0' : '0.0.0.0/0';
    if (bridge.isDefaultGateway && !routes.some(({ dst, gw }) => gw !== undefined && dst === all)) {
      routes.push({ dst: all, ...(own === undefined ? {} : { gw: own }) });
    }
    return { address, gateway: own };
  });
  return { ips, routes };
}

function mustPrefix(address: string): Prefix {
  const prefix = parsePrefix(address);
  if (!prefix) throw new Refusal(`invalid CIDR address: ${address}`);
  return prefix;
}

function ensureBridge(host: NetlinkSocket, { name, mtu, promiscuous, vlan }: Bridge): Link {
  let link = findLink(host, name);
  if (!link) {
    try {
      addBridge(host, { name, mtu, vlanFiltering: vlan > 0 });
    } catch (error) {
      // Another thread, daemon or plugin was faster.
      if (!(error instanceof NetlinkError) || error.code !== 'EEXIST') {
        throw new Refusal(`could not add "${name}": ${reasonOf(error)}`, { cause: error });
      }
    }
    ignoreRouterAdvertisements(name);
    link = findLink(host, name);
  }
  if (!link) throw new Refusal(`could not lookup "${name}": Link not found`);
  const { index, kind, up } = link;
  if (kind !== 'bridge') throw new Refusal(`"${name}" already exists but is not a bridge`);
  if (promiscuous && !link.promiscuous) {
    during(`could not set promiscuous mode on "${name}"`, () => host.request(setPromiscuous(index)));
  }
  if (!up) during('', () => host.request(setUp(index)));
  return link;
}

/**
 * The bridge's own end of a VLAN: a veth pair of which one end is a port with that VLAN, the other carries the
 * gateway's address.
 */
function ensureVlanLink(host: NetlinkSocket, link: Link, bridge: Bridge): Link {
  const name = `${link.name}.${bridge.vlan}`;
  const before = findLink(host, name);
  if (before) return before;
  const port = randomVethName();
  during(`faild to create vlan gateway "${name}"`, () => {
    addVeth(host, { name: port, mtu: link.mtu, master: link.index, peer: { name, mac: '' } });
    const made = findLink(host, port);
    if (made) host.request(addPortVlan(made.index, bridge.vlan));
  });
  const made = findLink(host, name);
  if (!made) throw new Refusal(`failed to lookup "${name}": Link not found`);
  ignoreRouterAdvertisements(port);
  during(`failed to up "${name}"`, () => host.request(setUp(made.index)));
  return made;
}

function ensureAddress(host: NetlinkSocket, link: Link, own: Prefix, { forceAddress }: Bridge): void {
  const six = isSix(own.address);
  const text = prefixText(own);
  for (const each of listAddresses(host, link.index, six ? 6 : 4)) {
    if (prefixText(each) === text) return;
    // A bridge has one IPv4 address, and of IPv6 one in each subnet.
    if (six && !contains(each, own.address) && !contains(own, each.address)) continue;
    if (!forceAddress) throw new Refusal(`"${link.name}" already has an IP address different from ${text}`);
    during(`could not remove IP address from "${link.name}"`, () => host.request(deleteAddress(link.index, each)));
  }
  try {
    host.request(addAddress(link.index, own));
  } catch (error) {
    if (!(error instanceof NetlinkError) || error.code !== 'EEXIST') {
      throw new Refusal(`could not add IP address to "${link.name}": ${reasonOf(error)}`, { cause: error });
    }
  }
  // Otherwise the bridge takes the lowest one of its ports, and changes it as pods come and go.
  during("could not set bridge's mac", () => host.request(setMac(link.index, link.mac)));
}

function setUpPort(host: NetlinkSocket, { index, name }: Link, link: Link, { hairpin, vlan }: Bridge): void {
  // Asked for, the kernel notices that the port has no carrier yet, and then that the bridge has one: without a change
  // its state stays UNKNOWN instead of UP.
  if (!link.running) findLink(host, index);
  // A new port has neither of the two.
  carryOut(host, [
    ...(hairpin ? [{ what: `failed to setup hairpin mode for ${name}`, request: setHairpin(index, true) }] : []),
    ...(vlan > 0
      ? [{ what: `failed to setup vlan tag on interface "${name}"`, request: addPortVlan(index, vlan) }]
      : []),
  ]);
}

/**
 * The port forwards once the kernel has noticed that both ends are up; asking for the link makes it look since Linux
 * 6.8. Returns the bridge as it is then: without an address of its own it changes its hardware address with its ports.
 */
async function awaitPort(host: NetlinkSocket, index: number, link: Link): Promise<Link> {
  for (const pause of [...PORT_PAUSES, 0]) {
    const [port, bridge] = findLinks(host, [index, link.index]);
    if (!port) throw new Refusal('Link not found');
    if (port.running) return bridge ?? link;
    if (pause > 0) await sleep(pause);
  }
  throw new Refusal('bridge port in error state: down');
}

async function check(bridge: Bridge, call: Call): Promise<void> {
  await ipamCheck(bridge.ipam, call);
  const { host, netns, network, attachment } = call;
  const result = resultToCheck(call);
  const link = checkBridge(host, result, bridge.name, bridge.promiscuous);
  const expected = podInterfaceOf(result, call);
  const pod = inPod(netns, (socket) => checkPod(socket, expected, result));
  checkPort(host, result, link, pod);
  if (!bridge.ipMasq || bridge.ipam.type === '') return;
  const nftables = nftablesSocket();
  for (const { address } of result.ips ?? []) {
    if (isMasqueraded(nftables, network.name, attachment, mustPrefix(address))) continue;
    throw new Refusal(`${address} is not masqueraded any more`);
  }
}

async function gc(bridge: Bridge, call: GcCall): Promise<string[]> {
  const rules = bridge.ipMasq ? releaseOthers(call.network.name, call) : [];
  return [...rules, ...(await ipamGc(bridge.ipam, call))];
}

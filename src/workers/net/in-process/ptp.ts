/**
 * The ptp plugin: a veth pair without a bridge. All that the pod sends goes to its gateway, the host's end of the pair.
 */
import { isSix, networkOf, type Prefix, parseAddress, parsePrefix } from '../../../sys/ip.ts';
import { netnsExists } from '../../../sys/netns.ts';
import { addAddress, addRoute, deleteRoute, SCOPE } from '../../../sys/rtnetlink.ts';
import type { Json } from '../../json.ts';
import type { CniResult } from '../types.ts';
import type { Call, GcCall, Work } from './call.ts';
import { checkPod, podInterfaceOf, resultToCheck } from './check.ts';
import { detachVeth } from './detach.ts';
import { COMMON, Fields, NotOurs } from './fields.ts';
import { isMasqueraded, masquerade, releaseOthers } from './firewall.ts';
import { dnsOf, type Ipam, type IsOurs, ipamAdd, ipamCanWait, ipamCheck, ipamDel, ipamGc, readIpam } from './ipam.ts';
import { configureInterface, inPod, type Step } from './pod-interface.ts';
import { during, Refusal, reasonOf } from './refusal.ts';
import { nftablesSocket } from './sockets.ts';
import { enableForwarding } from './sysctl.ts';
import { deletePodLink, hostEnd, makePodVeth } from './veth.ts';

const KEYS = [...COMMON, 'ipMasq', 'ipMasqBackend', 'mtu'];

export interface Ptp {
  ipMasq: boolean;
  mtu: number;
  ipam: Ipam;
}

/** Throws NotOurs for a configuration that only the program can judge. */
export function readPtp(network: string, conf: Json, isOurs: IsOurs): Ptp {
  const fields = new Fields(conf, KEYS);
  if (!['', 'nftables'].includes(fields.text('ipMasqBackend'))) throw new NotOurs('"ipMasqBackend"');
  dnsOf(conf, undefined);
  const ipam = readIpam(network, conf, isOurs);
  if (ipam.type === '') throw new NotOurs('no IPAM');
  return { ipMasq: fields.flag('ipMasq'), mtu: fields.whole('mtu'), ipam };
}

export const ptpWork = (ptp: Ptp): Work => ({
  add: (call) => add(ptp, call),
  del: (call) => detachVeth(ptp, call),
  check: (call) => check(ptp, call),
  gc: (call) => gc(ptp, call),
  heldLink: (call) => (ipamCanWait(ptp.ipam) ? hostEnd(call) : undefined),
});

interface PodAddress {
  prefix: Prefix;
  gateway: Buffer;
}

async function add(ptp: Ptp, call: Call): Promise<CniResult> {
  const ipam = await ipamAdd(ptp.ipam, call);
  try {
    return await connect(ptp, call, ipam);
  } catch (cause) {
    try {
      if (netnsExists(call.netns)) deletePodLink(call.netns, call.attachment.ifName);
      await ipamDel(ptp.ipam, call);
    } catch (error) {
      throw new Refusal(`${reasonOf(cause)}; and what was made could not be taken back: ${reasonOf(error)}`, { cause });
    }
    throw cause;
  }
}

async function connect(ptp: Ptp, call: Call, ipam: Awaited<ReturnType<typeof ipamAdd>>): Promise<CniResult> {
  const { host, netns, attachment, network } = call;
  const { ifName } = attachment;
  const ips = ipam.ips ?? [];
  const routes = ipam.routes ?? [];
  const addresses = ips.map(({ address, gateway }): PodAddress => {
    const prefix = parsePrefix(address);
    const via = parseAddress(gateway ?? '');
    if (!prefix || !via) throw new Refusal(`the address ${address} has no gateway`);
    return { prefix, gateway: via };
  });
  for (const six of new Set(addresses.map(({ prefix }) => isSix(prefix.address)))) {
    during('Could not enable IP forwarding', () => enableForwarding(six));
  }
  const { port: veth, pod } = makePodVeth(host, { netns, ifName, mtu: ptp.mtu, mac: '', master: 0 });
  await configureInterface({
    netns,
    ifName,
    index: pod.index,
    ips,
    routes,
    last: addresses.flatMap((address) => throughGateway(address, pod.index)),
  });
  for (const { prefix, gateway } of addresses) {
    const whole = gateway.length * 8;
    during('failed to add IP addr to veth', () =>
      host.request(addAddress(veth.index, { address: gateway, length: whole })),
    );
    const [outcome] = host.exchange([
      addRoute(
        { dst: { address: prefix.address, length: whole }, link: veth.index, scope: SCOPE.HOST },
        { another: false },
      ),
    ]);
    if (outcome?.error && outcome.error.code !== 'EEXIST') {
      throw new Refusal(`failed to add route on host: ${outcome.error.message}`);
    }
  }
  if (ptp.ipMasq) {
    const nftables = nftablesSocket();
    during('failed to set up masquerading', () => {
      for (const { prefix } of addresses) masquerade(nftables, network.name, attachment, prefix);
    });
  }
  return {
    cniVersion: '1.0.0',
    interfaces: [
      { name: veth.name, mac: veth.mac },
      { name: ifName, mac: pod.mac, sandbox: netns },
    ],
    ips: ips.map(({ address, gateway }) => ({ interface: 1, address, ...(gateway ? { gateway } : {}) })),
    ...(routes.length > 0 ? { routes } : {}),
    dns: dnsOf(call.conf, ipam),
  };
}

/**
 * Instead of the subnet's own route, one to the gateway alone and one to the subnet by way of it: neighbours are not
 * asked for.
 */
function throughGateway({ prefix, gateway }: PodAddress, link: number): Step[] {
  const subnet = { address: networkOf(prefix), length: prefix.length };
  const source = prefix.address;
  return [
    deleteRoute({ dst: subnet, link, scope: SCOPE.NOWHERE }),
    addRoute(
      { dst: { address: gateway, length: gateway.length * 8 }, link, source, scope: SCOPE.LINK },
      { another: false },
    ),
    addRoute({ dst: subnet, gateway, link, source }, { another: false }),
  ].map((request) => ({ what: 'failed to set up routes', request }));
}

async function check(ptp: Ptp, call: Call): Promise<void> {
  await ipamCheck(ptp.ipam, call);
  const result = resultToCheck(call);
  const expected = podInterfaceOf(result, call);
  inPod(call.netns, (socket) => checkPod(socket, expected, result));
  if (!ptp.ipMasq) return;
  const nftables = nftablesSocket();
  for (const { address } of result.ips ?? []) {
    const prefix = parsePrefix(address);
    if (prefix && isMasqueraded(nftables, call.network.name, call.attachment, prefix)) continue;
    throw new Refusal(`${address} is not masqueraded any more`);
  }
}

async function gc(ptp: Ptp, call: GcCall): Promise<string[]> {
  const rules = ptp.ipMasq ? releaseOthers(call.network.name, call) : [];
  return [...rules, ...(await ipamGc(ptp.ipam, call))];
}

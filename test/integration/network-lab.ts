/**
 * A place for CNI calls: the process moves into a network namespace of its own, with a second one behind a link
 * ("far"), so that neither the machine's links nor its rules are touched. ADD and DEL run in this thread, by plugins or
 * in process.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { C, check, libc } from '../../src/sys/libc.ts';
import { setLink } from '../../src/sys/link.ts';
import { run } from '../../src/sys/spawn.ts';
import { removeTables } from '../../src/workers/net/in-process/firewall.ts';
import type { CniAttachment, CniCall, PluginConf } from '../../src/workers/net/types.ts';
import { handlers } from '../../src/workers/net.ts';

export const BIN_DIRS = ['/usr/lib/cni'];
const ENV = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' };

/** Moves this process into a namespace of its own; once, before anything else. */
export function ownNamespace(): void {
  check('unshare', libc.unshare(C.CLONE_NEWNET));
  setLink('lo', true);
}

/** Runs a program, in a pod's namespace where one is given, and returns its output. */
export async function sh(command: string | string[], netns?: string): Promise<string> {
  const inner = typeof command === 'string' ? ['sh', '-c', command] : command;
  const argv = netns === undefined ? inner : ['nsenter', `--net=${netns}`, ...inner];
  const ended = await run({ path: '/usr/bin/env', argv: ['env', ...argv], env: ENV, timeoutMs: 15_000 });
  assert.equal(ended.code, 0, `${argv.join(' ')}: ${ended.stderr}${ended.stdout}`);
  return ended.stdout.toString();
}

export interface Pod {
  netns: string;
  call: CniCall;
}

export interface Lab {
  dir: string;
  network: string;
  /** Makes the pod's namespace and the input of its calls. */
  pod: (plugins: PluginConf[], more?: PodOptions) => Promise<Pod>;
  /** DEL at once, and the end of the namespace. */
  remove: (pod: Pod, inProcess?: boolean) => Promise<void>;
  /** Registers what is done before the lab is removed. */
  onClose: (close: () => Promise<void>) => void;
  /** Addresses that host-local's folder has as taken. */
  leases: () => string[];
  records: () => string[];
  ipam: (ranges: object[][], more?: object) => object;
}

export interface PodOptions {
  inProcess?: boolean | 'auto';
  capabilityArgs?: Record<string, unknown>;
  cniVersion?: string;
  binDirs?: string[];
  timeoutMs?: number;
  args?: [string, string][];
}

/** A folder, a network name and the pods made for it, all of them removed after the test. */
export function openLab(t: TestContext, network: string): Lab {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-cni-'));
  const pods: Pod[] = [];
  const remove = async (pod: Pod, inProcess = pod.call.inProcess) => {
    await handlers.cniDel({ ...pod.call, inProcess });
    await handlers.removeNetns({ path: pod.netns });
    const at = pods.indexOf(pod);
    if (at >= 0) pods.splice(at, 1);
  };
  const closing: (() => Promise<void>)[] = [];
  t.after(async () => {
    for (const close of closing.reverse()) await close();
    for (const pod of [...pods]) await remove(pod);
    for (const name of await bridges()) await sh(`ip link del ${name}`);
    removeTables(network);
    rmSync(dir, { recursive: true });
  });
  let made = 0;
  return {
    dir,
    network,
    remove,
    onClose: (close) => closing.push(close),
    async pod(plugins, more = {}) {
      const containerId = `${network}${++made}`;
      const netns = join(dir, 'netns', containerId);
      await handlers.createNetns({ path: netns, loopback: true });
      const attachment: CniAttachment = {
        network: { name: network, cniVersion: more.cniVersion ?? '1.0.0', plugins, source: 'test' },
        containerId,
        netns,
        ifName: 'eth0',
        args: more.args ?? [['IgnoreUnknown', '1']],
        capabilityArgs: more.capabilityArgs ?? {},
      };
      const call: CniCall = {
        attachment,
        binDirs: more.binDirs ?? BIN_DIRS,
        cacheDir: join(dir, 'cache'),
        timeoutMs: more.timeoutMs ?? 10_000,
        inProcess: more.inProcess ?? true,
      };
      const pod = { netns, call };
      pods.push(pod);
      return pod;
    },
    leases: () => listed(join(dir, 'ipam', network)).filter((name) => /^[0-9a-f.:]+$/.test(name) && name !== 'lock'),
    records: () => listed(join(dir, 'cache', 'results')),
    ipam: (ranges, more = {}) => ({ type: 'host-local', dataDir: join(dir, 'ipam'), ranges, ...more }),
  };
}

const listed = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder) : []);

async function bridges(): Promise<string[]> {
  const links = JSON.parse(await sh('ip -j link show type bridge')) as { ifname?: string }[];
  return links.flatMap(({ ifname }) => ifname ?? []);
}

type JsonObject = Record<string, unknown>;

/**
 * Links, addresses, routes and sysctls of the host and of a pod, with what is random replaced by what it stands for.
 */
export async function kernelState(netns: string): Promise<unknown> {
  const host = await stateOf();
  const pod = await stateOf(netns);
  const names = new Map<string, string>();
  for (const { ifname } of host.links as { ifname: string }[]) {
    if (/^veth[0-9a-f]{8}$/.test(ifname)) names.set(ifname, `veth#${names.size}`);
  }
  let text = JSON.stringify({ host, pod });
  for (const [name, stand] of names) text = text.replaceAll(name, stand);
  return JSON.parse(text);
}

async function stateOf(
  netns?: string,
): Promise<{ links: unknown[]; addresses: unknown; routes: unknown; sysctls: unknown }> {
  const json = async (command: string) => JSON.parse((await sh(command, netns)) || '[]') as JsonObject[];
  const links = (await json('ip -j -d link')).filter(({ ifname }) => ifname !== undefined);
  const addresses = await json('ip -j addr');
  const routes = [...(await json('ip -j route')), ...(await json('ip -j -6 route'))];
  const sysctls: Record<string, string> = {};
  for (const { ifname } of links) {
    const name = String(ifname);
    if (name === 'lo') continue;
    const keys = [
      'ipv4/conf/IF/arp_notify',
      'ipv4/conf/IF/route_localnet',
      'ipv6/conf/IF/accept_dad',
      'ipv6/conf/IF/accept_ra',
    ];
    for (const key of [...keys, 'ipv6/conf/IF/disable_ipv6']) {
      const path = `/proc/sys/net/${key.replace('IF', name)}`;
      sysctls[key.replace('IF', name)] = (await sh(`cat ${path}`, netns)).trim();
    }
  }
  for (const key of ['ipv4/ip_forward', 'ipv6/conf/all/forwarding']) {
    sysctls[key] = (await sh(`cat /proc/sys/net/${key}`, netns)).trim();
  }
  return {
    links: links.map(linkOf),
    addresses: addresses.map(({ ifname, addr_info }) => ({
      ifname,
      addresses: (addr_info as JsonObject[]).map(addressOf),
    })),
    routes: routes.map(({ flags: _, ...route }) => route),
    sysctls,
  };
}

function linkOf({ ifname, mtu, operstate, flags, promiscuity, master, linkinfo }: JsonObject): JsonObject {
  const info = (linkinfo ?? {}) as { info_kind?: string; info_data?: JsonObject; info_slave_data?: JsonObject };
  const port = info.info_slave_data ?? {};
  return {
    ifname,
    mtu,
    operstate,
    flags,
    promiscuity,
    master,
    kind: info.info_kind,
    vlanFiltering: info.info_data?.vlan_filtering,
    port: { hairpin: port.hairpin, state: port.state, isolated: port.isolated },
  };
}

/** Link-local addresses follow the hardware address, which is random. */
function addressOf({ family, local, prefixlen, scope, broadcast, tentative }: JsonObject): JsonObject {
  return { family, local: scope === 'link' ? 'link-local' : local, prefixlen, scope, broadcast, tentative };
}

/**
 * Waits for no IPv6 address to be tentative any more: where the kernel looks for duplicates, it takes a second or two.
 */
export async function settle(netns?: string): Promise<void> {
  for (let waited = 0; waited < 5000; waited += 100) {
    if (!(await sh('ip -6 addr', netns)).includes('tentative')) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

export const readLease = (lab: Lab, name: string): string =>
  readFileSync(join(lab.dir, 'ipam', lab.network, name), 'utf8');

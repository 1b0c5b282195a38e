/**
 * The built-in network's connection to the outside: masquerading and forwarding rules. The bridge plugin's `ipMasq`
 * adds a chain per pod, which costs 15 ms of CPU and the xtables lock each time; one rule for the subnet, set at start,
 * has the same effect.
 */
import { SluiceError } from '../../errors.ts';
import { removeBridge } from '../../sys/link.ts';
import { run } from '../../sys/spawn.ts';
import { commandOf, type Executable } from '../programs.ts';
import { isIPv6Cidr } from './cidr.ts';
import { removeTables } from './in-process/firewall.ts';
import { findTool, programPath } from './programs.ts';
import { excerpt } from './result.ts';

export interface Uplink {
  bridge: string;
  /** CIDRs of the pods on the bridge. */
  subnets: string[];
}

const TIMEOUT_MS = 20_000;

/** Chains that the portmap plugin leaves in the nat table, in the order in which they can be deleted. */
const PORTMAP_CHAINS = ['CNI-HOSTPORT-DNAT', 'CNI-HOSTPORT-SETMARK', 'CNI-HOSTPORT-MASQ'];

/**
 * Adds the rules that let pods reach other networks: packets from the subnets to other destinations are masqueraded,
 * and accepted in FORWARD, whose default policy is DROP where Docker runs. Existing rules are kept. Throws CNI_FAILED
 * with the message of iptables.
 */
export async function openUplink(uplink: Uplink): Promise<void> {
  for (const { subnet, table, position, rule } of rules(uplink)) {
    const there = await tryIptables(subnet, ['-t', table, '-C', ...rule]);
    if (there.code !== 0) await runIptables(subnet, ['-t', table, position, ...rule]);
  }
}

/**
 * Deletes the bridge, the network's tables of nf_tables and the rules of {@link openUplink}, and the chains of the
 * portmap plugin when no pod of any runtime has a mapped port. Absent ones are ignored. Throws CNI_FAILED or
 * NAMESPACE_FAILED.
 */
export async function closeUplink(uplink: Uplink): Promise<void> {
  for (const { subnet, table, rule } of rules(uplink)) {
    if ((await findIptables(subnet)) === undefined) continue;
    while ((await tryIptables(subnet, ['-t', table, '-C', ...rule])).code === 0) {
      await runIptables(subnet, ['-t', table, '-D', ...rule]);
    }
  }
  for (const subnet of uplink.subnets)
    if ((await findIptables(subnet)) !== undefined) await removePortmapChains(subnet);
  try {
    removeTables(uplink.bridge); // the built-in network has the name of its bridge
    removeBridge(uplink.bridge);
  } catch (cause) {
    throw new SluiceError('NAMESPACE_FAILED', `the bridge ${uplink.bridge} could not be deleted`, { cause });
  }
}

interface Rule {
  subnet: string;
  table: 'nat' | 'filter';
  /** -A appends; -I inserts before rules of others that may reject. */
  position: '-A' | '-I';
  /** Chain and rule, the arguments of -C, -A, -I and -D. */
  rule: string[];
}

function rules({ bridge, subnets }: Uplink): Rule[] {
  const comment = ['-m', 'comment', '--comment', `${bridge}: the built-in pod network`];
  const answers = ['-m', 'conntrack', '--ctstate', 'RELATED,ESTABLISHED,DNAT'];
  return subnets.flatMap((subnet): Rule[] => [
    {
      subnet,
      table: 'nat',
      position: '-A',
      rule: ['POSTROUTING', '-s', subnet, '!', '-d', subnet, '!', '-o', bridge, ...comment, '-j', 'MASQUERADE'],
    },
    {
      subnet,
      table: 'filter',
      position: '-I',
      rule: ['FORWARD', '-s', subnet, '-i', bridge, ...comment, '-j', 'ACCEPT'],
    },
    {
      subnet,
      table: 'filter',
      position: '-I',
      rule: ['FORWARD', '-d', subnet, '-o', bridge, ...answers, ...comment, '-j', 'ACCEPT'],
    },
  ]);
}

async function removePortmapChains(subnet: string): Promise<void> {
  const listing = await tryIptables(subnet, ['-t', 'nat', '-S']);
  if (listing.code !== 0) return; // no nat table, so there are no chains
  const rules = listing.stdout.split('\n').filter((line) => line.startsWith('-A '));
  if (rules.some((rule) => rule.startsWith('-A CNI-HOSTPORT-DNAT ') || /^-A CNI-DN-/.test(rule))) return;
  for (const chain of PORTMAP_CHAINS) {
    if (!listing.stdout.includes(`-N ${chain}\n`)) continue;
    for (const rule of rules.filter((line) => line.includes(`-j ${chain}`))) {
      await runIptables(subnet, ['-t', 'nat', '-D', ...words(rule).slice(1)]);
    }
    await runIptables(subnet, ['-t', 'nat', '-F', chain]);
    await runIptables(subnet, ['-t', 'nat', '-X', chain]);
  }
}

/** Splits a line of `iptables -S`, in which only comments are quoted. */
function words(rule: string): string[] {
  return [...rule.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? '');
}

function findIptables(subnet: string): Promise<Executable | undefined> {
  return findTool(isIPv6Cidr(subnet) ? 'ip6tables' : 'iptables');
}

/**
 * Runs iptables for the subnet's address family and returns its exit status. Throws CNI_FAILED when it is not in PATH.
 */
async function tryIptables(
  subnet: string,
  args: string[],
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const found = await findIptables(subnet);
  if (!found) throw new SluiceError('CNI_FAILED', 'iptables is not in PATH');
  const env = { PATH: programPath() };
  // -w waits for the xtables lock, which plugins of other pods may hold.
  const ended = await run({ ...commandOf(found, ['-w', '10', ...args]), env, timeoutMs: TIMEOUT_MS });
  return { code: ended.code, stdout: ended.stdout.toString(), stderr: ended.stderr.toString() };
}

/** Like {@link tryIptables}, and throws CNI_FAILED on an exit status other than 0. */
async function runIptables(subnet: string, args: string[]): Promise<void> {
  const { code, stderr } = await tryIptables(subnet, args);
  if (code !== 0)
    throw new SluiceError('CNI_FAILED', `iptables ${args.join(' ')}: ${excerpt(stderr) || `exit ${code}`}`);
}

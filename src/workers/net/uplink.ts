/**
 * The built-in network's connection to the outside: masquerading and forwarding rules. The bridge plugin's `ipMasq`
 * adds a chain per pod, which costs 15 ms of CPU and the xtables lock each time; one rule for the subnet, set at start,
 * has the same effect.
 */
import { SluiceError } from '../../errors.ts';
import { removeBridge } from '../../sys/link.ts';
import { run } from '../../sys/spawn.ts';
import { commandOf } from '../programs.ts';
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
  for (const { tool, table, position, rule } of rules(uplink)) {
    const there = await tryIptables(tool, ['-t', table, '-C', ...rule]);
    if (there.code !== 0) await runIptables(tool, ['-t', table, position, ...rule]);
  }
}

/**
 * Deletes the bridge, the network's tables of nf_tables and all rules of {@link openUplink}, of earlier subnets too,
 * and the chains of the portmap plugin when no pod of any runtime has a mapped port. Absent ones are ignored. Throws
 * CNI_FAILED or NAMESPACE_FAILED.
 */
export async function closeUplink(bridge: string): Promise<void> {
  for (const tool of TOOLS) {
    if ((await findTool(tool)) === undefined) continue;
    for (const table of TABLES) {
      for (const rule of await rulesOf(tool, table)) {
        if (!rule.some((word) => word.startsWith(`${bridge}: `))) continue;
        await runIptables(tool, ['-t', table, '-D', ...rule]);
      }
    }
    await removePortmapChains(tool);
  }
  try {
    removeTables(bridge); // the built-in network has the name of its bridge
    removeBridge(bridge);
  } catch (cause) {
    throw new SluiceError('NAMESPACE_FAILED', `the bridge ${bridge} could not be deleted`, { cause });
  }
}

const TOOLS = ['iptables', 'ip6tables'] as const;
const TABLES = ['nat', 'filter'] as const;
type Tool = (typeof TOOLS)[number];

interface Rule {
  tool: Tool;
  table: (typeof TABLES)[number];
  /** -A appends; -I inserts before rules of others that may reject. */
  position: '-A' | '-I';
  /** Chain and rule, the arguments of -C, -A, -I and -D. */
  rule: string[];
}

function rules({ bridge, subnets }: Uplink): Rule[] {
  const comment = ['-m', 'comment', '--comment', `${bridge}: the built-in pod network`];
  const answers = ['-m', 'conntrack', '--ctstate', 'RELATED,ESTABLISHED,DNAT'];
  return subnets.flatMap((subnet): Rule[] => {
    const tool = isIPv6Cidr(subnet) ? 'ip6tables' : 'iptables';
    return [
      {
        tool,
        table: 'nat',
        position: '-A',
        rule: ['POSTROUTING', '-s', subnet, '!', '-d', subnet, '!', '-o', bridge, ...comment, '-j', 'MASQUERADE'],
      },
      {
        tool,
        table: 'filter',
        position: '-I',
        rule: ['FORWARD', '-s', subnet, '-i', bridge, ...comment, '-j', 'ACCEPT'],
      },
      {
        tool,
        table: 'filter',
        position: '-I',
        rule: ['FORWARD', '-d', subnet, '-o', bridge, ...answers, ...comment, '-j', 'ACCEPT'],
      },
    ];
  });
}

/**
 * Takes the chains of the portmap plugin away, and what leads to them, unless a pod of any runtime has a mapped port.
 * Throws CNI_FAILED with the message of iptables.
 */
export async function removePortmapChains(tool: Tool): Promise<void> {
  const listing = await tryIptables(tool, ['-t', 'nat', '-S']);
  if (listing.code !== 0) return; // no nat table, so there are no chains
  const rules = appended(listing.stdout);
  if (rules.some(([chain = '']) => chain === 'CNI-HOSTPORT-DNAT' || chain.startsWith('CNI-DN-'))) return;
  for (const chain of PORTMAP_CHAINS) {
    if (!listing.stdout.includes(`-N ${chain}\n`)) continue;
    for (const rule of rules.filter((words) => words[words.indexOf('-j') + 1] === chain)) {
      await runIptables(tool, ['-t', 'nat', '-D', ...rule]);
    }
    await runIptables(tool, ['-t', 'nat', '-F', chain]);
    await runIptables(tool, ['-t', 'nat', '-X', chain]);
  }
}

/** Chain and rule, word by word, of all rules of a table; none where the kernel has no such table. */
async function rulesOf(tool: Tool, table: Rule['table']): Promise<string[][]> {
  const { code, stdout } = await tryIptables(tool, ['-t', table, '-S']);
  return code === 0 ? appended(stdout) : [];
}

const appended = (listing: string): string[][] =>
  listing
    .split('\n')
    .filter((line) => line.startsWith('-A '))
    .map((line) => words(line).slice(1));

/** Splits a line of `iptables -S`, in which only comments are quoted. */
function words(rule: string): string[] {
  return [...rule.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? '');
}

/** Runs iptables and returns its exit status. Throws CNI_FAILED when it is not in PATH. */
async function tryIptables(
  tool: Tool,
  args: string[],
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const found = await findTool(tool);
  if (!found) throw new SluiceError('CNI_FAILED', `${tool} is not in PATH`);
  const env = { PATH: programPath() };
  // -w waits for the xtables lock, which plugins of other pods may hold.
  const ended = await run({ ...commandOf(found, ['-w', '10', ...args]), env, timeoutMs: TIMEOUT_MS });
  return { code: ended.code, stdout: ended.stdout.toString(), stderr: ended.stderr.toString() };
}

/** Like {@link tryIptables}, and throws CNI_FAILED on an exit status other than 0. */
async function runIptables(tool: Tool, args: string[]): Promise<void> {
  const { code, stderr } = await tryIptables(tool, args);
  if (code !== 0)
    throw new SluiceError('CNI_FAILED', `${tool} ${args.join(' ')}: ${excerpt(stderr) || `exit ${code}`}`);
}

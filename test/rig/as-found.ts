/**
 * What pods leave on a machine although all of them are gone, as with any runtime: the cgroup that their cgroups were
 * in, which runc makes and nobody removes, and the chains that the portmap plugin keeps for the next pod.
 */
import { existsSync, globSync, readdirSync, readFileSync, realpathSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { removePortmapChains } from '../../src/workers/net/uplink.ts';
import { skipUnlessRoot } from './needs.ts';
import { run } from './proc.ts';

const TOP = '/sys/fs/cgroup';
const TOOLS = ['iptables', 'ip6tables'] as const;

/**
 * Remembers what there is of either, and at disposal takes away what has come since, as far as nothing is in it: a
 * cgroup with a process below it stays, and the chains stay while a pod of any runtime has a mapped port. Nothing is
 * done without root.
 */
export async function leaveAsFound(): Promise<AsyncDisposable> {
  if (skipUnlessRoot(...TOOLS)) return { [Symbol.asyncDispose]: () => Promise.resolve() };
  const groups = new Set(parents());
  const chains = new Set<string>();
  for (const tool of TOOLS) if (await hasPortmapChains(tool)) chains.add(tool);
  return {
    async [Symbol.asyncDispose]() {
      for (const group of parents()) if (!groups.has(group) && isEmpty(group)) removeEmpty(group);
      for (const tool of TOOLS) if (!chains.has(tool)) await removePortmapChains(tool);
    },
  };
}

/**
 * Cgroups directly below the root of each hierarchy that are named as a daemon's default parent or one of the rig's.
 * Those of paths.ts, with a process's number in them, belong to it: sweep() takes them.
 */
function parents(): string[] {
  const hierarchies = existsSync(join(TOP, 'cgroup.controllers')) ? [TOP] : globSync(`${TOP}/*/`);
  return [...new Set(hierarchies.map((one) => realpathSync(one)))]
    .flatMap((one) => globSync(join(one, 'sluice*/')))
    .filter((group) => !/\d+x\d+$/.test(group));
}

const below = (group: string) =>
  readdirSync(group, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => join(group, name));

const isEmpty = (group: string): boolean =>
  readFileSync(join(group, 'cgroup.procs'), 'utf8') === '' && below(group).every(isEmpty);

function removeEmpty(group: string): void {
  for (const one of below(group)) removeEmpty(one);
  try {
    rmdirSync(group);
  } catch (error) {
    // A daemon beside the tests has put a process into it, or a cgroup: it is in use, so it stays.
    if ((error as NodeJS.ErrnoException).code !== 'EBUSY') throw error;
  }
}

async function hasPortmapChains(tool: (typeof TOOLS)[number]): Promise<boolean> {
  const { stdout } = await run(tool, ['-t', 'nat', '-S'], { check: false });
  return stdout.includes('-N CNI-HOSTPORT-');
}

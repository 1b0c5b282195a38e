/** What a daemon with private folders and a private network has left on the machine. */
import { type Dirent, existsSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { HOLDER, namesInHolder } from '../../src/sys/holder.ts';
import type { RigNetwork } from './cni.ts';
import { processesOf, run, waitFor } from './proc.ts';

/** Mounts that a daemon has without pods: the rig's tmpfs for its state, and the holder of namespaces (holder.ts). */
const OF_DAEMON = /\/(tmpfs|held|held\/mnt)$/;

export interface Traces {
  /** Everything private lies below it. */
  folder: string;
  netnsDir: string;
  /** Last part of the cgroup parent that the rig gives its pods. */
  cgroup: string;
  network?: RigNetwork;
}

/** Mount points below the folder, innermost last. */
export function mountsBelow(folder: string): string[] {
  const points: string[] = [];
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const point = line.split(' ')[4]?.replaceAll('\\040', ' ');
    if (point?.startsWith(`${folder}/`)) points.push(point);
  }
  return points;
}

/** The folders of a top-level cgroup, one in each hierarchy that has it. */
export function cgroupsOf(name: string): string[] {
  const found: string[] = [];
  const top = '/sys/fs/cgroup';
  if (!existsSync(top)) return found;
  for (const entry of ['.', ...readdirSync(top)]) {
    const dir = join(top, entry, name);
    // crun makes folders where it expects a hierarchy, also where none is mounted: those are none of the kernel's.
    if (existsSync(join(dir, 'cgroup.procs'))) found.push(dir);
  }
  return found;
}

/**
 * Removes a cgroup with those below it, and throws when it stays (a process in it, say). An absent one is fine. Only
 * rmdir works: the files in it belong to the kernel.
 */
export function removeCgroupTree(folder: string): void {
  if (!existsSync(folder)) return;
  for (const entry of readdirSync(folder, { withFileTypes: true }))
    if (entry.isDirectory()) removeCgroupTree(join(folder, entry.name));
  rmdirSync(folder);
}

/** One line for each thing that a pod had and that is still there; none when all is gone. */
export async function podTraces(traces: Traces): Promise<string[]> {
  const left: string[] = [];
  if (existsSync(traces.netnsDir)) for (const ns of readdirSync(traces.netnsDir)) left.push(`namespace ${ns}`);
  for (const p of processesOf(traces.folder)) {
    if (/shim|runc|crun/.test(p.command)) left.push(`process ${p.pid} ${p.command.slice(0, 160)}`);
  }
  for (const mount of mountsBelow(traces.folder)) {
    if (!OF_DAEMON.test(mount)) left.push(`mount ${mount}`);
    if (mount.endsWith(`/${HOLDER}`)) left.push(...namesInHolder(mount).map((name) => `held namespace ${name}`));
  }
  for (const group of cgroupsOf(traces.cgroup)) {
    for (const child of readdirSync(group, { withFileTypes: true })) {
      if (child.isDirectory()) left.push(`cgroup ${join(group, child.name)}`);
    }
  }
  if (traces.network) {
    for (const address of traces.network.addresses()) left.push(`address ${address}`);
    for (const veth of await traces.network.veths()) left.push(`veth ${veth}`);
    for (const rule of await traces.network.rules()) left.push(`iptables ${rule}`);
  }
  return left;
}

/** Throws when something is still there after `graceMs` (shims and namespaces end a moment after the answer). */
export async function assertNoTraces(traces: Traces, graceMs = 5000): Promise<void> {
  let left: string[] = [];
  try {
    await waitFor('no traces', graceMs, async () => {
      left = await podTraces(traces);
      return left.length === 0 || undefined;
    });
  } catch {
    throw new Error(`left behind:\n  ${left.join('\n  ')}`);
  }
}

/** Takes away whatever a failed test left, so that the machine is as it was. Quick when nothing is there. */
export async function sweep(traces: Traces): Promise<void> {
  for (const p of processesOf(traces.folder)) kill(p.pid);
  for (const group of cgroupsOf(traces.cgroup)) {
    const paths = foldersIn(group);
    for (const path of paths) for (const pid of processesIn(join(path, 'cgroup.procs'))) kill(pid);
    for (const path of paths) await run('rmdir', [path], { check: false });
  }
  for (const mount of mountsBelow(traces.folder).reverse()) await run('umount', ['-l', mount], { check: false });
  await traces.network?.remove();
  if (mountsBelow(traces.folder).length > 0) throw new Error(`mounts below ${traces.folder} cannot be taken away`);
  rmSync(traces.folder, { recursive: true, force: true });
}

/**
 * The cgroup and those in it, each before the one that it is in; without those that have gone since they were listed:
 * pods are still being removed, or another sweep is under way.
 */
function foldersIn(group: string): string[] {
  let children: Dirent[];
  try {
    children = readdirSync(group, { withFileTypes: true });
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
  const folders = children.filter((child) => child.isDirectory());
  return [...folders.flatMap((child) => foldersIn(join(group, child.name))), group];
}

function processesIn(file: string): number[] {
  try {
    return readFileSync(file, 'utf8').split('\n').filter(Boolean).map(Number);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

/** A cgroup that is being removed has no files any more, or says so for each of them. */
function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ENODEV';
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

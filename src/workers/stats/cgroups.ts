/**
 * Finds the cgroups of a container or pod: one folder per controller on v1, one for all on v2, both on hybrid systems.
 * It only reads: /proc, and the paths in the OCI spec and in the CRI request.
 */
import { existsSync } from 'node:fs';
import { join, relative } from 'node:path';
import { parseMountinfo } from '../../sys/mountinfo.ts';
import { readText } from './files.ts';

/** Absolute folders of one cgroup. */
export interface CgroupPaths {
  /** By v1 controller, or `name=systemd` for a named hierarchy. */
  v1: Record<string, string>;
  /** In the unified hierarchy; on a hybrid system it has pressure files and the controllers that v1 does not have. */
  unified?: string;
}

interface Hierarchy {
  mountpoint: string;
  /** The cgroup that the mount point shows; not "/" inside a container without a cgroup namespace. */
  root: string;
}

/** The mounted hierarchies. */
export interface CgroupMounts {
  v1: Record<string, Hierarchy>;
  unified?: Hierarchy;
}

/** Mount options of a v1 hierarchy that do not name controllers. */
const OPTIONS = new Set(['rw', 'ro', 'xattr', 'clone_children', 'noprefix', 'none', 'cpuset_v2_mode', 'favordynmods']);

/**
 * Parses the text of /proc/self/mountinfo. Of several mounts of one hierarchy the one under /sys/fs/cgroup is used,
 * otherwise the first.
 */
export function parseCgroupMounts(mountinfo: string): CgroupMounts {
  const mounts: CgroupMounts = { v1: {} };
  const better = (old: Hierarchy | undefined, path: string) =>
    old === undefined || (!old.mountpoint.startsWith('/sys/fs/cgroup') && path.startsWith('/sys/fs/cgroup'));
  for (const { type, root, mountPoint: mountpoint, superOptions } of parseMountinfo(mountinfo)) {
    if (type === 'cgroup2' && better(mounts.unified, mountpoint)) mounts.unified = { mountpoint, root };
    if (type !== 'cgroup') continue;
    for (const option of superOptions) {
      if (OPTIONS.has(option) || option.startsWith('release_agent=') || option === '') continue;
      if (better(mounts.v1[option], mountpoint)) mounts.v1[option] = { mountpoint, root };
    }
  }
  return mounts;
}

let mounted: CgroupMounts | undefined;

/** The hierarchies of this machine. They are mounted at boot and stay, so each thread reads them once. */
export function cgroupMounts(): CgroupMounts {
  mounted ??= parseCgroupMounts(readText('/proc/self/mountinfo') ?? '');
  return mounted;
}

/** The cgroups of a process, from the text of its /proc/<pid>/cgroup: `4:memory:/a/b` on v1, `0::/a/b` on v2. */
export function parseProcessCgroups(text: string, mounts: CgroupMounts): CgroupPaths {
  const paths: CgroupPaths = { v1: {} };
  for (const line of text.split('\n')) {
    const match = /^(\d+):([^:]*):(.*)$/.exec(line);
    if (!match) continue;
    const [, id, controllers = '', path = ''] = match;
    if (id === '0' && controllers === '') {
      if (mounts.unified) paths.unified = inside(mounts.unified, path);
      continue;
    }
    for (const controller of controllers.split(',')) {
      const hierarchy = mounts.v1[controller];
      if (hierarchy) paths.v1[controller] = inside(hierarchy, path);
    }
  }
  return paths;
}

/** The cgroups of a process; undefined when it has ended. */
export function cgroupsOfProcess(pid: number, mounts: CgroupMounts = cgroupMounts()): CgroupPaths | undefined {
  const text = pid > 0 ? readText(`/proc/${pid}/cgroup`) : undefined;
  return text === undefined || text === '' ? undefined : parseProcessCgroups(text, mounts);
}

/**
 * The cgroups of an OCI `linux.cgroupsPath`: a path (cgroupfs driver), or `slice:prefix:name` (systemd driver), from
 * which systemd makes nested slices that contain the scope `prefix-name.scope`.
 */
export function cgroupsOfSpec(cgroupsPath: string, mounts: CgroupMounts = cgroupMounts()): CgroupPaths {
  const parts = cgroupsPath.split(':');
  const [slice = '', prefix = '', name = ''] = parts;
  if (parts.length !== 3) return everywhere(cgroupsPath, mounts);
  const unit = name.endsWith('.slice') ? name : `${prefix === '' ? '' : `${prefix}-`}${name}.scope`;
  return everywhere(join(expandSlice(slice || 'system.slice'), unit), mounts);
}

/** The cgroups of a CRI `cgroup_parent`: a path, or the bare name of a slice. */
export function cgroupsOfParent(cgroupParent: string, mounts: CgroupMounts = cgroupMounts()): CgroupPaths {
  const bare = cgroupParent.endsWith('.slice') && !cgroupParent.includes('/');
  return everywhere(bare ? expandSlice(cgroupParent) : cgroupParent, mounts);
}

/** `a-b-c.slice` is `/a.slice/a-b.slice/a-b-c.slice`; `-.slice` is the root (systemd.slice(5)). */
export function expandSlice(slice: string): string {
  const name = slice.replace(/^.*\//, '').replace(/\.slice$/, '');
  if (name === '-' || name === '') return '/';
  const parts = name.split('-');
  return `/${parts.map((_, i) => `${parts.slice(0, i + 1).join('-')}.slice`).join('/')}`;
}

/** Only folders that exist: for a controller that the runtime did not join, the numbers of a parent would be wrong. */
function everywhere(path: string, mounts: CgroupMounts): CgroupPaths {
  const paths: CgroupPaths = { v1: {} };
  for (const [controller, hierarchy] of Object.entries(mounts.v1)) {
    const folder = inside(hierarchy, path);
    if (existsSync(folder)) paths.v1[controller] = folder;
  }
  const folder = mounts.unified ? inside(mounts.unified, path) : undefined;
  if (folder !== undefined && existsSync(folder)) paths.unified = folder;
  return paths;
}

function inside({ mountpoint, root }: Hierarchy, path: string): string {
  const below = root === '/' || !`${path}/`.startsWith(`${root}/`) ? path : relative(root, path);
  return join(mountpoint, below);
}

export function isEmpty(paths: CgroupPaths): boolean {
  return paths.unified === undefined && Object.keys(paths.v1).length === 0;
}

/** The folder of the first of these v1 controllers that exists, or the unified folder. */
export function anyFolder(paths: CgroupPaths): string | undefined {
  for (const controller of ['pids', 'memory', 'cpu', 'cpuacct', 'name=systemd']) {
    const folder = paths.v1[controller];
    if (folder !== undefined) return folder;
  }
  return paths.unified;
}

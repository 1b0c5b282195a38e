import { readFileSync } from 'node:fs';

/** One mount, as /proc/<pid>/mountinfo (proc_pid_mountinfo(5)) and statmount(2) tell it. */
export interface MountPoint {
  /** Device of the file system, as `major:minor`. */
  device: string;
  /** Path inside the file system that is mounted: "/" unless it is a bind mount or a cgroup. */
  root: string;
  mountPoint: string;
  type: string;
  /** In a peer group: mounts below it propagate to the peers, and theirs to it. */
  shared: boolean;
  /** Receives the mounts of its master. */
  slave: boolean;
}

/** A line of the former, which has more. */
export interface MountLine extends MountPoint {
  /** Options of the file system, not those of the mount (nosuid and the like). */
  superOptions: string[];
}

/**
 * Parses the text of a mountinfo file, in the kernel's order: a later line with the same mount point lies on top. Lines
 * of another form are left out.
 */
export function parseMountinfo(text: string): MountLine[] {
  const table: MountLine[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    // The number of optional fields (shared:N, master:N) varies; a single hyphen ends them.
    const hyphen = fields.indexOf('-', 6);
    const [, , device, root, mountPoint] = fields;
    if (device === undefined || root === undefined || mountPoint === undefined || hyphen < 0) continue;
    const optional = fields.slice(6, hyphen);
    table.push({
      device,
      root: unescapeOctal(root),
      mountPoint: unescapeOctal(mountPoint),
      type: fields[hyphen + 1] ?? '',
      superOptions: (fields[hyphen + 3] ?? '').split(',').map(unescapeOctal),
      shared: optional.some((field) => field.startsWith('shared:')),
      slave: optional.some((field) => field.startsWith('master:')),
    });
  }
  return table;
}

/**
 * The mount that contains `path` (absolute, without symlinks): the longest mount point that is a prefix, and of equals
 * the last.
 */
export function mountOf(table: readonly MountPoint[], path: string): MountPoint | undefined {
  let best: MountPoint | undefined;
  for (const mount of table) {
    if (isUnder(path, mount.mountPoint) && mount.mountPoint.length >= (best?.mountPoint.length ?? 0)) best = mount;
  }
  return best;
}

/** Whether `path` is `folder` or lies below it. Both must be absolute and normalised. */
export function isUnder(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder.endsWith('/') ? folder : `${folder}/`);
}

/**
 * The mount points at or below `path`, the last mounted first, as this thread sees them. It reads the whole mount
 * table, which has some lines for each container of the node, so it belongs to clean-up that met something unexpected
 * and not to the launch.
 */
export function mountsBelow(path: string, table = readFileSync('/proc/self/mountinfo', 'utf8')): string[] {
  // Most calls find nothing, and one search in the text shows that without parsing a line.
  const written = path.replace(/[ \t\n\\]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`);
  if (!table.includes(` ${written}`)) return [];
  return parseMountinfo(table)
    .map(({ mountPoint }) => mountPoint)
    .filter((mountPoint) => mountPoint === path || mountPoint.startsWith(`${path}/`))
    .reverse();
}

/** The kernel writes space, tab, newline and backslash in paths as three octal digits: `\040`. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_match, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

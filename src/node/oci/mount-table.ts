/**
 * The fields of one line of /proc/self/mountinfo (proc_pid_mountinfo(5)) that mount propagation and option checks use.
 */
export interface MountPoint {
  mountPoint: string;
  type: string;
  superOptions: string[];
  /** Whether it is in a peer group: mounts below it propagate to its peers, and theirs to it. */
  shared: boolean;
  /** Whether it has a master, from which mounts propagate to it. */
  slave: boolean;
}

/**
 * Parses mountinfo. Keeps the kernel's order: of two lines with one mount point, the later is on top. Omits malformed
 * lines.
 */
export function parseMountTable(text: string): MountPoint[] {
  const table: MountPoint[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const dash = fields.indexOf('-', 6);
    const mountPoint = fields[4];
    if (mountPoint === undefined || dash < 0) continue;
    const optional = fields.slice(6, dash);
    table.push({
      mountPoint: mountPoint.replace(/\\([0-7]{3})/g, (_all, octal: string) =>
        String.fromCharCode(Number.parseInt(octal, 8)),
      ),
      type: fields[dash + 1] ?? '',
      superOptions: (fields[dash + 3] ?? '').split(','),
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

/** One line of /proc/self/mountinfo (proc(5)), as far as propagation and options need it. */
export interface MountPoint {
  mountPoint: string;
  type: string;
  superOptions: string[];
  /** Mounts below it reach its peers, and theirs reach it. */
  shared: boolean;
  /** Mounts of its master reach it. */
  slave: boolean;
}

/** Parses mountinfo, in the kernel's order: a later line at the same place lies on top. Lines it does not understand are left out. */
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

/** The mount that holds `path` (absolute, without symlinks): the longest mount point above it, the topmost of several. */
export function mountOf(table: readonly MountPoint[], path: string): MountPoint | undefined {
  let best: MountPoint | undefined;
  for (const mount of table) {
    if (isUnder(path, mount.mountPoint) && mount.mountPoint.length >= (best?.mountPoint.length ?? 0)) best = mount;
  }
  return best;
}

/** Is `path` the folder itself or below it? Both absolute and clean. */
export function isUnder(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder.endsWith('/') ? folder : `${folder}/`);
}

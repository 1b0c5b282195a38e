import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseMountinfo } from '../../sys/mountinfo.ts';
import { overlayPath } from '../../sys/overlay.ts';
import { cgroupMounts } from '../stats/cgroups.ts';
import { yielder } from '../yield.ts';

/** A cgroup of a container: its id with the cgroupfs driver, `sluice-<id>.scope` with systemd's. */
const NAME = /^(?:sluice-)?([0-9a-f]{64})(?:\.scope)?$/;
const DEEPEST = 8;

/**
 * Cgroups that are named after a pod or container of the daemon with this root folder. That takes a proof: an id that
 * belongs to it for another reason (`proven`), or a process in it whose root file system is below the folder.
 */
export async function findCgroups(
  root: string,
  proven: ReadonlySet<string>,
): Promise<{ owner: string; path: string }[]> {
  const { v1, unified } = cgroupMounts();
  const tops = new Set([...(unified ? [unified] : []), ...Object.values(v1)].map(({ mountpoint }) => mountpoint));
  const found: { owner: string; path: string }[] = [];
  const yieldIfDue = yielder();
  const walk = async (folder: string, depth: number): Promise<void> => {
    await yieldIfDue();
    for (const name of subfolders(folder)) {
      const path = join(folder, name);
      const owner = NAME.exec(name)?.[1];
      if (owner === undefined) {
        if (depth < DEEPEST) await walk(path, depth + 1);
      } else if (proven.has(owner) || runsOn(path, root)) found.push({ owner, path });
    }
  };
  for (const top of tops) await walk(top, 1);
  return found;
}

function subfolders(folder: string): string[] {
  try {
    const entries = readdirSync(folder, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []; // removed since its parent was read
    throw error;
  }
}

/** Whether the root file system of a process of the cgroup has its writable layer below `root`. */
function runsOn(cgroup: string, root: string): boolean {
  const [pid] = text(join(cgroup, 'cgroup.procs')).split('\n');
  if (!pid || pid === '0') return false;
  const upper = `upperdir=${overlayPath(join(root, 'snapshots'))}/`;
  const table = parseMountinfo(text(`/proc/${pid}/mountinfo`));
  return table.some(({ superOptions }) => superOptions.some((option) => option.startsWith(upper)));
}

/** The text of a file of the kernel; "" when the process or the cgroup has gone. */
function text(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'ENODEV' || code === 'EINVAL') return '';
    throw error;
  }
}

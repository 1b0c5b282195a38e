/** Lists what pods and containers leave on a machine, wherever a daemon with these folders may have put it. It changes nothing. */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { mountsBelow } from '../sys/mountinfo.ts';
import { listProcesses, shimOf } from './shim/processes.ts';
import { cwdOf } from './shim/program.ts';
import { cgroupsOfSpec, isEmpty } from './stats/cgroups.ts';

export interface LeftoverPlaces {
  root: string;
  state: string;
  /** Folder of the bundles of pods with their own user namespace. */
  usernsBundles: string;
  /** The daemon's CRI socket, which its shims have on their command line. */
  socket: string;
  /** linux.cgroupsPath of pods and containers that the daemon has had, by id: a cgroup shows by nothing else whose it is. */
  cgroups: Record<string, string>;
}

export interface Leftover {
  kind: 'mount' | 'shim' | 'snapshot' | 'cgroup' | 'bundle';
  /** Id of the pod or container that it belongs to; "" when the path names none. */
  id: string;
  /** Path, or the pid of a shim. */
  what: string;
}

/** Also with an ending, as the pinned namespaces of a sandbox have it. */
const ID = /^\.?([0-9a-f]{64})(?:\.\w+)?$/;

/** All of it, owned by a row or not. Each entry of the daemon's folders for pods and containers counts, whatever its name. */
export async function scanLeftovers(places: LeftoverPlaces): Promise<Leftover[]> {
  const { root, state, usernsBundles, socket, cgroups } = places;
  const found: Leftover[] = [];
  const folders = (kind: Leftover['kind'], ...names: string[]) => {
    for (const folder of names)
      for (const name of list(folder)) found.push({ kind, id: idOf(name), what: join(folder, name) });
  };
  folders('snapshot', join(root, 'snapshots'));
  folders('bundle', join(state, 'bundles'), usernsBundles, join(state, 'sandboxes'), join(state, 'containers'));
  folders('bundle', join(root, 'sandboxes'), join(root, 'containers'));

  const table = readFileSync('/proc/self/mountinfo', 'utf8');
  for (const folder of [root, state, usernsBundles]) {
    for (const mountPoint of mountsBelow(folder, table)) {
      // A file system of the daemon's own, mounted on the folder itself, is the administrator's.
      if (mountPoint === folder) continue;
      found.push({ kind: 'mount', id: mountPoint.split('/').map(idOf).find(Boolean) ?? '', what: mountPoint });
    }
  }
  for (const process of await listProcesses()) {
    const id = shimOf(socket, process);
    if (id !== undefined && cwdOf(process.pid) !== undefined)
      found.push({ kind: 'shim', id, what: String(process.pid) });
  }
  for (const [id, cgroupsPath] of Object.entries(cgroups)) {
    const paths = cgroupsOfSpec(cgroupsPath);
    if (!isEmpty(paths))
      found.push({ kind: 'cgroup', id, what: paths.unified ?? Object.values(paths.v1)[0] ?? cgroupsPath });
  }
  return found;
}

/** The id in the name of a folder, also of one that is being removed (a leading dot); "" for any other name. */
const idOf = (name: string): string => ID.exec(basename(name))?.[1] ?? '';

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

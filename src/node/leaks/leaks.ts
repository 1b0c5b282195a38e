import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findResources, type Places, type Resource } from '../../workers/leaks/find.ts';
import { cniGc } from '../../workers/net/gc.ts';
import type { Config } from '../config/config.ts';
import { daemonId } from '../network/daemon-id.ts';
import { networkInUse } from '../network/in-use.ts';
import { gcIsSafe } from '../network/network.ts';
import { readRows } from '../store/read-rows.ts';

/** Milliseconds between two looks: a pod that is removed is still there in the first and has no row in the second. */
const SECOND_LOOK_MS = 1000;

/** What the rows of the store name. */
export interface Owners {
  /** Ids of pods and containers. */
  ids: ReadonlySet<string>;
  /** Paths of namespaces. */
  netns: ReadonlySet<string>;
}

export function placesOf({ root, state, socket, cni, runtimes }: Config): Places {
  const roots = Object.values(runtimes).map(({ runtime_root }) => join(runtime_root, 'k8s.io'));
  return {
    root,
    state,
    socket,
    netnsDir: cni.netns_dir,
    netnsPrefix: `cni-${daemonId(root)}-`,
    cacheDir: cni.cache_dir,
    runtimeRoots: [...new Set(roots)],
  };
}

/**
 * Resources of this daemon that no row names, in two looks. `look` lists all resources; `owners` reads the rows and is
 * called after each look, so that a launch which begins meanwhile has its row.
 */
export async function findLeaks(
  places: Places,
  owners: () => Owners,
  look: (places: Places) => Promise<Resource[]> = findResources,
  pauseMs = SECOND_LOOK_MS,
): Promise<Resource[]> {
  const stray = async () => {
    const resources = await look(places);
    const { ids, netns } = owners();
    return resources.filter((one) => !ids.has(one.owner) && !netns.has(one.owner));
  };
  const first = await stray();
  if (first.length === 0) return [];
  await sleep(pauseMs);
  const before = new Set(first.map(nameOf));
  return (await stray()).filter((one) => before.has(nameOf(one)));
}

/** The key of a resource, unique among all. */
export function nameOf(resource: Resource): string {
  return `${resource.kind} ${resource.kind === 'shim' ? `process ${resource.pid}` : resource.path}`;
}

/** What the rows of a store name, read beside a daemon that may be running. Throws INVALID_REQUEST without a store. */
export function readOwners(root: string): Owners {
  const { sandboxes, containers } = readRows(root);
  return {
    // The pod that a shared shim was started for may be gone.
    ids: new Set([
      ...[...sandboxes, ...containers].map(({ id }) => id),
      ...sandboxes.flatMap(({ shim }) => shim?.leader ?? []),
    ]),
    netns: new Set(sandboxes.flatMap(({ netns, userns }) => [netns, userns].filter((one) => one !== undefined))),
  };
}

/**
 * What is taken in the network in use and belongs to no attachment, in words, where it is known whose everything is
 * ({@link gcIsSafe}). With `fix` it is given back. Throws CNI_FAILED or TIMED_OUT.
 */
export async function networkGarbage(config: Config, { fix }: { fix: boolean }): Promise<string[]> {
  const { cache_dir: cacheDir, bin_dirs: binDirs, timeout_seconds: seconds, in_process: inProcess } = config.cni;
  const network = await networkInUse(config);
  if (!network || !gcIsSafe(network, cacheDir)) return [];
  const valid = readRows(config.root).sandboxes.flatMap((row) => row.network ?? []);
  const timeoutMs = seconds * 1000;
  // Programs would miss the attachments that a daemon beside this one makes meanwhile.
  const how = { programs: false, dryRun: !fix };
  return (await cniGc({ network, binDirs, cacheDir, valid, timeoutMs, inProcess, ...how })).released;
}

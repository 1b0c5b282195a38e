/**
 * Looks for what this daemon has made and no row of its store names: the seven kinds of sluice_leaks_total. Rows are
 * written before what they name and deleted after it, so there should be nothing. It reads the kernel and the disk
 * first; the caller compares with rows that it reads afterwards, and looks twice, since a pod may be removed in
 * between.
 */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { namesInSync } from '../../sys/folder.ts';
import { HOLDER, heldPath, namesInHolder } from '../../sys/holder.ts';
import { parseMountinfo } from '../../sys/mountinfo.ts';
import { parseRecord } from '../net/record.ts';
import type { CniAttachment, NetworkConf } from '../net/types.ts';
import { listProcesses } from '../shim/processes.ts';
import { findCgroups } from './cgroups.ts';

export const LEAK_KINDS = ['netns', 'address', 'mount', 'shim', 'snapshot', 'cgroup', 'bundle'] as const;
export type LeakKind = (typeof LEAK_KINDS)[number];

/** One resource. `owner` is the id of its pod or container, or the path of its namespace: what a row would name. */
export type Resource = { owner: string } & (
  | { kind: 'netns' | 'mount' | 'snapshot' | 'cgroup' | 'bundle'; path: string }
  | { kind: 'shim'; pid: number; command: string }
  | { kind: 'address'; path: string; attachment: CniAttachment }
);

/** Where one daemon keeps things. */
export interface Places {
  root: string;
  state: string;
  /** The CRI socket, which every shim of the daemon has among its arguments. */
  socket: string;
  netnsDir: string;
  /** Beginning of the names of the daemon's namespaces. */
  netnsPrefix: string;
  cacheDir: string;
  /** Folders in which the OCI runtimes keep one folder per container. */
  runtimeRoots: string[];
}

/** Ids of pods and containers: 32 random bytes. */
const ID = /^[0-9a-f]{64}$/;
/** What is named after one: a leading dot marks what is being removed, an extension the kind of a namespace. */
const NAMED = /^\.?([0-9a-f]{64})(?:\.\w+)?$/;

/** Every resource of the daemon that can be found, owned or not. Throws when a folder cannot be read. */
export async function findResources(places: Places): Promise<Resource[]> {
  const { root, state } = places;
  const snapshots = foldersOf(join(root, 'snapshots')).map((one) => ({ kind: 'snapshot', ...one }) as const);
  const bundles = [
    join(state, 'bundles'),
    // Bundles of pods with a user namespace of their own.
    `${state}-userns`,
    ...[root, state].flatMap((top) => [join(top, 'sandboxes'), join(top, 'containers')]),
    ...places.runtimeRoots,
  ].flatMap((folder) => foldersOf(folder).map((one) => ({ kind: 'bundle', ...one }) as const));
  const found: Resource[] = [
    ...findNetns(places),
    ...findAddresses(places),
    ...findMounts(places),
    ...(await findShims(places)),
    ...snapshots,
    ...bundles,
  ];
  // A cgroup has nothing but an id in its name, and another runtime's looks the same.
  const proven = new Set(found.map(({ owner }) => owner));
  return [...found, ...(await findCgroups(root, proven)).map((one) => ({ kind: 'cgroup', ...one }) as const)];
}

/** What is named after a pod or container. */
function foldersOf(folder: string): { owner: string; path: string }[] {
  return named(namesInSync(folder), (name) => join(folder, name));
}

function named(names: readonly string[], pathOf: (name: string) => string): { owner: string; path: string }[] {
  return names.flatMap((name) => {
    const owner = NAMED.exec(name)?.[1];
    return owner === undefined ? [] : [{ owner, path: pathOf(name) }];
  });
}

/** Namespaces of all kinds: those of the network by their path, IPC and UTS of pods without a process by their pod. */
function findNetns({ netnsDir, netnsPrefix, state }: Places): Resource[] {
  const network = namesInSync(netnsDir)
    .filter((name) => name.startsWith(netnsPrefix))
    .map((name) => join(netnsDir, name))
    .map((path) => ({ owner: path, path }));
  const holder = join(state, HOLDER);
  const held = named(namesInHolder(holder), (name) => heldPath(holder, name));
  return [...network, ...foldersOf(join(state, 'ns')), ...held].map((one) => ({ kind: 'netns', ...one }));
}

/** Attachments in libcni's cache whose namespace is the daemon's. */
function findAddresses({ cacheDir, netnsPrefix }: Places): Resource[] {
  const results = join(cacheDir, 'results');
  return namesInSync(results).flatMap((name): Resource[] => {
    const path = join(results, name);
    const record = parseRecord(read(path));
    if (!record || typeof record.netns !== 'string' || !basename(record.netns).startsWith(netnsPrefix)) return [];
    let network: NetworkConf;
    try {
      network = JSON.parse(Buffer.from(record.config, 'base64').toString()) as NetworkConf;
    } catch {
      return []; // not written by Sluice or libcni
    }
    const { containerId, netns, ifName, cniArgs = [], capabilityArgs = {} } = record;
    const attachment = { network: { ...network, source: results }, containerId, netns, ifName, args: cniArgs };
    return [{ kind: 'address', owner: containerId, path, attachment: { ...attachment, capabilityArgs } }];
  });
}

function findMounts({ root, state }: Places): Resource[] {
  const tops = [root, state, `${state}-userns`].map((top) => `${top}/`);
  return parseMountinfo(read('/proc/self/mountinfo')).flatMap(({ mountPoint }): Resource[] => {
    if (!tops.some((top) => mountPoint.startsWith(top))) return [];
    if (mountPoint.startsWith(`${join(state, 'ns')}/`)) return []; // a namespace, which is a kind of its own
    const [owner] = mountPoint.split('/').flatMap((part) => NAMED.exec(part)?.[1] ?? []);
    return owner === undefined ? [] : [{ kind: 'mount', owner, path: mountPoint }];
  });
}

async function findShims({ socket }: Places): Promise<Resource[]> {
  return (await listProcesses()).flatMap(({ pid, argv }): Resource[] => {
    const value = (flag: string) => argv[argv.indexOf(flag) + 1] ?? '';
    const ours = argv.includes('-namespace') && argv.includes('-address') && value('-address') === socket;
    const owner = value('-id');
    return ours && ID.test(owner) ? [{ kind: 'shim', owner, pid, command: argv.join(' ') }] : [];
  });
}

/** The text of a file; "" when it has gone since the folder was read. */
function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw error;
  }
}

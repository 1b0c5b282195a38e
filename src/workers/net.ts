/**
 * The `net` pool: network namespaces and CNI. A namespace is made on this thread in one synchronous block; plugins run
 * as processes, and the thread is free meanwhile, so one thread serves many launches.
 */
import { writeFileSync } from 'node:fs';
import { explain, SluiceError } from '../errors.ts';
import * as holder from '../sys/holder.ts';
import { setLink } from '../sys/link.ts';
import { shrinkHeap } from '../sys/memory.ts';
import * as netns from '../sys/netns.ts';
import { isStranded } from '../sys/stranded-thread.ts';
import { createUserNetns, type UserNamespace } from '../sys/userns.ts';
import { cniAdd } from './net/add.ts';
import { cniCheck } from './net/check.ts';
import { cniDel } from './net/del.ts';
import { cniGc } from './net/gc.ts';
import { cniRelease } from './net/release.ts';
import { cniStatus } from './net/status.ts';
import { openUplink } from './net/uplink.ts';
import { serve } from './serve.ts';

export interface CreateNetns {
  path: string;
  /** Whether to bring `lo` up in the namespace. */
  loopback: boolean;
  /** Set for a pod with its own user namespace, which is made as well and owns the network namespace. */
  userns?: UserNamespace;
}

/** Pins a new network namespace at `path`. Throws NAMESPACE_FAILED; nothing is left then. */
async function createNetns({ path, loopback, userns }: CreateNetns): Promise<void> {
  await wrapFailure(`the network namespace ${path} could not be made`, () =>
    userns ? createUserNetns(path, userns, { loopback }) : netns.createNetns(path, { loopback }),
  );
}

/** Unpins the network namespace and the user namespace, if any. Absent ones are ignored. Throws NAMESPACE_FAILED. */
async function removeNetns({ path, userns }: { path: string; userns?: string }): Promise<void> {
  await wrapFailure(`the network namespace ${path} could not be removed`, () => {
    netns.unpinNamespace(path);
    if (userns !== undefined && userns !== '') netns.unpinNamespace(userns);
  });
}

export interface PinNamespaces {
  /** Paths at which the namespaces are pinned; a kind without a path is the host's. */
  paths: { net?: string; ipc?: string; uts?: string };
  /** Whether to bring `lo` up in the network namespace. */
  loopback: boolean;
  /** Hostname of the UTS namespace; "" keeps the host's. */
  hostname: string;
  /** Values by sysctl name, checked to belong to these namespaces. */
  sysctls: Record<string, string>;
}

/**
 * Pins the namespaces of a sandbox that has no process, with hostname and sysctls set. Throws NAMESPACE_FAILED; nothing
 * is left then.
 */
async function pinNamespaces({ paths, loopback, hostname, sysctls }: PinNamespaces): Promise<void> {
  await wrapFailure('the namespaces of the sandbox could not be made', () =>
    netns.pinNamespaces(paths, () => {
      if (paths.net !== undefined && loopback) setLink('lo', true);
      if (paths.uts !== undefined && hostname !== '') netns.setHostname(hostname);
      for (const [name, value] of Object.entries(sysctls)) setSysctl(name, value);
    }),
  );
}

/**
 * /proc/sys resolves net.*, kernel.* of IPC and UTS, and fs.mqueue.* by the namespaces of the thread that opens the
 * file.
 */
function setSysctl(name: string, value: string): void {
  // In a name "." separates and "/" stands for a "." that is part of a component (net.ipv4.conf.eth0/1.forwarding).
  const path = name.replace(/[./]/g, (char) => (char === '.' ? '/' : '.'));
  try {
    writeFileSync(`/proc/sys/${path}`, value);
  } catch (cause) {
    throw new Error(`the sysctl ${name} cannot be set to "${value}"`, { cause });
  }
}

/** Unpins the namespaces at `paths`. Absent ones are ignored. Throws NAMESPACE_FAILED. */
async function unpinNamespaces({ paths }: { paths: string[] }): Promise<void> {
  await wrapFailure('the namespaces of the sandbox could not be removed', () => {
    for (const path of paths) netns.unpinNamespace(path);
  });
}

/**
 * Opens the holder of `folder` (src/sys/holder.ts). Gives why that is impossible here, in which case namespaces are
 * held in the host's mount table.
 */
function openHolder({ folder }: { folder: string }): string | undefined {
  try {
    holder.openHolder(folder);
    return undefined;
  } catch (error) {
    if (isStranded(error)) throw error; // serve() then ends this thread
    return explain(error);
  }
}

/** Removes the holder of `folder` unless it holds something. */
async function dropHolder({ folder }: { folder: string }): Promise<void> {
  await wrapFailure('dropping the holder of namespaces', () => holder.dropHolder(folder));
}

/** True when a namespace is mounted at `path`; a reboot leaves a plain file there, or nothing. */
function namespaceExists({ path }: { path: string }): boolean {
  return netns.netnsExists(path);
}

async function wrapFailure(what: string, work: () => Promise<void> | void): Promise<void> {
  try {
    await work();
  } catch (cause) {
    if (isStranded(cause)) throw cause; // serve() then ends this thread
    throw new SluiceError('NAMESPACE_FAILED', what, { cause });
  }
}

export const handlers = {
  /** Answers: the pool's threads work. */
  ping: (_: null): null => null,
  shrinkHeap: (_: null) => shrinkHeap(),
  createNetns,
  removeNetns,
  pinNamespaces,
  unpinNamespaces,
  namespaceExists,
  openHolder,
  dropHolder,
  cniAdd,
  cniDel,
  cniCheck,
  cniGc,
  cniRelease,
  cniStatus,
  openUplink,
};
export type NetHandlers = typeof handlers;

export default serve(handlers);

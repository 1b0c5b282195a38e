/**
 * The `net` pool: network namespaces and CNI. Namespaces are made on this thread in one synchronous block. Plugins run
 * as separate processes while the thread serves other calls, so that one thread carries many launches.
 */
import { SluiceError } from '../errors.ts';
import * as netns from '../sys/netns.ts';
import { createUserNetns, type UserNamespace } from '../sys/userns.ts';
import { cniAdd } from './net/add.ts';
import { cniDel } from './net/del.ts';
import { cniStatus } from './net/status.ts';
import { closeUplink, openUplink } from './net/uplink.ts';
import { serve } from './serve.ts';

export interface CreateNetns {
  path: string;
  /** Set `lo` up in it. */
  loopback: boolean;
  /** For a pod with its own user namespace, which is made too and owns the network namespace. */
  userns?: UserNamespace;
}

/** Makes a network namespace and pins it at `path`. Throws NAMESPACE_FAILED, and leaves nothing behind then. */
async function createNetns({ path, loopback, userns }: CreateNetns): Promise<void> {
  await telling(`the network namespace ${path} could not be made`, () =>
    userns ? createUserNetns(path, userns, { loopback }) : netns.createNetns(path, { loopback }),
  );
}

/**
 * Removes the network namespace, and the user namespace where there is one; an absent one is fine. Throws
 * NAMESPACE_FAILED.
 */
async function removeNetns({ path, userns }: { path: string; userns?: string }): Promise<void> {
  await telling(`the network namespace ${path} could not be removed`, () => {
    netns.removeNetns(path);
    if (userns !== undefined && userns !== '') netns.removeNetns(userns);
  });
}

async function telling(what: string, work: () => Promise<void> | void): Promise<void> {
  try {
    await work();
  } catch (cause) {
    if (cause instanceof netns.StrandedThread) throw cause; // serve() exits this thread
    throw new SluiceError('NAMESPACE_FAILED', what, { cause });
  }
}

export const handlers = { createNetns, removeNetns, cniAdd, cniDel, cniStatus, openUplink, closeUplink };
export type NetHandlers = typeof handlers;

export default serve(handlers);

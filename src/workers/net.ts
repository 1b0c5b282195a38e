/**
 * The `net` pool: network namespaces and CNI. Namespaces are made on this thread in one synchronous go; plugins run as processes
 * of their own, and the thread is free meanwhile, so that one thread carries many launches.
 */
import { SluiceError } from '../errors.ts';
import * as netns from '../sys/netns.ts';
import { createUserNetns, type UserNamespace } from '../sys/userns.ts';
import { cniAdd } from './net/add.ts';
import { cniDel } from './net/del.ts';
import { cniStatus } from './net/status.ts';
import { openUplink } from './net/uplink.ts';
import { serve } from './serve.ts';

export interface CreateNetns {
  path: string;
  /** Bring `lo` up in it. */
  loopback: boolean;
  /** For a pod with a user namespace of its own: that one is made too, and owns the network namespace. */
  userns?: UserNamespace;
}

/** Pins a new network namespace at `path`. Throws NAMESPACE_FAILED, and leaves nothing then. */
async function createNetns({ path, loopback, userns }: CreateNetns): Promise<void> {
  await wrapFailure(`the network namespace ${path} could not be made`, () =>
    userns ? createUserNetns(path, userns, { loopback }) : netns.createNetns(path, { loopback }),
  );
}

/** Unpins the namespace, and the user namespace where there is one; what is not there is fine. Throws NAMESPACE_FAILED. */
async function removeNetns({ path, userns }: { path: string; userns?: string }): Promise<void> {
  await wrapFailure(`the network namespace ${path} could not be removed`, () => {
    netns.removeNetns(path);
    if (userns !== undefined && userns !== '') netns.removeNetns(userns);
  });
}

async function wrapFailure(what: string, work: () => Promise<void> | void): Promise<void> {
  try {
    await work();
  } catch (cause) {
    if (cause instanceof netns.StrandedThread) throw cause; // serve() ends this thread
    throw new SluiceError('NAMESPACE_FAILED', what, { cause });
  }
}

export const handlers = { createNetns, removeNetns, cniAdd, cniDel, cniStatus, openUplink };
export type NetHandlers = typeof handlers;

export default serve(handlers);

/**
 * The `net` pool: network namespaces and CNI. A namespace is made on this thread in one synchronous block; plugins run
 * as processes, and the thread is free meanwhile, so one thread serves many launches.
 */
import { SluiceError } from '../errors.ts';
import * as netns from '../sys/netns.ts';
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
    netns.removeNetns(path);
    if (userns !== undefined && userns !== '') netns.removeNetns(userns);
  });
}

async function wrapFailure(what: string, work: () => Promise<void> | void): Promise<void> {
  try {
    await work();
  } catch (cause) {
    if (cause instanceof netns.StrandedThread) throw cause; // serve() then ends this thread
    throw new SluiceError('NAMESPACE_FAILED', what, { cause });
  }
}

export const handlers = {
  createNetns,
  removeNetns,
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

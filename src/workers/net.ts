/**
 * The `net` pool: network namespaces and CNI. Namespaces are made on this thread in one synchronous go; plugins run as processes
 * of their own, and the thread is free meanwhile, so that one thread carries many launches.
 */
import { SluiceError } from '../errors.ts';
import { cniAdd } from './net/add.ts';
import { cniDel } from './net/del.ts';
import { cniStatus } from './net/status.ts';
import { closeUplink, openUplink } from './net/uplink.ts';
import { serve } from './serve.ts';
import * as netns from './sys/netns.ts';

/** Pins a new network namespace at `path`. Throws NAMESPACE_FAILED, and leaves nothing then. */
function createNetns({ path, loopback }: { path: string; loopback: boolean }): void {
  telling(`the network namespace ${path} could not be made`, () => netns.createNetns(path, { loopback }));
}

/** Unpins a namespace; one that is not there is fine. Throws NAMESPACE_FAILED. */
function removeNetns({ path }: { path: string }): void {
  telling(`the network namespace ${path} could not be removed`, () => netns.removeNetns(path));
}

function telling(what: string, work: () => void): void {
  try {
    work();
  } catch (cause) {
    if (cause instanceof netns.StrandedThread) throw cause; // serve() ends this thread
    throw new SluiceError('NAMESPACE_FAILED', what, { cause });
  }
}

export const handlers = { createNetns, removeNetns, cniAdd, cniDel, cniStatus, openUplink, closeUplink };
export type NetHandlers = typeof handlers;

export default serve(handlers);

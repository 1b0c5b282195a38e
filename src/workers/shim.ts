/**
 * The `shim` pool: bundles, shims, snapshots, mounts of rootfs and volumes, paths of the host that requests name, and
 * short file work for other parts of the daemon.
 */

import { shrinkHeap, trimMemory, unmapProgram } from '../sys/memory.ts';
import { checkNode } from './alive.ts';
import { removeCgroups, signalContainer } from './cgroup.ts';
import { copyFromImage } from './copy-from-image.ts';
import { hostPathHandlers } from './host-paths.ts';
import { installPause } from './image/install-pause.ts';
import { removeLayer } from './image/layers.ts';
import { lookUpUser } from './image/look-up-user.ts';
import { copySnapshot, fillSnapshot, linkSnapshot, mergeLayers } from './image/snapshots.ts';
import { findResources } from './leaks/find.ts';
import { serve } from './serve.ts';
import { endAbandoned } from './shim/abandoned.ts';
import { writeBundle } from './shim/bundle.ts';
import { cleanupShim } from './shim/cleanup.ts';
import { imageSubFolder } from './shim/image-volume.ts';
import { type BundleOwner, killAllLeftovers } from './shim/processes.ts';
import { removeBundle, removeWithMounts } from './shim/remove-bundle.ts';
import { mountImageVolume } from './shim/rootfs.ts';
import { removeSandboxFiles, sandboxFiles } from './shim/sandbox-files.ts';
import { prepareSnapshot, removeSnapshot } from './shim/snapshot.ts';
import { startShim } from './shim/start.ts';
import { tryOverlay } from './shim/try-overlay.ts';
import { statsHandlers } from './stats.ts';

export const handlers = {
  startShim,
  writeBundle,
  endAbandoned,
  cleanupShim,
  /** Kills the processes that dead shims have left of these bundles, with one scan of /proc. Returns their pids. */
  killLeftovers: ({ owners }: { owners: BundleOwner[] }): Promise<number[]> => killAllLeftovers(owners),
  removeBundle,
  /** A folder with whatever is in it; `mountPoints` are the places directly below it where something is mounted. */
  removeFolder: ({ path, mountPoints }: { path: string; mountPoints: string[] }): Promise<void> =>
    removeWithMounts(path, mountPoints),
  sandboxFiles,
  removeSandboxFiles,
  prepareSnapshot,
  removeSnapshot,
  copySnapshot,
  mergeLayers,
  fillSnapshot,
  linkSnapshot,
  mountImageVolume,
  imageSubFolder,
  copyFromImage,
  removeCgroups,
  signalContainer,
  checkNode,
  tryOverlay,
  lookUpUser,
  removeLayer,
  installPause,
  ...hostPathHandlers,
  findResources,
  shrinkHeap: (_: null) => shrinkHeap(),
  /** Both are about the whole process, and take some milliseconds. */
  trimMemory: (_: null) => {
    trimMemory();
    unmapProgram();
  },
  ...statsHandlers,
};

export default serve(handlers);

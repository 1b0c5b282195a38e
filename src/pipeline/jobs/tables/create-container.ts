import type { ContainerRow } from '../../../node/store/container.ts';
import { jobTable } from '../../engine/stage.ts';
import type { JobContext } from '../context.ts';
import {
  bundle,
  type ContainerCreation,
  files,
  image,
  paths,
  ready,
  reserve,
  rootfs,
  shim,
  spec,
  user,
  volumes,
} from '../stages/create-container.ts';

/**
 * A container's creation: everything but a process. The user is read from the image's own files while its folders are
 * made.
 *
 *     reserve → ┬→ image → ┬→ user ────┬→ spec ─┬→ bundle → ready
 *               │          ├→ volumes ─┤        │             │
 *               │          └→ rootfs ──┼────────┼─────────────┤
 *               ├→ paths ──────────────┘        │             │
 *               ├→ shim (pinned sandboxes) ─────┘             │
 *               └→ files (pinned sandboxes) ──────────────────┘
 */
export const createContainer = jobTable<ContainerCreation, ContainerRow, JobContext>('CreateContainer', [
  { name: 'reserve', needs: [], ...reserve },
  { name: 'image', needs: ['reserve'], ...image },
  { name: 'user', needs: ['image'], ...user },
  { name: 'volumes', needs: ['image'], ...volumes },
  { name: 'paths', needs: ['reserve'], ...paths },
  { name: 'rootfs', needs: ['image'], ...rootfs },
  { name: 'spec', needs: ['user', 'volumes', 'paths'], ...spec },
  { name: 'shim', needs: ['reserve'], ...shim },
  { name: 'files', needs: ['reserve'], ...files },
  { name: 'bundle', needs: ['spec', 'shim'], ...bundle },
  { name: 'ready', needs: ['bundle', 'files', 'rootfs'], ...ready },
]);

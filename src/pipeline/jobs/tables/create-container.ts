import type { ContainerRow } from '../../../node/store/container.ts';
import { jobTable } from '../../engine/stage.ts';
import type { JobContext } from '../context.ts';
import {
  bundle,
  type ContainerCreation,
  image,
  ready,
  reserve,
  rootfs,
  spec,
  user,
  volumes,
} from '../stages/create-container.ts';

/**
 * A container's creation: everything but a process. The user is read from the image's own files while its folders are made.
 *
 *     reserve → image → ┬→ user ────┬→ spec → files → ready
 *                       ├→ volumes ─┤
 *                       └→ rootfs ──┴→
 */
export const createContainer = jobTable<ContainerCreation, ContainerRow, JobContext>('CreateContainer', [
  { name: 'reserve', needs: [], ...reserve },
  { name: 'image', needs: ['reserve'], ...image },
  { name: 'user', needs: ['image'], ...user },
  { name: 'volumes', needs: ['image'], ...volumes },
  { name: 'rootfs', needs: ['reserve'], ...rootfs },
  { name: 'spec', needs: ['user', 'volumes'], ...spec },
  { name: 'files', needs: ['spec'], ...bundle },
  { name: 'ready', needs: ['files', 'rootfs'], ...ready },
]);

import type { ContainerRow } from '../../../node/store/rows.ts';
import { jobTable } from '../../engine/stage.ts';
import type { ContainerCreation } from '../creation.ts';
import { bundle, image, ready, reserve, rootfs, spec, user, volumes } from '../stages/create-container.ts';

/**
 * A container's creation: everything but a process. The user is read from the image's own files while its folders are made.
 *
 *     reserve → image → ┬→ user ────┬→ spec → files → ready
 *                       ├→ volumes ─┤
 *                       └→ rootfs ──┴→
 */
export const createContainer = jobTable<ContainerCreation, ContainerRow>('CreateContainer', [
  { name: 'reserve', needs: [], pool: 'main', ...reserve },
  { name: 'image', needs: ['reserve'], pool: 'main', ...image },
  { name: 'user', needs: ['image'], pool: 'image', ...user },
  { name: 'volumes', needs: ['image'], pool: 'shim', ...volumes },
  { name: 'rootfs', needs: ['reserve'], pool: 'shim', ...rootfs },
  { name: 'spec', needs: ['user', 'volumes'], pool: 'main', ...spec },
  { name: 'files', needs: ['spec'], pool: 'shim', ...bundle },
  { name: 'ready', needs: ['files', 'rootfs'], pool: 'main', ...ready },
]);

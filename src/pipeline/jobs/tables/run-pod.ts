import type { SandboxRow } from '../../../node/store/sandbox.ts';
import { jobTable } from '../../engine/stage.ts';
import type { JobContext } from '../context.ts';
import {
  create,
  files,
  image,
  netns,
  network,
  type PodLaunch,
  ready,
  reserve,
  rootfs,
  shim,
  spec,
  start,
} from '../stages/run-pod.ts';

/**
 * A pod launch, whole. Each line is a stage: its name, what it needs, and how it is done and undone.
 *
 *     reserve → ┬→ netns → network ─────────────────────┬→ ready
 *               ├→ image → ┬→ rootfs ─────────┐         │
 *               │          └→ spec ─┐         │         │
 *               └→ files ───────────┴→ shim → create → start
 *
 * A pinned sandbox has no process: it skips image, rootfs, files, spec, shim, create and start.
 * CNI ADD needs only the namespace and `create` only its path, so the two slow branches run side by side.
 */
export const runPod = jobTable<PodLaunch, SandboxRow, JobContext>('RunPodSandbox', [
  { name: 'reserve', needs: [], ...reserve },
  { name: 'netns', needs: ['reserve'], ...netns },
  { name: 'network', needs: ['netns'], ...network },
  { name: 'image', needs: ['reserve'], ...image },
  { name: 'rootfs', needs: ['image'], ...rootfs },
  { name: 'files', needs: ['reserve'], ...files },
  { name: 'spec', needs: ['image'], ...spec },
  { name: 'shim', needs: ['files', 'spec'], ...shim },
  { name: 'create', needs: ['shim', 'rootfs', 'netns'], ...create },
  { name: 'start', needs: ['create'], ...start },
  { name: 'ready', needs: ['start', 'network'], ...ready },
]);

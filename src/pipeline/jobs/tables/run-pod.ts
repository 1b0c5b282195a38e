import type { SandboxRow } from '../../../node/store/rows.ts';
import { jobTable } from '../../engine/stage.ts';
import type { PodLaunch } from '../launch.ts';
import { files } from '../stages/files.ts';
import { image } from '../stages/image.ts';
import { netns } from '../stages/netns.ts';
import { network } from '../stages/network.ts';
import { ready } from '../stages/ready.ts';
import { reserve } from '../stages/reserve.ts';
import { rootfs } from '../stages/rootfs.ts';
import { shim } from '../stages/shim.ts';
import { spec } from '../stages/spec.ts';
import { create, start } from '../stages/task.ts';

/**
 * A pod launch, whole. Each line is a stage: what it needs, where it works, how it is done and how it is undone.
 *
 *     reserve → ┬→ netns → network ─────────────────────┬→ ready
 *               ├→ image → ┬→ rootfs ─────────┐         │
 *               │          └→ spec ─┐         │         │
 *               └→ files ───────────┴→ shim → create → start
 *
 * CNI ADD wants no more than the namespace and `create` no more than its path, so the two slow branches run side by side.
 */
export const runPod = jobTable<PodLaunch, SandboxRow>('RunPodSandbox', [
  { name: 'reserve', needs: [], pool: 'main', ...reserve },
  { name: 'netns', needs: ['reserve'], pool: 'net', ...netns },
  { name: 'network', needs: ['netns'], pool: 'net', ...network },
  { name: 'image', needs: ['reserve'], pool: 'image', ...image },
  { name: 'rootfs', needs: ['image'], pool: 'shim', ...rootfs },
  { name: 'files', needs: ['reserve'], pool: 'shim', ...files },
  { name: 'spec', needs: ['image'], pool: 'main', ...spec },
  { name: 'shim', needs: ['files', 'spec'], pool: 'shim', ...shim },
  { name: 'create', needs: ['shim', 'rootfs', 'netns'], pool: 'main', ...create },
  { name: 'start', needs: ['create'], pool: 'main', ...start },
  { name: 'ready', needs: ['start', 'network'], pool: 'main', ...ready },
]);

import type { SandboxRow } from '../../main/store/rows.ts';
import type { PodLaunch } from '../launch.ts';
import { jobTable } from '../stage.ts';
import { files } from '../steps/files.ts';
import { image } from '../steps/image.ts';
import { netns } from '../steps/netns.ts';
import { network } from '../steps/network.ts';
import { ready } from '../steps/ready.ts';
import { reserve } from '../steps/reserve.ts';
import { rootfs } from '../steps/rootfs.ts';
import { shim } from '../steps/shim.ts';
import { spec } from '../steps/spec.ts';
import { create, start } from '../steps/task.ts';

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

/**
 * One launch of each configuration as a picture: what `sluice trace --svg` draws of it.
 *
 *   node test/bench/launch-pictures.ts [--folder docs/develop] [--sources]
 *
 * Writes launch-SIDE.svg for every configuration of sides.ts. Each daemon is warm, and launches nothing else meanwhile.
 */
import { rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { builtOrSystem } from '../rig/build.ts';
import type { SluiceDaemon } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { privateFolder, program, ROOT } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { launchPod, warmUp } from './pods.ts';
import { releaseFor, SOURCES } from './release.ts';
import { SIDE_NAMES, startSide } from './sides.ts';

const { values: options } = parseArgs({
  options: { folder: { type: 'string', default: join(ROOT, 'docs/develop') }, sources: SOURCES },
});

if (process.getuid?.() !== 0) throw new Error('needs root: it starts daemons');
const shim = await builtOrSystem('containerd-shim-runc-v2');
if (!shim) throw new Error('there is neither Go to build the shim with nor one in PATH');
const folder = privateFolder('sluice-bench');
const registry = await imageRegistry(folder);
try {
  const release = await releaseFor(folder, options);
  const sandboxImage = 'registry.k8s.io/pause:3.10';
  for (const [index, side] of SIDE_NAMES.entries()) {
    if (side === 'containerd') continue;
    await using daemon = await startSide(side, index, { registry, shim, runc: program('runc'), sandboxImage, release });
    await warmUp(daemon, []);
    const id = await launchPod(daemon, side);
    const file = resolve(options.folder, `launch-${side}.svg`);
    await run(join(ROOT, 'bin/sluice'), ['trace', id, '--metrics', (daemon as SluiceDaemon).metrics, '--svg', file]);
    console.log(file);
  }
} finally {
  await registry.stop();
  rmSync(folder, { recursive: true, force: true });
}

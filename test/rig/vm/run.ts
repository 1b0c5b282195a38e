/**
 * Tests in the workplace's VM, which has what most nodes have and the workplace has not: cgroup v2 alone, systemd,
 * AppArmor, every capability.
 *
 *   node test/rig/vm/run.ts [FILE...]     test files; the ones that differ there when none is given
 *
 * The machine is emulated: boot and set-up take a minute, the default files about ten. critest in it:
 * `npm run conformance -- --vm`.
 */
import { rmSync } from 'node:fs';
import { relative, resolve } from 'node:path';
import { imageRegistry } from '../images.ts';
import { privateFolder, ROOT } from '../paths.ts';
import { haveVm, inVm, NODE } from './machine.ts';

const FILES = ['test/integration/systemd.test.ts', 'test/integration/stats.test.ts', 'test/integration/oci.test.ts'];
const LIMIT_SECONDS = 3600;

if (haveVm()) {
  // The images are made here, where there is a network, and shared with the checkout.
  const folder = privateFolder('sluice-vm');
  await (await imageRegistry(folder)).stop();
  rmSync(folder, { recursive: true });
  const named = process.argv.slice(2).map((file) => relative(ROOT, resolve(file)));
  const files = named.length > 0 ? named : FILES;
  const test = [...NODE, '--test', '--test-concurrency=1', ...files];
  // The checkout is read-only there, and without a cache each of the daemon's threads compiles everything again.
  const env = ['NODE_COMPILE_CACHE=/var/cache/node'];
  process.exitCode = await inVm(test, { seconds: LIMIT_SECONDS, env });
}

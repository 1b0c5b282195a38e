/**
 * The Debian package in the workplace's VM, which has systemd: installed, started, used, upgraded with a running pod
 * while calls go on, killed, removed and purged (test/rig/package-scenario.ts); or every command of the guides, word
 * for word (test/rig/guide-scenario.ts).
 *
 *   node test/rig/vm/package.ts [--guides [PAGE.md...]]
 *
 * The machine is emulated: some ten minutes for the package, more than half an hour for all guides. No time in it means
 * anything.
 */
import { rmSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { built } from '../build.ts';
import { imageRegistry } from '../images.ts';
import { nextDeb, sharedPackages } from '../packages.ts';
import { privateFolder, ROOT } from '../paths.ts';
import { haveVm, INSIDE, inVm, NODE } from './machine.ts';

const LIMIT_SECONDS = 7200;

const { values, positionals } = parseArgs({ options: { guides: { type: 'boolean' } }, allowPositionals: true });
if (haveVm()) {
  const folder = privateFolder('sluice-vm');
  await (await imageRegistry(folder)).stop();
  rmSync(folder, { recursive: true });
  await built('crictl');
  const older = await sharedPackages();
  const newer = await nextDeb();
  const inside = [dirname(older.deb), newer].map((path) => join(INSIDE, relative(ROOT, path)));
  const names = [basename(older.deb), basename(newer)];
  const scenario = values.guides
    ? ['test/rig/guide-scenario.ts', ...positionals]
    : ['test/rig/package-scenario.ts', ...names];
  // What a page makes lies beside the packages, and the share is read-only.
  const copy = 'mkdir /var/packages && cp "$1"/* "$2" /var/packages/ && shift 2 && exec "$@" /var/packages';
  const node = [...NODE, ...scenario];
  process.exitCode = await inVm(['sh', '-c', copy, 'sh', ...inside, ...node], { seconds: LIMIT_SECONDS });
}

/**
 * The Debian package in the workplace's VM, which has systemd: installed, started, used, upgraded with a running pod
 * while calls go on, killed, removed and purged (test/rig/package-scenario.ts); or every command of the guides, word
 * for word (test/rig/guide-scenario.ts).
 *
 *   node test/rig/vm/package.ts [--guides]
 *
 * The machine is emulated: some ten minutes each. No time in it means anything.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, rmSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { makePackages } from '../../../scripts/release/package.ts';
import { built } from '../build.ts';
import { imageRegistry } from '../images.ts';
import { cacheFolder, privateFolder, ROOT } from '../paths.ts';
import { haveVm, INSIDE, VM, vmArguments } from './machine.ts';

const LIMIT_SECONDS = 3000;
/** The version to which the guide upgrades. */
const NEXT = '0.2.0';

const { values } = parseArgs({ options: { guides: { type: 'boolean' } } });
if (haveVm()) {
  const folder = privateFolder('sluice-vm');
  await (await imageRegistry(folder)).stop();
  rmSync(folder, { recursive: true });
  await built('crictl');
  const packages = cacheFolder('packages');
  const older = await makePackages({ out: join(packages, 'older'), quick: true });
  const newer = await makePackages({ out: join(packages, 'newer'), version: NEXT, quick: true });
  cpSync(newer.deb, join(packages, 'older', basename(newer.deb)));
  const inside = join(INSIDE, relative(ROOT, dirname(older.deb)));
  const names = [basename(older.deb), basename(newer.deb)];
  const scenario = values.guides ? ['test/rig/guide-scenario.ts'] : ['test/rig/package-scenario.ts', ...names];
  // What a page makes lies beside the packages, and the share is read-only.
  const copy = 'mkdir /var/packages && cp "$1"/* /var/packages/ && shift && exec "$@" /var/packages';
  const node = ['node', '--disable-warning=ExperimentalWarning', ...scenario];
  const child = spawn(VM, [...vmArguments({ seconds: LIMIT_SECONDS }), '--', 'sh', '-c', copy, 'sh', inside, ...node], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const [code] = (await once(child, 'exit')) as [number | null];
  process.exitCode = code ?? 1;
}

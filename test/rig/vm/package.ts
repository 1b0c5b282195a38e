/**
 * The Debian package in the workplace's VM, which has systemd: installed, started, used, upgraded with a running pod
 * while calls go on, killed, removed and purged (test/rig/package-scenario.ts).
 *
 *   node test/rig/vm/package.ts
 *
 * The machine is emulated: some ten minutes. No time in it means anything.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { makePackages } from '../../../scripts/release/package.ts';
import { VERSION } from '../../../src/version.ts';
import { imageRegistry } from '../images.ts';
import { cacheFolder, privateFolder, ROOT } from '../paths.ts';

const VM = '/work/shared/rig/vm';
const LIMIT_SECONDS = 3000;

if (!existsSync(VM)) console.log(`skipped: there is no ${VM} here`);
else {
  const folder = privateFolder('sluice-vm');
  await (await imageRegistry(folder)).stop();
  rmSync(folder, { recursive: true });
  const next = VERSION.replace(/\d+$/, (patch) => String(Number(patch) + 1));
  const packages = cacheFolder('packages');
  const older = await makePackages({ out: join(packages, 'older'), quick: true });
  const newer = await makePackages({ out: join(packages, 'newer'), version: next, quick: true });
  const inside = (file: string) => join('/src', relative(ROOT, file));
  const scenario = ['node', '--disable-warning=ExperimentalWarning', 'test/rig/package-scenario.ts'];
  const vm = ['run', '--share', `${ROOT}:/src:ro`, '--dir', '/src', '--mem', '4096', '--timeout', `${LIMIT_SECONDS}`];
  const child = spawn(VM, [...vm, '--', ...scenario, inside(older.deb), inside(newer.deb)], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const [code] = (await once(child, 'exit')) as [number | null];
  process.exitCode = code ?? 1;
}

/**
 * `npm run build`: the release as one folder, dist/sluice, that needs nothing else on the machine.
 *
 *   bin/        sluiced and sluice, which start what is below
 *   lib/        the bundles (bundle.ts), what V8 compiles them to (code-cache.ts), and koffi.node
 *   node        the Node binary
 *   licenses/   what each package in it is under
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, rmSync, statSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { VERSION } from '../../src/version.ts';
import { bundle } from './bundle.ts';
import { writeCodeCaches } from './code-cache.ts';
import { type ReleasedPackage, releasedPackages, writeLicences } from './packages.ts';

export const ROOT = resolve(import.meta.dirname, '../..');
export const DIST = join(ROOT, 'dist');

export interface Release {
  folder: string;
  version: string;
  packages: ReleasedPackage[];
  /** What the bundle imports and does not contain: Node's own modules, koffi.node, and optional packages. */
  externals: string[];
}

/**
 * Makes a release in `folder`, which is emptied first. The same tree gives the same bytes, whatever the folder. Throws
 * when a part is missing; strip (binutils) is needed.
 */
export async function buildRelease(folder: string, version = VERSION): Promise<Release> {
  rmSync(folder, { recursive: true, force: true });
  const lib = join(folder, 'lib');
  mkdirSync(lib, { recursive: true });
  const metafile = await bundle(lib, version);

  const { platform, arch } = process;
  const natives = [
    { from: 'node_modules/node/bin/node', to: join(folder, 'node'), mode: 0o755 },
    {
      from: `node_modules/@koromix/koffi-${platform}-${arch}/${platform}_${arch}/koffi.node`,
      to: join(lib, 'koffi.node'),
      mode: 0o644,
    },
  ];
  for (const { from, to, mode } of natives) {
    copyFileSync(join(ROOT, from), to);
    // Some 20 MiB of Node are names for debuggers. Native modules find Node by its dynamic symbols, which stay.
    execFileSync('strip', ['--strip-unneeded', to]);
    chmodSync(to, mode);
  }
  writeCodeCaches(join(folder, 'node'), lib);
  mkdirSync(join(folder, 'bin'));
  for (const name of ['sluiced', 'sluice']) {
    copyFileSync(join(ROOT, 'packaging/bin', name), join(folder, 'bin', name));
    chmodSync(join(folder, 'bin', name), 0o755);
  }
  copyFileSync(join(ROOT, 'packaging/lib/run-daemon.sh'), join(lib, 'run-daemon.sh'));
  const packages = releasedPackages(metafile);
  writeLicences(packages, join(folder, 'licenses'));
  const imports = Object.values(metafile.outputs).flatMap((output) => output.imports);
  const externals = new Set(imports.filter(({ external }) => external).map(({ path }) => path));
  return { folder, version, packages, externals: [...externals].sort() };
}

if (import.meta.main) {
  const { folder, version, packages } = await buildRelease(join(DIST, 'sluice'));
  const { size } = statSync(join(folder, 'node'));
  console.log(
    `sluice ${version} is in ${relative(process.cwd(), folder)}: ${packages.length} packages, of which Node is ${Math.round(size / 2 ** 20)} MiB`,
  );
}

/** The packages of this checkout, made once for all tests as long as nothing that goes into them changes. */
import { createHash } from 'node:crypto';
import { globSync, readFileSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { makeDebOnly, makePackages, type Packages, packageFiles, sourceDate } from '../../scripts/release/package.ts';
import { VERSION } from '../../src/version.ts';
import { madeOnce } from './once.ts';
import { CACHE, ROOT } from './paths.ts';

/** The version to which the guide upgrades. */
export const NEXT = '0.2.0';
/** What goes into a package, but for Node's own binary, which has a version. */
const SOURCES = ['src/**', 'proto/**', 'packaging/**', 'scripts/release/**', 'package*.json', 'LICENSE'];
const HOUR_MS = 60 * 60_000;

/** All packages of this version, with less compression than a release has. They are shared: read them only. */
export async function sharedPackages(): Promise<Packages> {
  return packageFiles(
    await kept(VERSION, async (out) => {
      await makePackages({ out, quick: true });
    }),
    VERSION,
  );
}

/** The Debian package of {@link NEXT}, which is this version under another name; likewise. */
export async function nextDeb(): Promise<string> {
  const folder = await kept(NEXT, async (out) => {
    await makeDebOnly({ out, version: NEXT, quick: true });
  });
  return packageFiles(folder, NEXT).deb;
}

async function kept(version: string, make: (out: string) => Promise<void>): Promise<string> {
  const key = contentKey();
  for (const old of globSync(`packages-${version}-*`, { cwd: CACHE })) {
    if (old.includes(key)) continue;
    const path = join(CACHE, old);
    // A run of a moment ago may still copy from it.
    if (Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) > HOUR_MS)
      rmSync(path, { recursive: true, force: true });
  }
  return madeOnce(`packages-${version}-${key}`, make);
}

/** Of every file that goes into the packages, and of the time that is written into them. */
function contentKey(): string {
  const hash = createHash('sha256').update(`${process.version} ${process.arch} ${sourceDate()}\n`);
  for (const file of globSync(SOURCES, { cwd: ROOT }).sort()) {
    const path = join(ROOT, file);
    if (!statSync(path).isFile()) continue;
    hash.update(`${file} ${statSync(path).mode & 0o111}\n`).update(readFileSync(path));
  }
  return hash.digest('hex').slice(0, 12);
}

if (import.meta.main) for (const file of Object.values(await sharedPackages())) console.log(basename(file));

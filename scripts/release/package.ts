/**
 * `npm run package [-- --quick]`: dist/packages with a .deb, an .rpm, a .tar.gz, the bill of materials and SHA256SUMS.
 * Two runs on the same commit make the same bytes: every time in them is SOURCE_DATE_EPOCH, or the last commit's.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { VERSION } from '../../src/version.ts';
import { buildRelease, DIST, type Release, ROOT } from './build.ts';
import { debName, makeDeb, type PackageOptions, RUNTIME_DEPENDENCIES } from './deb.ts';
import { makeRpm, rpmName } from './rpm.ts';
import { sbom, sha256 } from './sbom.ts';
import { same } from './stage.ts';

export interface Packages {
  deb: string;
  rpm: string;
  tarball: string;
  sbom: string;
  sums: string;
}

export interface PackagesOptions {
  out: string;
  version?: string;
  /** Less compression, in a fraction of the time. */
  quick?: boolean;
}

/** Makes all of them in `out`, which is emptied first. */
export async function makePackages(options: PackagesOptions): Promise<Packages> {
  return withRelease(options, (release, how) => {
    const files = packageFiles(how.out, release.version);
    const made = [makeDeb(release, how), makeRpm(release, how), makeTarball(release, how)];
    assert.deepEqual(made, [files.deb, files.rpm, files.tarball]);
    writeFileSync(files.sbom, sbom(release, RUNTIME_DEPENDENCIES, how.epoch));
    const lines = [...made, files.sbom].map((file) => `${sha256(file)}  ${basename(file)}\n`);
    writeFileSync(files.sums, lines.sort((a, b) => (a.slice(66) < b.slice(66) ? -1 : 1)).join(''));
    return files;
  });
}

/** Makes the Debian package alone, in a third of the time; the result is its path. */
export async function makeDebOnly(options: PackagesOptions): Promise<string> {
  return withRelease(options, makeDeb);
}

/** Where {@link makePackages} puts what. */
export function packageFiles(out: string, version: string): Packages {
  return {
    deb: join(out, debName(version)),
    rpm: join(out, rpmName(version)),
    tarball: join(out, `${tarballName(version)}.tar.gz`),
    sbom: join(out, `sluice-${version}.cdx.json`),
    sums: join(out, 'SHA256SUMS'),
  };
}

async function withRelease<T>(
  { out, version = VERSION, quick = false }: PackagesOptions,
  make: (release: Release, options: PackageOptions) => T,
): Promise<T> {
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  const work = mkdtempSync(join(tmpdir(), 'sluice-package-'));
  try {
    const release = await buildRelease(join(work, 'sluice'), version);
    return make(release, { out, work, epoch: sourceDate(), level: quick ? 0 : 6 });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

const tarballName = (version: string) => `sluice-${version}-${process.platform}-${process.arch}`;

/**
 * The release's folder with the units and an example of the configuration, for those who have another package manager.
 */
function makeTarball(release: Release, { out, work, epoch, level }: PackageOptions): string {
  const name = tarballName(release.version);
  const folder = join(work, 'tarball', name);
  mkdirSync(folder, { recursive: true });
  cpSync(release.folder, folder, { recursive: true });
  cpSync(join(ROOT, 'packaging/systemd'), join(folder, 'systemd'), { recursive: true });
  cpSync(join(ROOT, 'packaging/config.toml'), join(folder, 'config.toml'));
  cpSync(join(ROOT, 'LICENSE'), join(folder, 'LICENSE'));
  same(join(work, 'tarball'), epoch);
  const file = join(out, `${name}.tar.gz`);
  const tar = ['--sort=name', '--format=gnu', '--owner=0', '--group=0', '--numeric-owner', '-cf', '-', name];
  const gzip = `tar ${tar.join(' ')} | gzip -n -${level === 0 ? 1 : 9}`;
  execFileSync('sh', ['-c', `${gzip} >"$1"`, 'sh', file], { cwd: join(work, 'tarball') });
  return file;
}

/**
 * Seconds since 1970 that stand for every time in the packages. Throws outside a git checkout without
 * SOURCE_DATE_EPOCH.
 */
export function sourceDate(): number {
  const given = process.env.SOURCE_DATE_EPOCH;
  const text = given ?? execFileSync('git', ['log', '-1', '--format=%ct'], { cwd: ROOT, encoding: 'utf8' });
  const epoch = Number(text);
  if (!Number.isSafeInteger(epoch) || epoch <= 0) throw new Error(`no time to put into the packages: ${text}`);
  return epoch;
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { quick: { type: 'boolean' }, version: { type: 'string' } } });
  const made = await makePackages({ out: join(DIST, 'packages'), ...values });
  for (const file of Object.values(made)) {
    console.log(`${relative(process.cwd(), file)}  ${(statSync(file).size / 2 ** 20).toFixed(1)} MiB`);
  }
}

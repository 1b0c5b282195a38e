/** What of other people is in a release, and under which licence. */
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Metafile } from 'esbuild';

const ROOT = resolve(import.meta.dirname, '../..');

export interface ReleasedPackage {
  name: string;
  version: string;
  /** SPDX expression. */
  license: string;
  /** Files with the licence's text. */
  texts: string[];
}

/** The npm packages that have a file in the bundle, with Node itself and koffi's library, by name. */
export function releasedPackages({ inputs }: Metafile): ReleasedPackage[] {
  const folders = new Set(
    Object.keys(inputs).flatMap(
      (file) => /^node_modules\/(?:.+\/node_modules\/)?(?:@[^/]+\/)?[^/]+/.exec(file)?.[0] ?? [],
    ),
  );
  const all = [...folders].map((folder) => describe(join(ROOT, folder)));
  // Its library for this machine is a package of its own, without a text; koffi's is its as well.
  all.push({
    ...describe(join(ROOT, `node_modules/@koromix/koffi-${process.platform}-${process.arch}`)),
    texts: describe(join(ROOT, 'node_modules/koffi')).texts,
  });
  const nodeProgram = `node-${process.platform}-${process.arch}`;
  all.push({
    ...describe(join(ROOT, 'node_modules/node')),
    texts: [join(ROOT, 'node_modules/node/node_modules', nodeProgram, 'LICENSE')],
  });
  for (const one of all) {
    // Some packages name their licence and leave its text out.
    if (one.texts.length === 0 && /\bApache-2\.0\b/.test(one.license)) one.texts.push(join(ROOT, 'LICENSE'));
  }
  const bare = all.filter(({ texts }) => texts.length === 0 || !texts.every((file) => existsSync(file)));
  if (bare.length > 0)
    throw new Error(`no licence text for ${bare.map(({ name }) => name).join(', ')} (sh scripts/setup.sh --package)`);
  return all.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Copies every licence's text to `folder`, with a list of who is under what. */
export function writeLicences(packages: readonly ReleasedPackage[], folder: string): void {
  mkdirSync(folder);
  for (const { name, texts } of packages) {
    const own = name.replaceAll('/', '+');
    texts.forEach((file, at) => void copyFileSync(file, join(folder, at === 0 ? own : `${own}.${at + 1}`)));
  }
  const lines = packages.map(({ name, version, license }) => `${name} ${version}: ${license}`);
  writeFileSync(join(folder, 'INDEX'), `${lines.join('\n')}\n`);
}

function describe(folder: string): ReleasedPackage {
  const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Record<
    string,
    string
  >;
  if (!name || !version || !license) throw new Error(`${folder}/package.json lacks a name, version or license`);
  const texts = readdirSync(folder)
    .filter((file) => /^(licen[cs]e|copying|notice)/i.test(file))
    .sort()
    .map((file) => join(folder, file));
  return { name, version, license, texts };
}

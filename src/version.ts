import { readFileSync } from 'node:fs';

/**
 * The version, which the bundler (scripts/release/build.ts) writes in place of this name; in the tree there is no such
 * name.
 */
declare const SLUICE_RELEASE: string | undefined;

/** True in a release: bundled JavaScript in one folder, instead of TypeScript in the tree. */
export const BUNDLED = typeof SLUICE_RELEASE === 'string';

/** The version of Sluice, from package.json. */
export const VERSION: string = typeof SLUICE_RELEASE === 'string' ? SLUICE_RELEASE : versionOfTree();

function versionOfTree(): string {
  const manifest: { version: string } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  return manifest.version;
}

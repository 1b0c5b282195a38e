/** What the benchmarks start: a release, as users do, or the tree's sources when `--sources` asks for them. */
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { buildRelease } from '../../scripts/release/build.ts';

/** The flag for parseArgs, the same for all of them. */
export const SOURCES = { type: 'boolean', default: false } as const;

/** Builds a release below `folder`; undefined when the sources are wanted. Some three seconds. */
export async function releaseFor(folder: string, { sources }: { sources: boolean }): Promise<string | undefined> {
  return sources ? undefined : (await buildRelease(join(folder, 'release'))).folder;
}

/**
 * The sluiced of a release, in a copy of its own for each daemon: pages of one file that several daemons map count for
 * a part of each, and containerd shares its program with nobody.
 */
export function ownCopy(release: string, daemon: string): string {
  const copy = `${release}-${daemon}`;
  cpSync(release, copy, { recursive: true });
  return join(copy, 'bin/sluiced');
}

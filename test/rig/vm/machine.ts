/** The workplace's VM, for the scripts beside this one. */
import { existsSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../paths.ts';

export const VM = '/work/shared/rig/vm';
/** Where the checkout is in it, read-only. */
export const INSIDE = '/src';
/** One that is stopped while somebody measures takes its time. */
const BOOT_SECONDS = 1200;

/** Says why not where there is none. */
export function haveVm(): boolean {
  const have = existsSync(VM);
  if (!have) console.log(`skipped: there is no ${VM} here`);
  return have;
}

/** Arguments of {@link VM} up to the command. `memory` in MiB. */
export function vmArguments({ seconds, memory = 4096 }: { seconds: number; memory?: number }): string[] {
  const modules = realpathSync(join(ROOT, 'node_modules'));
  // In a worktree the packages are a link to those of the main one.
  const linked = modules.startsWith(ROOT) ? [] : ['--share', `${modules}:${modules}:ro`];
  return [
    ...['run', '--share', `${ROOT}:${INSIDE}:ro`, ...linked, '--dir', INSIDE, '--mem', String(memory)],
    ...['--timeout', String(seconds), '--boot-timeout', String(BOOT_SECONDS)],
  ];
}

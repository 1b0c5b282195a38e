/** The workplace's VM, for the scripts beside this one. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../paths.ts';
import { tidyAtSignal } from '../tidy.ts';

export const VM = '/work/shared/rig/vm';
/** Where the checkout is in it, read-only. */
export const INSIDE = '/src';
/** One that is stopped while somebody measures takes its time. */
const BOOT_SECONDS = 1200;

/**
 * Node for programs that strip their types there. V8's optimiser of WebAssembly, in which that is done, ends the
 * process now and then ("Check failed: it->second.Size() > offset"), on a slow machine more often; bin/sluiced has the
 * same options.
 */
export const NODE = ['node', '--no-wasm-tier-up', '--no-wasm-dynamic-tiering', '--disable-warning=ExperimentalWarning'];

/** Says why not where there is none. */
export function haveVm(): boolean {
  const have = existsSync(VM);
  if (!have) console.log(`skipped: there is no ${VM} here`);
  return have;
}

/** Runs a command in it; the result is its status. A signal that ends us ends the machine. */
export async function inVm(command: readonly string[], options: Parameters<typeof vmArguments>[0]): Promise<number> {
  const child = spawn(VM, [...vmArguments(options), '--', ...command], { stdio: ['ignore', 'inherit', 'inherit'] });
  const untidy = tidyAtSignal(async () => {
    child.kill('SIGTERM');
    await once(child, 'exit');
  });
  const [code] = (await once(child, 'exit')) as [number | null];
  untidy();
  return code ?? 1;
}

/** Arguments of {@link VM} up to the command. `memory` in MiB, `env` as NAME=VALUE. */
export function vmArguments({
  seconds,
  memory = 4096,
  env = [],
}: {
  seconds: number;
  memory?: number;
  env?: string[];
}): string[] {
  const modules = realpathSync(join(ROOT, 'node_modules'));
  // In a worktree the packages are a link to those of the main one.
  const linked = modules.startsWith(ROOT) ? [] : ['--share', `${modules}:${modules}:ro`];
  return [
    ...['run', '--share', `${ROOT}:${INSIDE}:ro`, ...linked, '--dir', INSIDE, '--mem', String(memory)],
    ...['--timeout', String(seconds), '--boot-timeout', String(BOOT_SECONDS)],
    ...env.flatMap((one) => ['--env', one]),
  ];
}

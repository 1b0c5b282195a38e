import { readlinkSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { type Executable, findExecutable, firstExecutable } from '../programs.ts';

/**
 * Finds a program by its absolute path, or by its name in PATH. Throws SHIM_FAILED with the places that were searched,
 * and TIMED_OUT for one that hangs; `what` names the program's part ("the shim").
 */
export async function findProgram(name: string, what: string, path = process.env.PATH ?? ''): Promise<Executable> {
  const result = await (isAbsolute(name) ? firstExecutable([name]) : findExecutable(name, path.split(':')));
  if (result.found) return result.found;
  const { refused } = result;
  const where = isAbsolute(name) ? 'there is no such program' : `there is no such program in PATH (${path})`;
  throw new SluiceError('SHIM_FAILED', `${what} ${name}: ${refused ? 'it may not be executed' : where}`, {
    cause: refused,
  });
}

/** Variables of the daemon's environment that shims and runtimes use; no others are passed on. */
const PASSED_ON = /^(PATH|HOME|TMPDIR|LANG|XDG_RUNTIME_DIR|DBUS_[A-Z_]+|OTEL_[A-Z_]+|SCHED_CORE|GODEBUG)$/;

/** The environment of shims and runtimes. */
export function environment(more: Record<string, string> = {}): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && PASSED_ON.test(name)) env[name] = value;
  }
  return { ...env, ...more };
}

/** The working directory of a process; undefined when it is gone. */
export function cwdOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw error;
  }
}

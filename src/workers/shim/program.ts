import { accessSync, constants, readlinkSync, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { SluiceError } from '../../errors.ts';

/** A program that was found: its absolute path, and a key that changes when the file is replaced by another. */
export interface Program {
  path: string;
  key: string;
}

/** Finds a program by its absolute path, or by its name in PATH. Throws SHIM_FAILED that says where it was looked for. */
export function findProgram(name: string, what: string, path = process.env.PATH ?? ''): Program {
  const candidates = isAbsolute(name)
    ? [name]
    : path
        .split(':')
        .filter(isAbsolute)
        .map((dir) => join(dir, name));
  let refused: unknown;
  for (const candidate of candidates) {
    const stat = statSync(candidate, { throwIfNoEntry: false });
    if (!stat?.isFile()) continue;
    try {
      accessSync(candidate, constants.X_OK);
      return { path: candidate, key: `${candidate}:${stat.dev}:${stat.ino}:${stat.mtimeMs}` };
    } catch (error) {
      refused = error;
    }
  }
  const where = isAbsolute(name) ? 'there is no such program' : `there is no such program in PATH (${path})`;
  throw new SluiceError('SHIM_FAILED', `${what} ${name}: ${refused ? 'it may not be executed' : where}`, {
    cause: refused,
  });
}

/** Variables of the daemon that shims and runtimes have a use for; the rest of its environment is its own business. */
const PASSED_ON = /^(PATH|HOME|TMPDIR|LANG|XDG_RUNTIME_DIR|DBUS_[A-Z_]+|OTEL_[A-Z_]+|SCHED_CORE|GODEBUG)$/;

/** The environment of shims and runtimes. */
export function environment(more: Record<string, string> = {}): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && PASSED_ON.test(name)) env[name] = value;
  }
  return { ...env, ...more };
}

/** Where /proc/<pid>/cwd leads; undefined when the process is gone. */
export function cwdOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw error;
  }
}

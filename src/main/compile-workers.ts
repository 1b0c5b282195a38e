/**
 * What the worker threads run, compiled before the first of them starts. Node strips types in WebAssembly, an instance
 * of 20 MiB for each thread that meets a file which is not in the compile cache; several such threads at once have
 * ended the whole process (V8: "Check failed: it->second.Size() > offset"; nodejs/node 64500 has its kin). So a process
 * of its own fills the cache, alone. A release has nothing to strip, and needs none of this.
 */
import { readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { getCompileCacheDir } from 'node:module';
import { join } from 'node:path';
import { explain } from '../errors.ts';
import { run } from '../sys/spawn.ts';
import { BUNDLED } from '../version.ts';

const SOURCES = ['src', 'proto'];
const LIMIT_MS = 120_000;

/**
 * Fills the compile cache where a source is newer than what it was last filled from. Costs a second then, else some
 * milliseconds. Returns what went wrong, which costs memory and the time to compile in each thread.
 */
export async function compileWorkers(): Promise<string | undefined> {
  if (BUNDLED) return undefined;
  const cache = getCompileCacheDir();
  if (cache === undefined)
    return 'Node keeps no compiled code (NODE_COMPILE_CACHE is unset, or its folder cannot be written)';
  const stamp = join(cache, 'sluice-workers');
  const began = new Date();
  try {
    const filled = statSync(stamp, { throwIfNoEntry: false })?.mtimeMs ?? 0;
    if (filled >= newestSource()) return undefined;
    const { code, stderr, timedOut } = await run({
      path: process.execPath,
      argv: [process.execPath, ...process.execArgv, join(import.meta.dirname, 'compile-worker-entries.ts')],
      env: Object.fromEntries(Object.entries(process.env).flatMap(([name, value]) => (value ? [[name, value]] : []))),
      timeoutMs: LIMIT_MS,
    });
    if (code !== 0) return timedOut ? `no end within ${LIMIT_MS / 1000} s` : stderr.toString().trim().slice(-1000);
    writeFileSync(stamp, '');
    utimesSync(stamp, began, began); // a source that changed meanwhile is newer
    return undefined;
  } catch (error) {
    return explain(error); // a cache that cannot be written must not keep the daemon from starting
  }
}

/**
 * When a file that threads may load last changed or was put there (packages bring older times of writing along), in
 * milliseconds.
 */
function newestSource(): number {
  const root = join(import.meta.dirname, '../..');
  const files = SOURCES.flatMap((dir) =>
    readdirSync(join(root, dir), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .map((file) => join(root, dir, file)),
  );
  return Math.max(...files.map((file) => statSync(file).ctimeMs));
}

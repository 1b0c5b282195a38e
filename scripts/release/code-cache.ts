/**
 * The code cache of each program of a release: what V8 compiles its text to. The daemon and the threads of each launch
 * have it with the functions that nobody has called yet, so that neither their start nor the first launches compile. It
 * is made by the Node of the release, since V8 takes only what the same V8 with the same options has written.
 *
 * Run as a program, `node --hash-seed=1 code-cache.ts FOLDER`, this file is what that Node does.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { Script } from 'node:vm';

const TEXT = '.bundle.js';
/**
 * The program of which only what runs when it is loaded is kept: of all its commands, a call runs one, and the rest of
 * the cache would be read for nothing.
 */
const IN_PART = `sluice${TEXT}`;

/** Writes NAME.cache beside each NAME.bundle.js in `lib`, and its name to the end of both. The same bytes each time. */
export function writeCodeCaches(node: string, lib: string): void {
  // Tables of names are in the order of their hashes, which are salted in each process.
  execFileSync(node, ['--hash-seed=1', '--disable-warning=ExperimentalWarning', import.meta.filename, lib], {
    env: {},
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

function compile(lib: string): void {
  for (const file of readdirSync(lib).filter((name) => name.endsWith(TEXT))) {
    const path = join(lib, file);
    const bundle = readFileSync(path, 'latin1').trimEnd();
    const id = createHash('sha256').update(bundle).digest('hex');
    const text = `${bundle}\n// ${id}`; // as packaging/lib/load.js looks for it
    writeFileSync(path, text, 'latin1');
    if (file !== IN_PART) setFlagsFromString('--no-lazy');
    const program = new Script(text, { filename: file });
    // V8 notes the options in what it writes: they have to be the daemon's, which are none.
    setFlagsFromString('--lazy');
    setFlagsFromString('--hash-seed=0');
    const cache = program.createCachedData();
    setFlagsFromString('--hash-seed=1');
    writeFileSync(path.replace(TEXT, '.cache'), Buffer.concat([Buffer.from(id, 'latin1'), cache]));
  }
}

if (import.meta.main) {
  const [lib] = process.argv.slice(2);
  if (lib === undefined) throw new Error('usage: code-cache.ts FOLDER');
  compile(lib);
}

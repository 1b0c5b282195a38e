/**
 * Copies of the store's rows as plain files, one a row: what a store that turns out broken at start is rebuilt from.
 * They are written a moment after the store itself, and without a sync: the pods of the state folder do not outlive a
 * power cut either.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** A file to be written, or without a text to be removed. */
export interface CopyChange {
  path: string;
  text?: string;
}

/** Writes and removes copies. Goes on after a failure, and throws the first one at the end. */
export function writeCopies({ changes }: { changes: readonly CopyChange[] }): void {
  const failures: unknown[] = [];
  for (const { path, text } of changes) {
    try {
      if (text === undefined) rmSync(path, { force: true });
      else writeCopy(path, text);
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
}

/** Makes the folder hold these copies and no others. */
export function syncCopies({ folder, copies }: { folder: string; copies: readonly { name: string; text: string }[] }) {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const wanted = new Map(copies.map(({ name, text }) => [name, text]));
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const text = wanted.get(name);
    if (text === undefined) rmSync(path, { recursive: true, force: true });
    else if (readFileSync(path, 'utf8') === text) wanted.delete(name);
  }
  writeCopies({ changes: [...wanted].map(([name, text]) => ({ path: join(folder, name), text })) });
}

function writeCopy(path: string, text: string): void {
  const temporary = `${path}.new`;
  try {
    writeFileSync(temporary, text, { mode: 0o600 });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true }); // on a full disk it is there, and empty
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    writeFileSync(temporary, text, { mode: 0o600 });
    renameSync(temporary, path);
  }
}

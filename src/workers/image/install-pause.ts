import { chmodSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { measureTree, type Usage } from '../measure-tree.ts';
import { pauseProgram } from './pause-program.ts';
import { settle, temporaryBeside } from './temporary.ts';

/**
 * Makes the only layer of the built-in pause image, which holds `DIR/fs/pause` alone. An existing folder stays as it
 * is.
 */
export async function installPause({ dir }: { dir: string }): Promise<Usage> {
  if (!existsSync(dir)) {
    const temporary = temporaryBeside(dir);
    try {
      mkdirSync(dirname(dir), { recursive: true, mode: 0o700 });
      mkdirSync(temporary, { mode: 0o700 });
      mkdirSync(`${temporary}/fs`, { mode: 0o755 });
      chmodSync(`${temporary}/fs`, 0o755); // whatever the umask is
      writeFileSync(`${temporary}/fs/pause`, pauseProgram(process.arch));
      chmodSync(`${temporary}/fs/pause`, 0o755);
      await settle(temporary, dir);
    } catch (error) {
      rmSync(temporary, { recursive: true, force: true });
      throw error;
    }
  }
  return measureTree(dir);
}

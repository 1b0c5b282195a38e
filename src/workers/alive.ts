import { accessSync, constants } from 'node:fs';
import { explain } from '../errors.ts';
import { findProgram } from './shim/program.ts';

export interface NodeCheck {
  /** Folders that the daemon writes to. */
  folders: string[];
  /** Programs that every launch runs, by what they are ("the shim"): absolute paths or names in PATH. */
  programs: Record<string, string>;
}

/**
 * Why the node cannot run pods, as far as files show it; empty when nothing is found. A full disk is not a reason:
 * stops go on, and the kubelet, which frees the disk, does not while the runtime is not ready. Answering at all shows
 * that the pool's threads work.
 */
export async function checkNode({ folders, programs }: NodeCheck): Promise<string[]> {
  const reasons: string[] = [];
  const check = async (look: () => unknown) => {
    try {
      await look();
    } catch (error) {
      reasons.push(explain(error));
    }
  };
  for (const folder of folders) await check(() => accessSync(folder, constants.W_OK)); // EROFS for a file system that became read-only
  for (const [what, program] of Object.entries(programs)) await check(() => findProgram(program, what));
  return reasons;
}

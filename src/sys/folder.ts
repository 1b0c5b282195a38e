import { readdirSync } from 'node:fs';
import { readdir } from 'node:fs/promises';

/** The names in a folder; none when there is no such folder. Throws what readdir throws otherwise. */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

/** {@link namesIn} for threads that may wait for the disk. */
export function namesInSync(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

const isMissing = (error: unknown) => (error as NodeJS.ErrnoException).code === 'ENOENT';

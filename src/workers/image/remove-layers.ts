import { rm } from 'node:fs/promises';

/** Removes the folders of layers, with all they hold. Those that are gone already are fine. */
export async function removeLayers({ dirs }: { dirs: string[] }): Promise<void> {
  for (const dir of dirs) await rm(dir, { recursive: true, force: true, maxRetries: 3 });
}

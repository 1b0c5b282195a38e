import type { Store } from '../../node/store/store.ts';
import { namesIn } from '../../sys/folder.ts';
import { imageVolumesFolder } from './image-volumes.ts';

/** Ids of the images that pods, containers and image volumes were made from. */
export async function usedImages({ sandboxes, containers }: Store): Promise<Set<string>> {
  const used = new Set<string>();
  // A volume stays mounted as long as its pod, also without the container that wanted it.
  const folders = await Promise.all([...sandboxes.values()].map((row) => namesIn(imageVolumesFolder(row))));
  for (const name of folders.flat()) used.add(`sha256:${name}`);
  for (const row of sandboxes.values()) used.add(row.image);
  for (const row of containers.values()) used.add(row.image);
  return used;
}

import { join } from 'node:path';
import type { JobContext } from './context.ts';

const ARCHIVE = /\.tar(?:\.gz|\.zst)?$|\.tgz$/;

/**
 * Imports the archives of `images.import_folder` in the background, one after the other by name. Layers that are on the
 * node already are not unpacked again. A failure is logged, and the next archive comes.
 */
export async function importFolder({
  config,
  images,
  pools,
  log,
}: Pick<JobContext, 'config' | 'images' | 'pools' | 'log'>): Promise<void> {
  const folder = config.images.import_folder;
  if (folder === '') return;
  let names: string[];
  try {
    const all = await pools.shim.call('hostNames', { path: folder });
    if (!all) throw new Error('there is no such folder');
    names = all.filter((name) => ARCHIVE.test(name));
  } catch (err) {
    log.error({ folder, err }, 'images.import_folder cannot be read');
    return;
  }
  for (const name of names) {
    const held: string[] = [];
    try {
      const rows = await images.import(join(folder, name), { onHold: (id) => held.push(id) });
      log.info({ archive: name, images: rows.flatMap((row) => row.names) }, 'archive imported');
    } catch (err) {
      log.error({ archive: join(folder, name), err }, 'an archive of images.import_folder cannot be imported');
    } finally {
      images.release(held);
    }
  }
}

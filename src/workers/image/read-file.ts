/** Reads files of a stack of layers without mounting it, as overlayfs would show them. */
import { closeSync, constants, fstatSync, openSync, readlinkSync, readSync } from 'node:fs';
import { walkInRoot } from '../../sys/in-root.ts';
import { native, toBytes } from './byte-paths.ts';
import { invalid } from './invalid.ts';
import { hasMark, isOpaque, isWhiteout } from './opaque.ts';
import { look } from './root.ts';

export interface ReadFileInLayers {
  /** `fs` folders of the layers, topmost first. */
  dirs: string[];
  /** From the root of the image; symbolic links are followed inside it. */
  path: string;
  maxBytes: number;
}

/**
 * The text (UTF-8) of a regular file as a container of these layers sees it; undefined when the name does not exist or
 * is something else. Throws IMAGE_INVALID when the file is longer than `maxBytes` or its symbolic links form a circle.
 */
export function readFileInLayers({ dirs, path, maxBytes }: ReadFileInLayers): string | undefined {
  const file = findInLayers(dirs.map(toBytes), toBytes(path));
  if (file === undefined) return undefined;
  const fd = openSync(native(file), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const { size } = fstatSync(fd);
    if (size > maxBytes) throw invalid(`${path} of the image has ${size} bytes; at most ${maxBytes} are read`);
    const data = Buffer.alloc(size);
    let at = 0;
    for (let got = -1; got !== 0 && at < size; at += got) got = readSync(fd, data, at, size - at, at);
    return data.toString('utf8', 0, at);
  } finally {
    closeSync(fd);
  }
}

/** The path on the disk of the regular file that has this path in the image. */
export function findInLayers(layers: string[], path: string): string | undefined {
  // The folders from the root to the present one, each as the real folders that overlayfs merges in it, topmost first.
  let trail: string[][] = [layers];
  let found: string | undefined;
  walkInRoot(path.split('/'), {
    enter(name, rest) {
      const merged: string[] = [];
      for (const folder of trail.at(-1) ?? []) {
        const here = `${folder}/${name}`;
        const stats = look(here);
        if (!stats) {
          if (hasMark(folder, name)) break;
          continue;
        }
        if (stats.isDirectory()) {
          merged.push(here);
          if (isOpaque(here) || hasMark(folder, name)) break;
          continue;
        }
        // A whiteout hides the layers below it, and so does a file, which is visible only if no folder lies above it.
        if (merged.length > 0 || isWhiteout(stats)) break;
        if (stats.isSymbolicLink()) return { link: readlinkSync(native(here), 'latin1') };
        if (stats.isFile() && rest.every((part) => part === '' || part === '.')) found = here;
        return 'stop';
      }
      if (merged.length === 0) return 'stop';
      trail.push(merged);
      return 'entered';
    },
    leave() {
      if (trail.length > 1) trail.pop();
    },
    restart() {
      trail = [layers];
    },
    tooManyLinks: () => invalid(`${path}: too many symbolic links`),
  });
  return found;
}

/** Looks into a stack of layers without mounting it: what overlayfs would show under a path. */
import { closeSync, constants, fstatSync, openSync, readlinkSync, readSync } from 'node:fs';
import { walkInRoot } from '../../sys/in-root.ts';
import { isWhiteout } from './apply.ts';
import { invalid } from './invalid.ts';
import { native, toBytes } from './names.ts';
import { isOpaque } from './opaque.ts';
import { look } from './root.ts';

export interface ReadFileInLayers {
  /** `fs` folders of the layers, topmost first. */
  dirs: string[];
  /** From the root of the image; symbolic links are followed inside it. */
  path: string;
  maxBytes: number;
}

/**
 * A regular file's text (UTF-8) as a container of these layers would see it; undefined when there is none, or something else
 * has the name. Throws IMAGE_INVALID when it is longer than `maxBytes` or its links go in a circle.
 */
export function readFileInLayers({ dirs, path, maxBytes }: ReadFileInLayers): string | undefined {
  const file = find(dirs.map(toBytes), toBytes(path));
  if (file === undefined) return undefined;
  const fd = openSync(native(file), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const { size } = fstatSync(fd);
    if (size > maxBytes) throw invalid(`${path} of the image has ${size} bytes; only ${maxBytes} are read`);
    const data = Buffer.alloc(size);
    let at = 0;
    for (let got = -1; got !== 0 && at < size; at += got) got = readSync(fd, data, at, size - at, at);
    return data.toString('utf8', 0, at);
  } finally {
    closeSync(fd);
  }
}

/** Where the regular file lies on disk. */
function find(layers: string[], path: string): string | undefined {
  // The folders from the root down to where we are, each as the real folders that are merged in it, topmost first.
  let trail: string[][] = [layers];
  let found: string | undefined;
  walkInRoot(path.split('/'), {
    enter(name, rest) {
      const merged: string[] = [];
      for (const folder of trail.at(-1) ?? []) {
        const here = `${folder}/${name}`;
        const stats = look(here);
        if (!stats) continue;
        if (stats.isDirectory()) {
          merged.push(here);
          if (isOpaque(here)) break;
          continue;
        }
        // A whiteout hides all below it; so does a file, which counts only when no folder lies above it.
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

import { closeSync, fstatSync, lstatSync, openSync, readlinkSync, readSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import { getXattr } from '../sys/attributes.ts';

const MAX_LINKS = 40;

export interface ReadFileInLayers {
  /** Folders of the layers, the topmost first. */
  layers: string[];
  /** Path in the image. */
  path: string;
  maxBytes: number;
}

/**
 * A file as a container of the image would see it, without a mount: the topmost layer that has it wins, whiteouts and opaque folders
 * hide what is below, links are followed inside the image. Undefined when there is no such file; throws when it is too large.
 */
export function readFileInLayers({ layers, path, maxBytes }: ReadFileInLayers): Buffer | undefined {
  const file = find(layers, path);
  if (!file?.stat.isFile()) return undefined;
  const fd = openSync(file.path, 'r');
  try {
    const { size } = fstatSync(fd);
    if (size > maxBytes) throw new Error(`${path} in the image has ${size} bytes, more than ${maxBytes}`);
    const data = Buffer.alloc(size);
    let at = 0;
    for (let read = -1; at < size && read !== 0; at += read) read = readSync(fd, data, at, size - at, null);
    return data.subarray(0, at);
  } finally {
    closeSync(fd);
  }
}

/** A folder of the image: what its layers have of it, the topmost first. */
type Merged = string[];

function find(layers: string[], path: string): { path: string; stat: Stats } | undefined {
  const todo = path.split('/').reverse();
  const above: Merged[] = [];
  let folder: Merged = layers;
  let links = 0;
  for (let part = todo.pop(); part !== undefined; part = todo.pop()) {
    if (part === '' || part === '.') continue;
    if (part === '..') {
      folder = above.pop() ?? layers;
      continue;
    }
    const found = lookUp(folder, part);
    if (!found) return undefined;
    if (found.folders) {
      above.push(folder);
      folder = found.folders;
    } else if (found.stat.isSymbolicLink()) {
      if (++links > MAX_LINKS) return undefined;
      const target = readlinkSync(found.path);
      if (target.startsWith('/')) {
        above.length = 0;
        folder = layers;
      }
      todo.push(...target.split('/').reverse());
    } else return todo.every((rest) => rest === '' || rest === '.') ? found : undefined;
  }
  return undefined; // a folder
}

/** One name in a merged folder, by overlayfs's rules. */
function lookUp(folder: Merged, name: string): { path: string; stat: Stats; folders?: Merged } | undefined {
  const folders: Merged = [];
  let top: { path: string; stat: Stats } | undefined;
  for (const layer of folder) {
    const path = join(layer, name);
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (!stat) continue;
    if (stat.isCharacterDevice() && stat.rdev === 0) break; // a whiteout
    if (!stat.isDirectory()) {
      if (folders.length === 0) return { path, stat };
      break;
    }
    top ??= { path, stat };
    folders.push(path);
    if (getXattr(path, 'trusted.overlay.opaque')?.toString() === 'y') break;
  }
  return top && { ...top, folders };
}

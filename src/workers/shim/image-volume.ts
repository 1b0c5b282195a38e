import { statSync } from 'node:fs';
import { SluiceError } from '../../errors.ts';
import { resolveInRoot } from '../../sys/in-root.ts';

/**
 * A folder inside a mounted image, found without following any link out of it. Throws INVALID_REQUEST, and errors of
 * the file system.
 */
export function imageSubFolder({ root, subPath }: { root: string; subPath: string }): string {
  const path = resolveInRoot(root, subPath);
  if (!statSync(path).isDirectory())
    throw new SluiceError('INVALID_REQUEST', `"${subPath}" is not a folder in the image`);
  return path;
}

import { fstatSync, ftruncateSync, writeSync } from 'node:fs';

/**
 * Makes `text` the whole content of an open file of small size. It is never emptied first: there is no moment at which
 * it has no text, and ext4 writes a file that was emptied to the disk when it is closed (auto_da_alloc), which takes a
 * launch a quarter of a millisecond.
 */
export function overwrite(file: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at, bytes.length - at, at);
  if (fstatSync(file).size > bytes.length) ftruncateSync(file, bytes.length);
}

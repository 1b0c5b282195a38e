/**
 * How an unpacked layer says what it hides in the layers below. For overlayfs (overlayfs.rst) a name is hidden by a
 * character device 0/0, and a folder's whole content by an attribute of the folder. A file system without overlayfs may
 * have neither (overlayfs itself makes no such device): there files of the image spec's own form (layer.md) stand
 * beside what the layer brings.
 */
import { closeSync, constants, openSync, type Stats } from 'node:fs';
import { SluiceError } from '../../errors.ts';
import { getXattr, makeNode, setXattr } from '../../sys/attributes.ts';
import { native } from './byte-paths.ts';
import { look } from './root.ts';

/** `devices`: as overlayfs has it; `files`: as the image spec has it. */
export type WhiteoutForm = 'devices' | 'files';

export const WHITEOUT = '.wh.';
export const OPAQUE_MARK = '.wh..wh..opq';
const OPAQUE = 'trusted.overlay.opaque';

/**
 * Hides what the layers below have in this folder. Throws INTERNAL where the file system has no trusted.* attributes.
 */
export function makeOpaque(path: string, form: WhiteoutForm = 'devices'): void {
  if (form === 'files') makeMark(`${path}/${OPAQUE_MARK}`);
  else if (!setXattr(native(path), OPAQUE, Buffer.from('y')))
    throw new SluiceError('INTERNAL', `the file system of the layers cannot store ${OPAQUE}`);
}

export function isOpaque(path: string): boolean {
  // overlayfs also writes longer values, with other meanings
  if (getXattr(native(path), OPAQUE, 256)?.toString('latin1') === 'y') return true;
  return look(`${path}/${OPAQUE_MARK}`) !== undefined;
}

/** Hides the name in the layers below; nothing of this layer has it. */
export function makeWhiteout(folder: string, base: string, form: WhiteoutForm): void {
  if (form === 'files') makeMark(`${folder}/${WHITEOUT}${base}`);
  else makeNode(native(`${folder}/${base}`), constants.S_IFCHR);
}

/** The device that hides a name. */
export function isWhiteout(stats: Stats): boolean {
  return stats.isCharacterDevice() && stats.rdev === 0;
}

/** Is the name hidden by a file beside it? */
export function hasMark(folder: string, base: string): boolean {
  return look(`${folder}/${WHITEOUT}${base}`) !== undefined;
}

function makeMark(path: string): void {
  closeSync(openSync(native(path), constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW, 0o600));
}

import { SluiceError } from '../../errors.ts';
import { getXattr, setXattr } from '../../sys/attributes.ts';
import { native } from './byte-paths.ts';

const OPAQUE = 'trusted.overlay.opaque';

/**
 * Hides what the layers below have in this folder (overlayfs.rst). Throws INTERNAL where the file system has no
 * trusted.* attributes.
 */
export function makeOpaque(path: string): void {
  if (setXattr(native(path), OPAQUE, Buffer.from('y'))) return;
  throw new SluiceError('INTERNAL', `the file system of the layers cannot store ${OPAQUE}`);
}

export function isOpaque(path: string): boolean {
  // overlayfs also writes longer values, with other meanings
  return getXattr(native(path), OPAQUE, 256)?.toString('latin1') === 'y';
}

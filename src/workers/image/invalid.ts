import { SluiceError } from '../../errors.ts';

/** The image is at fault, not this machine: pulling it again fails alike. */
export function invalid(message: string, cause?: unknown): SluiceError {
  return new SluiceError('IMAGE_INVALID', message, { cause });
}

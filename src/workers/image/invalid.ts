import { SluiceError } from '../../errors.ts';

/** The error for a fault of the image itself, which another pull would meet again. */
export function invalid(message: string, cause?: unknown): SluiceError {
  return new SluiceError('IMAGE_INVALID', message, { cause });
}

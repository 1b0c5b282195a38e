/** Digests of content (OCI image spec, descriptor.md). */
import { createHash } from 'node:crypto';
import { SluiceError } from '../../errors.ts';

const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

/** A sha256 or sha512 digest, the two algorithms that the image spec registers. */
export const isDigest = (text: string): boolean => DIGEST.test(text);

export function digestOf(data: Uint8Array, algorithm: 'sha256' | 'sha512' = 'sha256'): string {
  return `${algorithm}:${createHash(algorithm).update(data).digest('hex')}`;
}

/** Throws IMAGE_INVALID unless `data` has this digest; `what` begins the message. */
export function verify(data: Uint8Array, digest: string, what: string): void {
  const found = digestOf(data, digest.startsWith('sha512:') ? 'sha512' : 'sha256');
  if (found !== digest) throw new SluiceError('IMAGE_INVALID', `${what} has the digest ${found} instead of ${digest}`);
}

/** The chainID of a stack of layers, bottom first (OCI image spec, config.md); "" for no layer. */
export function chainIdOf(diffIds: readonly string[]): string {
  return diffIds.reduce((chain, diffId) => (chain === '' ? diffId : digestOf(Buffer.from(`${chain} ${diffId}`))), '');
}

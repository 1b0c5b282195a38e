import { digestOf } from './registry.ts';

/** The chainID of a stack of layers, bottom first (OCI image spec, config.md); "" for none. */
export function chainIdOf(diffIds: readonly string[]): string {
  return diffIds.reduce((chain, diffId) => (chain === '' ? diffId : digestOf(Buffer.from(`${chain} ${diffId}`))), '');
}

import { VERSION } from '../../version.ts';
import { digestOf } from './digest.ts';
import { hostPlatforms } from './platform.ts';

import type { ImageRow } from './rows.ts';

/** Name of the pause image that is part of Sluice. */
export const BUILT_IN_PAUSE = 'sluice.local/pause:1';

/**
 * Its config, as a registry would give it. The program makes the layer itself, so the diffID is derived from the
 * version.
 */
export function pauseImage(): Pick<ImageRow, 'id' | 'config' | 'file'> & { diffId: string } {
  const diffId = digestOf(Buffer.from(`sluice pause ${VERSION}`));
  const config = { Entrypoint: ['/pause'] };
  const { architecture = '' } = hostPlatforms()[0] ?? {};
  const file = { architecture, os: 'linux', rootfs: { type: 'layers', diff_ids: [diffId] } };
  return { id: digestOf(Buffer.from(JSON.stringify({ ...file, config }))), config, file, diffId };
}

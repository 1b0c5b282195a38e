import { VERSION } from '../../version.ts';
import { hostPlatforms } from './platform.ts';
import { digestOf } from './registry.ts';
import type { ImageRow } from './rows.ts';

/** Name of the pause image that comes with Sluice. */
export const BUILT_IN_PAUSE = 'sluice.local/pause:1';

/** Its config, as if it came from a registry. The layer is made by the program, so its "digest" is that of the version. */
export function pauseImage(): Pick<ImageRow, 'id' | 'config' | 'file'> & { diffId: string } {
  const diffId = digestOf(Buffer.from(`sluice pause ${VERSION}`));
  const config = { Entrypoint: ['/pause'] };
  const { architecture = '' } = hostPlatforms()[0] ?? {};
  const file = { architecture, os: 'linux', rootfs: { type: 'layers', diff_ids: [diffId] } };
  return { id: digestOf(Buffer.from(JSON.stringify({ ...file, config }))), config, file, diffId };
}

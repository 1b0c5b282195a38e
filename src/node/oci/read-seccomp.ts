import { readFile } from 'node:fs/promises';
import type { SecurityProfile } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { parseSeccompProfile, seccompFile } from './seccomp.ts';
import type { Seccomp } from './types.ts';

/**
 * Reads the Localhost profile of a request; undefined when it has none. Rejects with INVALID_REQUEST when the file
 * cannot be read or parsed.
 */
export async function readSeccomp(
  profile: SecurityProfile | undefined,
  deprecated: string,
  privileged: boolean,
): Promise<Seccomp | undefined> {
  const path = seccompFile(profile, deprecated, privileged);
  if (path === undefined) return undefined;
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new SluiceError('INVALID_REQUEST', `the seccomp profile ${path} cannot be read`, { cause });
  }
  return parseSeccompProfile(text, path);
}

import { readFile } from 'node:fs/promises';
import type { SecurityProfile } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { parseSeccompProfile, seccompFile } from './seccomp.ts';
import type { Seccomp } from './types.ts';

/** The Localhost profile that the request names, or undefined when it names none. Throws INVALID_REQUEST when it cannot be read. */
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

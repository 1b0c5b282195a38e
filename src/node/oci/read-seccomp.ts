import type { SecurityProfile } from '../../../proto/gen/cri.ts';
import { codeOf, SluiceError } from '../../errors.ts';
import { parseSeccompProfile, seccompFile } from './seccomp.ts';
import type { Seccomp } from './types.ts';

/** Above the largest profile that anyone has; a larger file is cut off and refused as broken JSON. */
const MAX_BYTES = 4 << 20;

/**
 * Reads the Localhost profile of a request with `read`; undefined when it has none. Rejects with INVALID_REQUEST when
 * the file cannot be read or parsed, and with TIMED_OUT when `read` does.
 */
export async function readSeccomp(
  profile: SecurityProfile | undefined,
  deprecated: string,
  privileged: boolean,
  read: (path: string, maxBytes: number) => Promise<string>,
): Promise<Seccomp | undefined> {
  const path = seccompFile(profile, deprecated, privileged);
  if (path === undefined) return undefined;
  let text: string;
  try {
    text = await read(path, MAX_BYTES);
  } catch (cause) {
    const code = codeOf(cause) === 'TIMED_OUT' ? 'TIMED_OUT' : 'INVALID_REQUEST';
    throw new SluiceError(code, `the seccomp profile ${path} cannot be read`, { cause });
  }
  return parseSeccompProfile(text, path);
}

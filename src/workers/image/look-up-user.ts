import { readFileInLayers } from './read-file.ts';
import { type FoundUser, resolveUser, type UserRequest } from './users.ts';

export interface LookUpUser {
  /** `fs` folders of the image's layers, topmost first. */
  dirs: string[];
  request: UserRequest;
}

/**
 * Bytes of one file. A distribution's has some thousands; one of this size takes the thread some tens of milliseconds.
 */
const MAX_USER_FILE = 4 << 20;

/** Looks a user up in an image. Throws as {@link resolveUser} does, and IMAGE_INVALID for a file beyond the bounds. */
export function lookUpUser({ dirs, request }: LookUpUser): FoundUser {
  const read = (path: string) => readFileInLayers({ dirs, path, maxBytes: MAX_USER_FILE }) ?? '';
  return resolveUser(request, read('/etc/passwd'), read('/etc/group'));
}

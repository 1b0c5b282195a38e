import type { LookUpUser } from '../../workers/image/look-up-user.ts';
import type { FoundUser, UserRequest } from '../../workers/image/users.ts';
import type { ImageRow } from './rows.ts';
import type { Snapshotter } from './snapshotters/snapshotter.ts';

/** Users that are kept, the latest ones. */
const KEPT = 1000;

/** Users that images' /etc/passwd and /etc/group define, each looked up once: an image's id names one content. */
export class ImageUsers {
  readonly #snapshotter: Pick<Snapshotter, 'folders'>;
  readonly #lookUp: (input: LookUpUser) => Promise<FoundUser>;
  readonly #found = new Map<string, Promise<FoundUser>>();

  constructor(snapshotter: Pick<Snapshotter, 'folders'>, lookUp: (input: LookUpUser) => Promise<FoundUser>) {
    this.#snapshotter = snapshotter;
    this.#lookUp = lookUp;
  }

  /** Throws INVALID_REQUEST for a name that the image does not define, IMAGE_INVALID for files out of bounds. */
  find(row: ImageRow, request: UserRequest): Promise<FoundUser> {
    const key = `${row.id} ${JSON.stringify(request)}`;
    let user = this.#found.get(key);
    if (!user) {
      user = this.#snapshotter.folders(row).then((dirs) => this.#lookUp({ dirs, request }));
      this.#found.set(key, user);
      user.catch(() => this.#found.delete(key));
      for (const oldest of this.#found.keys()) {
        if (this.#found.size <= KEPT) break;
        this.#found.delete(oldest);
      }
    }
    return user;
  }
}

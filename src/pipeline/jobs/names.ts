import { SluiceError } from '../../errors.ts';

/** Names in use, each by one id. A record whose clean-up is still being retried has given its name back. */
export class Names {
  readonly #owners = new Map<string, string>();

  /** Takes `name` for `id`. Throws NAME_TAKEN with the present owner; taking one's own again is fine. */
  take(name: string, id: string): void {
    const owner = this.#owners.get(name);
    if (owner !== undefined && owner !== id) {
      throw new SluiceError('NAME_TAKEN', `the name "${name}" belongs to ${owner}`);
    }
    this.#owners.set(name, id);
  }

  /** Gives `name` back if it is `id`'s. */
  release(name: string, id: string): void {
    if (this.#owners.get(name) === id) this.#owners.delete(name);
  }

  owner(name: string): string | undefined {
    return this.#owners.get(name);
  }
}

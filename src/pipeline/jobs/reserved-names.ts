import { SluiceError } from '../../errors.ts';

/** Names in use, each reserved for one id. A row whose clean-up is still being retried has released its name. */
export class ReservedNames {
  readonly #owners = new Map<string, string>();

  /** Reserves `name` for `id`. Throws NAME_TAKEN with the present owner; reserving it again for the same id is fine. */
  take(name: string, id: string): void {
    const owner = this.#owners.get(name);
    if (owner !== undefined && owner !== id) {
      throw new SluiceError('NAME_TAKEN', `the name "${name}" belongs to ${owner}`);
    }
    this.#owners.set(name, id);
  }

  /** Releases `name` where it is reserved for `id`. */
  release(name: string, id: string): void {
    if (this.#owners.get(name) === id) this.#owners.delete(name);
  }

  owner(name: string): string | undefined {
    return this.#owners.get(name);
  }
}

import { SluiceError } from '../../errors.ts';

/** Names in use, each reserved for one id. A row whose clean-up is still being retried has released its name. */
export class ReservedNames {
  readonly #kind: 'sandbox' | 'container';
  readonly #owners = new Map<string, string>();

  constructor(kind: 'sandbox' | 'container') {
    this.#kind = kind;
  }

  /** Reserves `name` for `id`. Throws NAME_TAKEN with the present owner; reserving it again for the same id is fine. */
  take(name: string, id: string): void {
    const owner = this.#owners.get(name);
    if (owner !== undefined && owner !== id) {
      throw SluiceError.of('NAME_TAKEN', this.#kind, name, owner);
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

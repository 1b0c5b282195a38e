import { type DirectStart, mayStartDirectly } from '../../workers/shim/direct.ts';

/**
 * Which programs may be started as shims without their start command. A program must have answered its start command once in this
 * daemon's life, which says what it speaks; whether it can do without is known when it has done so once.
 */
export class DirectStartPolicy {
  readonly #answered = new Map<string, DirectStart>();
  readonly #proven = new Set<string>();
  readonly #refused = new Set<string>();

  /** What is known of the program that is configured as `binary`; undefined: its start command has to be asked. */
  eligible(binary: string): DirectStart | undefined {
    const known = this.#answered.get(binary);
    return known && !this.#refused.has(known.key) ? known : undefined;
  }

  /** Its start command has started a shim that answers. */
  commandSucceeded(binary: string, start: DirectStart): void {
    if (mayStartDirectly(binary)) this.#answered.set(binary, start);
  }

  /** It has been started without, and answers. */
  directSucceeded({ key }: DirectStart): void {
    this.#proven.add(key);
  }

  /** Started without, it did not answer. True when it never has: then the program is to blame, and not asked for this again. */
  directFailed({ key }: DirectStart): boolean {
    if (this.#proven.has(key)) return false;
    this.#refused.add(key);
    return true;
  }
}

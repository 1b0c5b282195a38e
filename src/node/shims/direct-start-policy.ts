import { type DirectStart, mayStartDirectly } from '../../workers/shim/direct.ts';

/**
 * Decides which shim programs may be started without their `start` command. A program is eligible after one `start`
 * command in this daemon's life, which reports its task service version; it is trusted after one direct start that
 * answers, and excluded if its first direct start fails.
 */
export class DirectStartPolicy {
  /** By the program's name in the configuration. */
  readonly #eligible = new Map<string, DirectStart>();
  /** Keys of programs. */
  readonly #trusted = new Set<string>();
  readonly #excluded = new Set<string>();

  /** How to start the program that is configured as `binary` directly; undefined when its start command is needed. */
  eligible(binary: string): DirectStart | undefined {
    const start = this.#eligible.get(binary);
    return start && !this.#excluded.has(start.key) ? start : undefined;
  }

  /** Records that the program's start command has started a shim that answers. */
  commandSucceeded(binary: string, start: DirectStart): void {
    if (mayStartDirectly(binary)) this.#eligible.set(binary, start);
  }

  /** Records that a shim which was started directly answers. */
  directSucceeded({ key }: DirectStart): void {
    this.#trusted.add(key);
  }

  /**
   * Records that a shim which was started directly does not answer. Returns true when the program is now excluded, so
   * that the caller tries its start command; false when an earlier direct start has answered, so that the program is
   * not the cause.
   */
  directFailed({ key }: DirectStart): boolean {
    if (this.#trusted.has(key)) return false;
    this.#excluded.add(key);
    return true;
  }
}

import { randomBytes } from 'node:crypto';
import { SluiceError } from '../../errors.ts';
import type { StreamKind, StreamRequest } from './protocol.ts';

/** How long a URL is good for, in milliseconds, and how many may be unused at a time: what kubelets are used to. */
const TTL_MS = 60_000;
const MAX_UNUSED = 1000;

/** URLs are passwords: whoever has the token gets the shell. Each is random, good for one minute and one connection. */
export class Tokens {
  readonly #now: () => number;
  /** In order of age. */
  readonly #unused = new Map<string, { request: StreamRequest; expires: number }>();

  /** `now` is in milliseconds and only ever grows. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  get size(): number {
    this.#forgetOld();
    return this.#unused.size;
  }

  /** Throws QUEUE_FULL when {@link MAX_UNUSED} are waiting to be used. */
  issue(request: StreamRequest): string {
    this.#forgetOld();
    if (this.#unused.size >= MAX_UNUSED) {
      throw new SluiceError('QUEUE_FULL', `${MAX_UNUSED} streaming URLs wait to be used; try again later`);
    }
    const token = randomBytes(16).toString('base64url');
    this.#unused.set(token, { request, expires: this.#now() + TTL_MS });
    return token;
  }

  /** The request of a token that is still good for this kind of stream; the token stays good. */
  peek(kind: StreamKind, token: string): StreamRequest | undefined {
    this.#forgetOld();
    const request = this.#unused.get(token)?.request;
    return request?.kind === kind ? request : undefined;
  }

  /** Uses the token up. */
  spend(token: string): void {
    this.#unused.delete(token);
  }

  #forgetOld(): void {
    const now = this.#now();
    for (const [token, { expires }] of this.#unused) {
      if (expires > now) return;
      this.#unused.delete(token);
    }
  }
}

import { randomBytes } from 'node:crypto';
import { SluiceError } from '../../errors.ts';
import type { StreamKind, StreamRequest } from './protocol.ts';

/**
 * The validity of a URL in milliseconds, and the limit of unused ones. Both are those of kubelet's own streaming
 * library (k8s.io/kubelet/pkg/cri/streaming).
 */
const TTL_MS = 60_000;
const MAX_UNUSED = 1000;

/**
 * One-time tokens for streaming URLs. A token is the only authorisation for a shell in a container, so each is random
 * and valid for one minute and one connection.
 */
export class Tokens {
  readonly #now: () => number;
  /** In order of their age. */
  readonly #unused = new Map<string, { request: StreamRequest; expires: number }>();

  /** `now` returns milliseconds of a monotonic clock. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  get size(): number {
    this.#forgetOld();
    return this.#unused.size;
  }

  /** Returns a new token. Throws QUEUE_FULL when {@link MAX_UNUSED} are unused. */
  issue(request: StreamRequest): string {
    this.#forgetOld();
    if (this.#unused.size >= MAX_UNUSED) {
      throw new SluiceError('QUEUE_FULL', `${MAX_UNUSED} streaming URLs wait to be used; try again later`);
    }
    const token = randomBytes(16).toString('base64url');
    this.#unused.set(token, { request, expires: this.#now() + TTL_MS });
    return token;
  }

  /** The request of a valid token for this kind of stream; the token stays valid. */
  peek(kind: StreamKind, token: string): StreamRequest | undefined {
    this.#forgetOld();
    const request = this.#unused.get(token)?.request;
    return request?.kind === kind ? request : undefined;
  }

  /** Makes the token invalid. */
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

/** When a small request to a registry or to its token server is sent again. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Reply } from '../../workers/http/ask.ts';
import { asksAgain, backOffMs, retryAfterMs } from '../../workers/http/retry.ts';
import { unansweredDetails } from '../../workers/http/unanswered.ts';

const ATTEMPTS = 5;
/** Tries for a connection that ends under the request, and for a server in trouble. */
const TROUBLE_ATTEMPTS = 3;
/** Milliseconds before the second try. */
const BACK_OFF_MS = 250;
const SERVER_TROUBLE = new Set([500, 502, 503, 504]);

/** Refusals that say nothing about the request itself. */
export function isPassing(status: number): boolean {
  return asksAgain(status) || SERVER_TROUBLE.has(status);
}

/** The tries of one request. */
export class Tries {
  readonly #firstMs: number;
  readonly #onRetry: (() => void) | undefined;
  #made = 1;

  constructor({ backOffMs: firstMs = BACK_OFF_MS, onRetry }: { backOffMs?: number; onRetry?: () => void }) {
    this.#firstMs = firstMs;
    this.#onRetry = onRetry;
  }

  /**
   * After an answer: waits as long as the server asks for and returns true when the request is to be sent again. A
   * server in trouble gets another try only if `noOther` can answer.
   */
  async afterAnswer({ status, headers }: Reply, noOther = true): Promise<boolean> {
    const most = asksAgain(status) ? ATTEMPTS : SERVER_TROUBLE.has(status) && noOther ? TROUBLE_ATTEMPTS : 0;
    if (this.#made >= most) return false;
    await sleep(backOffMs(this.#made, this.#firstMs, retryAfterMs(headers['retry-after'])));
    this.next();
    return true;
  }

  /** After no answer: true when the connection ended under the request, and another one may carry it. */
  afterFailure(error: unknown): boolean {
    if (!unansweredDetails(error)?.broken || this.#made >= TROUBLE_ATTEMPTS) return false;
    this.next();
    return true;
  }

  /** Counts a try that has another reason. */
  next(): void {
    this.#made++;
    this.#onRetry?.();
  }
}

/** Sends a request whose server is the only one that can answer it, again while that may help. */
export async function askAgain(ask: () => Promise<Reply>, tries: Tries): Promise<Reply> {
  for (;;) {
    try {
      const answer = await ask();
      if (!(await tries.afterAnswer(answer))) return answer;
    } catch (error) {
      if (!tries.afterFailure(error)) throw error;
    }
  }
}

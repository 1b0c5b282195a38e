/** When a request is sent again. */

/** Answers that ask for another try. */
const AGAIN = new Set([408, 425, 429]);

/** Does the server ask for another try? */
export const asksAgain = (status: number): boolean => AGAIN.has(status);

/** No server makes a pull wait for longer than this, whatever its Retry-After says. */
export const MAX_WAIT_MS = 30_000;

/** Retry-After in milliseconds: seconds, or a date (RFC 9110 10.2.3); undefined when it is absent or neither. */
export function retryAfterMs(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

/**
 * Milliseconds before the next try after `tries` failed ones: `firstMs` doubled each time, with a jitter of a quarter
 * so that nodes that failed together do not return together, and at least as long as the server asked for.
 */
export function backOffMs(tries: number, firstMs: number, askedMs = 0): number {
  const own = firstMs * 2 ** (tries - 1) * (0.75 + Math.random() / 2);
  const asked = askedMs * (1 + Math.random() / 10);
  return Math.min(Math.max(own, asked), MAX_WAIT_MS);
}

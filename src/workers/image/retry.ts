/** When and how long to wait before a registry is asked again. */

/** Attempts at one host that brought nothing new. */
export const MAX_TRIES = 4;
const FIRST_MS = 200;
const LAST_MS = 10_000;
/** What a registry may ask for; whoever wants longer is treated as down. */
export const MAX_RETRY_AFTER_MS = 60_000;

/** Exponential, with jitter, so that a node full of pulls does not come back all at once. `tries` counts from 1. */
export function backoffMs(tries: number, random = Math.random): number {
  const full = Math.min(LAST_MS, FIRST_MS * 2 ** (tries - 1));
  return full / 2 + (full / 2) * random();
}

/** Retry-After as milliseconds from now: seconds or a date (RFC 9110, 10.2.3); undefined when there is none or it is neither. */
export function retryAfterMs(header: string | undefined, now = Date.now()): number | undefined {
  if (header === undefined || header === '') return undefined;
  if (/^\d{1,9}$/.test(header)) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

/** Statuses that a later attempt may not get: time-outs, too many requests, and trouble of the server's own. */
export const isPassing = (status: number) => status === 408 || status === 429 || (status >= 500 && status !== 501);

/** The connection never stood: the host is down, or unknown. */
export const isUnreachable = (code: string | undefined) =>
  code !== undefined &&
  ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT', 'EHOSTDOWN'].includes(code);

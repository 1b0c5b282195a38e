import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../../errors.ts';
import { invalid } from './invalid.ts';
import { bodyStart, type Get, get, host, stalled, Transient, unavailable } from './request.ts';

const MAX_RETRIES = 5;
const MAX_WAIT_MS = 30_000;

export interface DownloadOptions extends Omit<Get, 'patienceMs'> {
  /** Bytes the blob must have. */
  size: number;
  /** The first pause between tries, which doubles each time. Default 250 ms. */
  retryDelayMs?: number;
}

/**
 * The bytes of a blob, from the first to the last, once: broken connections, 429 and 5xx are tried again up to five times, from
 * the byte that was reached. The reader's own pace holds the connection back; only waiting for the registry counts as a stall. A
 * connection that falls silent is given a third of that time, then a new one goes on where it stood: the old one may have died on the way.
 * Throws what {@link get} throws but Transient, IMAGE_INVALID for a wrong length, REGISTRY_UNAVAILABLE when the tries are used up.
 */
export class Download {
  readonly #options: DownloadOptions;
  /** Time that went by waiting for the registry. */
  seconds = 0;
  /** Milliseconds of waiting since the last new byte, before the connection that is in use. */
  #silentMs = 0;
  /** The last answer came to an end that was no accident. */
  #whole = false;

  constructor(options: DownloadOptions) {
    this.#options = options;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    const { size, retryDelayMs = 250, signal, url } = this.#options;
    let at = 0;
    let tries = 0;
    for (let failures = 0; at < size || size === 0; ) {
      try {
        for await (const chunk of this.#from(at)) {
          at += chunk.length;
          this.#silentMs = 0;
          if (at > size) throw invalid(`the layer has more than the ${size} bytes that its descriptor says`);
          yield chunk;
        }
        if (at < size && this.#whole) throw invalid(`the layer has ${at} bytes, its descriptor says ${size}`);
        if (at < size) throw new Transient(`${host(url)} closed the connection after ${at} of ${size} bytes`);
        return;
      } catch (error) {
        if (!(error instanceof Transient)) throw error;
        failures += error.weight;
        tries++;
        if (failures > MAX_RETRIES) throw unavailable(`${error.message}, after ${tries} tries`, error);
        const own = retryDelayMs * 2 ** (tries - 1) * (0.75 + Math.random() / 2);
        await sleep(Math.min(Math.max(own, error.retryAfterMs ?? 0), MAX_WAIT_MS), undefined, { signal });
      }
    }
  }

  /** One try: the bytes from `at` to the end. */
  async *#from(at: number): AsyncGenerator<Buffer> {
    const { headers, size, progressTimeoutMs } = this.#options;
    const range: Record<string, string> = at > 0 ? { range: `bytes=${at}-` } : {};
    this.#whole = false;
    const began = performance.now();
    let response: IncomingMessage;
    try {
      response = await get({
        ...this.#options,
        patienceMs: progressTimeoutMs - this.#silentMs,
        headers: { 'accept-encoding': 'identity', ...headers, ...range },
      });
    } finally {
      this.seconds += (performance.now() - began) / 1000;
    }
    try {
      const start = bodyStart(response, at);
      const length = response.headers['content-length'];
      if (length !== undefined && start + Number(length) !== size) {
        throw invalid(`the layer has ${start + Number(length)} bytes, its descriptor says ${size}`);
      }
      let skip = at - start; // the server does not know ranges, and sends all of it again
      for await (const chunk of this.#body(response)) {
        if (skip >= chunk.length) skip -= chunk.length;
        else {
          yield skip > 0 ? chunk.subarray(skip) : chunk;
          skip = 0;
        }
      }
      const chunked = response.headers['transfer-encoding'] !== undefined;
      // With neither, the end of the body is the end of the connection, and may be an accident.
      if (chunked || length !== undefined) this.#whole = true;
    } finally {
      response.destroy();
    }
  }

  async *#body(response: IncomingMessage): AsyncGenerator<Buffer> {
    const { progressTimeoutMs, url, signal } = this.#options;
    const allowedMs = Math.min(progressTimeoutMs / 3, progressTimeoutMs - this.#silentMs);
    const pieces = response[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
    let waiting = false;
    let seen = 0;
    const timer = setTimeout(() => {
      if (!waiting) {
        timer.refresh();
        return;
      }
      // When this thread was busy for long, bytes may be there that nobody has read: look once more before giving up.
      const before = seen;
      setImmediate(() =>
        setImmediate(() => {
          if (waiting && seen === before) response.destroy(this.#stall(allowedMs));
          else timer.refresh();
        }),
      );
    }, allowedMs);
    try {
      for (;;) {
        const began = performance.now();
        waiting = true;
        timer.refresh();
        const next = await pieces.next();
        waiting = false;
        seen++;
        this.seconds += (performance.now() - began) / 1000;
        if (next.done) return;
        yield next.value;
      }
    } catch (error) {
      if (error instanceof SluiceError || error instanceof Transient || signal.aborted) throw error;
      throw new Transient(`${host(url)}: ${(error as Error).message}`, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }

  #stall(ms: number): Error {
    const { progressTimeoutMs, url } = this.#options;
    this.#silentMs += ms;
    if (this.#silentMs > 0.99 * progressTimeoutMs) return stalled(url, progressTimeoutMs);
    return new Transient(`${host(url)} has sent nothing for ${ms / 1000} s`);
  }
}

import type { MessagePort } from 'node:worker_threads';
import type { Refusal, Renew } from './blob-source.ts';

/** From main to the worker that fetches a layer. */
export type ToLayer =
  | { kind: 'cancel' }
  | { kind: 'authorizations'; authorizations: Record<string, string> | undefined };

/** From that worker to main. */
export type FromLayer = { kind: 'refused'; refusal: Refusal } | { kind: 'progress'; downloaded: number };

/** Milliseconds between two reports of progress. */
const REPORT_MS = 200;

/**
 * The worker's end of the channel that goes with a layer: it aborts `signal` when main cancels the layer, asks main for
 * new authorizations, and reports progress. Disposing it closes the channel.
 */
export class LayerLine implements Disposable {
  readonly #port: MessagePort | undefined;
  readonly #abort = new AbortController();
  readonly #report: NodeJS.Timeout | undefined;
  #renewal: ((authorizations: Record<string, string> | undefined) => void) | undefined;

  /** `downloaded` gives the bytes received so far. */
  constructor(port: MessagePort | undefined, downloaded: () => number) {
    this.#port = port;
    port?.on('message', (message: ToLayer) => {
      if (message.kind === 'cancel') this.#abort.abort(new Error('cancelled'));
      else this.#renewal?.(message.authorizations);
    });
    if (port) {
      this.#report = setInterval(() => this.#send({ kind: 'progress', downloaded: downloaded() }), REPORT_MS).unref();
    }
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** One question at a time: parts that are refused together share the answer of the first. */
  readonly renew: Renew = (refusal) => {
    if (!this.#port) return Promise.resolve(undefined);
    this.#pending ??= new Promise<Record<string, string> | undefined>((resolve) => {
      this.#renewal = resolve;
      this.#send({ kind: 'refused', refusal });
    }).finally(() => {
      this.#pending = undefined;
    });
    return this.#pending;
  };

  #pending: Promise<Record<string, string> | undefined> | undefined;

  #send(message: FromLayer): void {
    this.#port?.postMessage(message);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#report);
    this.#renewal?.(undefined);
    this.#port?.close();
  }
}

import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2';

/** Calls that a connection may bring beyond those that have had their turn. */
export const HEADROOM = 64;
/** What it must differ by before the client is told: each change is a frame and its acknowledgement. */
const STEP = HEADROOM / 4;

/**
 * How many calls a connection may have at once: all whose work has begun, and {@link HEADROOM} more. A client that
 * sends two thousand launches keeps those beyond that for itself (SETTINGS_MAX_CONCURRENT_STREAMS, RFC 9113, 6.5.2)
 * until others have had their turn, so that one read of its connection brings tens of calls and not hundreds. Calls
 * that take long, as 250 stops with a grace period do, make room for others as soon as they have begun: nobody waits
 * for their end.
 */
export class StreamRoom {
  readonly #session: Pick<ServerHttp2Session, 'settings' | 'closed' | 'destroyed'>;
  /** Calls that have had their turn and have not ended. */
  #begun = 0;
  /** What the client was told last. */
  #limit = HEADROOM;
  #planned = false;
  #unacknowledged = false;

  /** The session has told its client {@link HEADROOM} in its first settings. */
  constructor(session: Pick<ServerHttp2Session, 'settings' | 'closed' | 'destroyed'>) {
    this.#session = session;
  }

  /** A call has its turn. */
  begin(stream: Pick<ServerHttp2Stream, 'once'>): void {
    this.#begun++;
    stream.once('close', () => {
      this.#begun--;
      this.#plan();
    });
    this.#plan();
  }

  /** Looked at when the turn is over: what is refused at once has ended by then and needs no room. */
  #plan(): void {
    if (this.#planned) return;
    this.#planned = true;
    setImmediate(() => {
      this.#planned = false;
      this.#adjust();
    });
  }

  #adjust(): void {
    if (this.#unacknowledged || this.#session.closed || this.#session.destroyed) return;
    const limit = this.#begun + HEADROOM;
    if (limit < this.#limit + STEP && limit > this.#limit / 2) return;
    this.#limit = limit;
    this.#unacknowledged = true;
    this.#session.settings({ maxConcurrentStreams: limit }, () => {
      this.#unacknowledged = false;
      this.#adjust();
    });
  }
}

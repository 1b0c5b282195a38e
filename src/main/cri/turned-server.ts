import type { IncomingHttpHeaders, OutgoingHttpHeaders, ServerHttp2Session, ServerHttp2Stream } from 'node:http2';
import { Server, type ServerOptions, status } from '@grpc/grpc-js';
import { HEADROOM, StreamRoom } from './stream-room.ts';
import type { Turns } from './turns.ts';

/** A call whose header has come, before grpc-js sees it. */
export interface Arrival {
  /** "/package.Service/Method". */
  path: string;
  /** The connection it came by. */
  session: ServerHttp2Stream['session'];
}

interface TurnsOf {
  /** Handlers tell them when they have {@link Turns.begun}. */
  turns: Turns;
  /** Whether the call may wait behind others: it launches something. */
  launches: (arrival: Arrival) => boolean;
  /** A call ended before grpc-js saw it. */
  onEnded: (arrival: Arrival, code: number, seconds: number) => void;
}

type OnStream = (interceptors: unknown, stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

/**
 * A gRPC server whose calls wait for their turn as soon as their header is read. What grpc-js does for a call, which is
 * two thirds of what a refused one costs, is then done in the call's own turn and not for all calls of a read at once.
 * A connection brings few calls at once that have not had their turn ({@link StreamRoom}).
 *
 * grpc-js has no public way to put anything before its handler of a stream. The one it has is looked up when the server
 * binds, so that a property of the instance takes its place. Throws where a release of grpc-js has it no more.
 */
export class TurnedServer extends Server {
  constructor(options: ServerOptions, { turns, launches, onEnded }: TurnsOf) {
    // channelz counts each call for a debugging service that is not offered here.
    super({ ...options, 'grpc.enable_channelz': 0, 'grpc.max_concurrent_streams': HEADROOM });
    const rooms = new WeakMap<object, StreamRoom>();
    const begin = (stream: ServerHttp2Stream) => {
      const { session } = stream;
      if (!session) return;
      const room = rooms.get(session) ?? new StreamRoom(session as ServerHttp2Session);
      rooms.set(session, room);
      room.begin(stream);
    };
    const hooked = this as unknown as { _streamHandler?: OnStream };
    const own = hooked._streamHandler;
    if (typeof own !== 'function') throw new Error('this release of @grpc/grpc-js has no _streamHandler');
    const dropped = (arrival: Arrival, code: number, waitedMs: number) => {
      onEnded(arrival, code, waitedMs / 1000);
      turns.begun();
    };
    hooked._streamHandler = (interceptors, stream, headers) => {
      const arrived = performance.now();
      const arrival = { path: String(headers[':path']), session: stream.session };
      stream.on('error', ignore); // 'close' follows
      turns.run(launches(arrival), arrival.session, () => {
        const waitedMs = performance.now() - arrived;
        if (stream.closed || stream.destroyed) return dropped(arrival, status.CANCELLED, waitedMs);
        const timeout = headers['grpc-timeout'];
        const left = typeof timeout === 'string' ? timeLeft(timeout, waitedMs) : undefined;
        if (left === '0m') {
          stream.respond(LATE, { endStream: true });
          stream.resume(); // its message is of no use, and would keep the stream
          return dropped(arrival, status.DEADLINE_EXCEEDED, waitedMs);
        }
        if (left !== undefined) headers['grpc-timeout'] = left;
        begin(stream);
        own.call(this, interceptors, stream, headers);
      });
    };
  }
}

/** There is nothing to do about an error of a stream that nobody has read from: its 'close' ends the call. */
function ignore(): void {}

/** An answer that is a status alone. */
const LATE: OutgoingHttpHeaders = {
  ':status': 200,
  'content-type': 'application/grpc+proto',
  'grpc-status': status.DEADLINE_EXCEEDED,
  'grpc-message': 'the deadline passed before the call had its turn',
};

/** Milliseconds in the units of a grpc-timeout header. */
const UNIT_MS: Record<string, number> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };

/**
 * What is left of a grpc-timeout header (up to 8 digits and a unit, as the protocol over HTTP/2 has it) after some
 * milliseconds, since grpc-js counts it from when it sees the call: "0m" when it has passed. One that cannot be read is
 * left for grpc-js to refuse.
 */
export function timeLeft(timeout: string, waitedMs: number): string {
  if (waitedMs < 1) return timeout;
  const [, digits, unit = ''] = /^(\d{1,8})([HMSmun])$/.exec(timeout) ?? [];
  if (digits === undefined) return timeout;
  const leftMs = Math.max(0, Math.floor(Number(digits) * (UNIT_MS[unit] ?? 0) - waitedMs));
  return leftMs < 1e8 ? `${leftMs}m` : timeout; // of more than a day, what it waited is nothing
}

import type { Duplex } from 'node:stream';
import { finished } from 'node:stream/promises';
import type { StreamOptions } from './protocol.ts';
import { type RemoteSession, statusOf, wantedStreams } from './remote-session.ts';
import { GOAWAY, RST, SpdyConnection, type SpdyStream } from './spdy.ts';

/** The supported values of X-Stream-Protocol-Version for exec and attach, best first. */
export const SPDY_PROTOCOLS = ['v4.channel.k8s.io', 'v3.channel.k8s.io', 'v2.channel.k8s.io', 'channel.k8s.io'];

/**
 * Waits for the streams that a client has to open: error, and those of the request. The header `streamType` names each.
 * Rejects when they are not opened in time, or when the client disconnects; the connection is closed then.
 */
export function spdySession(
  socket: Duplex,
  protocol: string,
  options: StreamOptions,
  timeoutMs: number,
): Promise<RemoteSession> {
  const wanted = new Set(['error', ...wantedStreams(options, protocol)]);
  const streams = new Map<string, SpdyStream>();
  const closed = new AbortController();
  const { promise, resolve, reject } = Promise.withResolvers<RemoteSession>();
  const timer = setTimeout(() => {
    reject(new Error(`the client opened ${streams.size} of ${wanted.size} streams within ${timeoutMs / 1000} s`));
    connection.end(GOAWAY.PROTOCOL_ERROR);
  }, timeoutMs);
  const connection = new SpdyConnection(socket, {
    onStream: (stream) => {
      const type = stream.headers.get('streamtype') ?? '';
      if (!wanted.has(type) || streams.has(type)) return stream.reset(RST.REFUSED_STREAM);
      stream.reply();
      streams.set(type, stream);
      if (streams.size === wanted.size) {
        clearTimeout(timer);
        resolve(session(connection, streams, protocol, closed.signal));
      }
    },
    onClose: () => {
      clearTimeout(timer);
      reject(new Error('the client closed the connection before it had opened its streams'));
      closed.abort();
    },
  });
  return promise;
}

function session(
  connection: SpdyConnection,
  streams: Map<string, SpdyStream>,
  protocol: string,
  closed: AbortSignal,
): RemoteSession {
  const error = streams.get('error');
  const outputs = [streams.get('stdout'), streams.get('stderr'), error].filter((stream) => stream !== undefined);
  // Data that a client sends on output streams is dropped; reading them is needed to get their end.
  for (const stream of outputs) stream.resume();
  return {
    stdin: streams.get('stdin'),
    stdout: streams.get('stdout'),
    stderr: streams.get('stderr'),
    resize: streams.get('resize'),
    closed,
    async finish(outcome) {
      error?.write(statusOf(outcome, protocol));
      for (const stream of streams.values()) stream.end();
      // A stream that failed counts as sent.
      await Promise.allSettled(outputs.map((stream) => finished(stream, { readable: false })));
      connection.end();
    },
    destroy: () => connection.destroy(),
  };
}

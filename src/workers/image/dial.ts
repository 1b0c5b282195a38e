import type { ClientRequest } from 'node:http';

/** No connection, or no TLS session on it, came about in time. */
export class NoConnection extends Error {
  constructor(ms: number) {
    super(`no connection within ${ms / 1000} s`);
  }
}

/** Ends a request with {@link NoConnection} unless it has its connection (with TLS: a session) within so many milliseconds. */
export function dialWithin(request: ClientRequest, ms: number): void {
  const timer = setTimeout(() => request.destroy(new NoConnection(ms)), ms);
  const done = () => clearTimeout(timer);
  request.once('socket', (socket) => {
    const { encrypted = false, secureConnecting = false } = socket as {
      encrypted?: boolean;
      secureConnecting?: boolean;
    };
    // A kept connection, or one that a proxy's tunnel has made ready.
    if (!socket.connecting && !secureConnecting) done();
    else socket.once(encrypted ? 'secureConnect' : 'connect', done);
  });
  request.once('response', done);
  request.once('close', done);
}

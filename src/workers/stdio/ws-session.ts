import type { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import type { WebSocket } from 'ws';
import type { StreamOptions } from './protocol.ts';
import { type RemoteSession, statusOf, wantedStreams } from './remote-session.ts';
import { WsChannels } from './ws-channels.ts';

/**
 * The supported values of Sec-WebSocket-Protocol for exec and attach, best first. v5 is v4 with a half-close of stdin.
 * A client that offers none gets channel.k8s.io.
 */
export const WS_PROTOCOLS = [
  'v5.channel.k8s.io',
  'v4.channel.k8s.io',
  'v4.base64.channel.k8s.io',
  'channel.k8s.io',
  'base64.channel.k8s.io',
];

const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 } as const;
const NORMAL = 1000;

/** WebSocket channels are not opened one by one: the session is ready at once. */
export function wsSession(ws: WebSocket, protocol: string, options: StreamOptions): RemoteSession {
  const channels = new WsChannels(ws, { base64: protocol.includes('base64'), canClose: protocol.startsWith('v5.') });
  const wanted = new Set(wantedStreams(options, protocol));
  const closed = new AbortController();
  ws.on('close', () => closed.abort());
  const error = channels.output(CHANNEL.error);
  const stdout = wanted.has('stdout') ? channels.output(CHANNEL.stdout) : undefined;
  const stderr = wanted.has('stderr') ? channels.output(CHANNEL.stderr) : undefined;
  // Clients wait for a first message as the sign of an established connection: it is empty, on the first output
  // channel.
  channels.send(stdout ? CHANNEL.stdout : stderr ? CHANNEL.stderr : CHANNEL.error, Buffer.alloc(0));
  return {
    stdin: wanted.has('stdin') ? channels.input(CHANNEL.stdin) : undefined,
    stdout,
    stderr,
    resize: wanted.has('resize') ? channels.input(CHANNEL.resize) : undefined,
    closed: closed.signal,
    async finish(outcome) {
      const outputs = [stdout, stderr].filter((stream) => stream !== undefined);
      await endAll(outputs);
      const status = statusOf(outcome, protocol);
      if (status !== '') error.write(status);
      await endAll([error]);
      ws.resume(); // the client's close frame must be read
      ws.close(NORMAL);
    },
    destroy: () => ws.terminate(),
  };
}

async function endAll(outputs: Writable[]): Promise<void> {
  for (const output of outputs) output.end();
  await Promise.allSettled(outputs.map((output) => finished(output)));
}

/** The connection of an exec or attach, independent of its protocol. */
import type { Readable, Writable } from 'node:stream';
import type { StreamOptions } from './protocol.ts';

/** The end of a session: an exit code (0 for attach), or the reason why there is none. */
export type Outcome = { exitCode: number } | { error: string };

export interface RemoteSession {
  /** The streams of the request; undefined for those that were not requested. */
  stdin: Readable | undefined;
  stdout: Writable | undefined;
  stderr: Writable | undefined;
  /** JSON objects, see {@link onResize}. Only with a tty, and where the protocol has this stream. */
  resize: Readable | undefined;
  /** Aborts when the connection is closed, for whatever reason. */
  closed: AbortSignal;
  /** Sends all output, then the outcome, and closes the connection. Resolves when both were sent. */
  finish(outcome: Outcome): Promise<void>;
  /** Closes the connection without an outcome. */
  destroy(): void;
}

/** The protocol has a resize stream from its third version on. */
const hasResize = (protocol: string): boolean => /^v[345]\./.test(protocol);

/** The streams that a client has to open, besides the error stream. */
export function wantedStreams(options: StreamOptions, protocol: string): string[] {
  const { stdin, stdout, stderr, tty } = options;
  return [
    ...(stdin ? ['stdin'] : []),
    ...(stdout ? ['stdout'] : []),
    ...(stderr ? ['stderr'] : []),
    ...(tty && hasResize(protocol) ? ['resize'] : []),
  ];
}

/**
 * The content of the error stream. From v4 on it is a Status object of the Kubernetes API as JSON, with the exit code
 * among its causes (`metav1.Status`); before, it is a text for an error and empty otherwise.
 */
export function statusOf(outcome: Outcome, protocol: string): string {
  const structured = /^v[45]\./.test(protocol);
  if ('error' in outcome) {
    const message = `Internal error occurred: ${outcome.error}`;
    return structured
      ? JSON.stringify({ metadata: {}, status: 'Failure', message, reason: 'InternalError', code: 500 })
      : message;
  }
  const { exitCode } = outcome;
  if (exitCode === 0) return structured ? JSON.stringify({ metadata: {}, status: 'Success' }) : '';
  const message = `command terminated with non-zero exit code: exit status ${exitCode}`;
  if (!structured) return message;
  return JSON.stringify({
    metadata: {},
    status: 'Failure',
    message,
    reason: 'NonZeroExitCode',
    details: { causes: [{ reason: 'ExitCode', message: String(exitCode) }] },
  });
}

/** The longest text of one resize message. */
const MAX_RESIZE = 1024;

/**
 * Calls `apply` for each `{"Width":80,"Height":24}` of a resize stream, however the text is split into chunks. Destroys
 * the stream when it contains anything else.
 */
export function onResize(stream: Readable, apply: (size: { width: number; height: number }) => void): void {
  let text = '';
  stream.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
    for (let end = text.indexOf('}'); end !== -1; end = text.indexOf('}')) {
      const size = parseSize(text.slice(0, end + 1));
      text = text.slice(end + 1);
      if (!size) {
        stream.destroy();
        return;
      }
      if (size.width >= 1 && size.height >= 1) apply(size);
    }
    if (text.length > MAX_RESIZE) stream.destroy();
  });
}

function parseSize(text: string): { width: number; height: number } | undefined {
  try {
    const { Width: width, Height: height } = JSON.parse(text) as { Width?: unknown; Height?: unknown };
    const ok = (value: unknown): value is number => Number.isInteger(value) && (value as number) <= 0xffff;
    return ok(width) && ok(height) ? { width, height } : undefined;
  } catch {
    return undefined;
  }
}

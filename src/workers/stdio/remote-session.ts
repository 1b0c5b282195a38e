/** An exec's or attach's connection, whichever protocol carries it. */
import type { Readable, Writable } from 'node:stream';
import type { StreamOptions } from './protocol.ts';

/** How it ended: with an exit code (attach: 0), or not at all for a reason. */
export type Outcome = { exitCode: number } | { error: string };

export interface RemoteSession {
  /** The streams the request asked for; absent ones were not asked for. */
  stdin: Readable | undefined;
  stdout: Writable | undefined;
  stderr: Writable | undefined;
  /** JSON objects, see {@link onResize}. Only with a tty, and where the protocol has it. */
  resize: Readable | undefined;
  /** Fires when the connection is gone, in whatever way. */
  closed: AbortSignal;
  /** Tells the client how it ended, once all output is sent, and closes. Resolves when that is under way. */
  finish(outcome: Outcome): Promise<void>;
  /** Breaks the connection. */
  destroy(): void;
}

/** Resize streams exist from the third version of the protocol on. */
export const hasResize = (protocol: string): boolean => /^v[345]\./.test(protocol);

/** The streams a client has to open, the error stream left out. */
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
 * What goes on the error stream. From v4 on a Status object of the Kubernetes API as JSON, with the exit code among its causes
 * (`metav1.Status`); before, text when there is something to complain about, and nothing otherwise.
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

/** Longest text of one resize message. */
const MAX_RESIZE = 1024;

/** Calls `apply` for each `{"Width":80,"Height":24}` of a resize stream, however it is cut. Nonsense ends the listening. */
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

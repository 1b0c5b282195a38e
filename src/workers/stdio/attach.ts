import type { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { explain } from '../../errors.ts';
import type { ContainerIo, Follower } from './container-io.ts';
import type { IoTable } from './io-table.ts';
import type { StreamName } from './log-lines.ts';
import type { ExecBackend, StreamRequest } from './protocol.ts';
import { type Outcome, onResize, type RemoteSession } from './remote-session.ts';

/** Bytes of output that may be buffered for one client. */
const MAX_BEHIND = 1 << 20;
/**
 * After a client's input has ended, the session ends when no output came for LINGER_QUIET_MS, and after LINGER_MAX_MS
 * at the latest.
 */
const LINGER_QUIET_MS = 500;
const LINGER_MAX_MS = 3000;

export interface AttachContext {
  backend: ExecBackend;
  containers: IoTable;
  onDropped(message: string): void;
  onFailure(message: string): void;
}

type AttachRequest = Extract<StreamRequest, { kind: 'attach' }>;

/**
 * Attaches a client to a running container: it gets the output from now on, until the container ends or the client
 * disconnects, and its input goes to the container's stdin. Any number of clients may be attached. Never rejects.
 */
export async function serveAttach(
  request: AttachRequest,
  session: RemoteSession,
  context: AttachContext,
): Promise<void> {
  const { containers, backend, onFailure } = context;
  const { stdin, resize, closed } = session;
  const { containerId } = request;
  let outcome: Outcome;
  let io: ContainerIo | undefined;
  let follower: AttachedClient | undefined;
  try {
    io = await containers.get(containerId);
    const container = io;
    follower = new AttachedClient(session, container);
    const failed = (what: string) => (error: unknown) => onFailure(`${what}: ${explain(error)}`);
    if (resize) {
      onResize(resize, (size) => void backend.resize({ containerId, ...size }).catch(failed('resizing a container')));
    }
    container.attach(follower);
    closed.addEventListener('abort', () => follower?.end());
    if (closed.aborted) follower.end();
    if (stdin && container.stdin) {
      void copyInput(stdin, container.stdin)
        .then(async () => {
          if (container.registration.stdinOnce && !request.tty) {
            await container.closeStdin();
            await backend.closeStdin({ containerId });
          } else follower?.linger();
        })
        .catch(failed('closing a container’s stdin'));
    } else stdin?.resume();
    outcome = await follower.done;
  } catch (error) {
    outcome = { error: `error attaching to container: ${explain(error)}` };
    onFailure(outcome.error);
  } finally {
    if (follower) io?.detach(follower);
  }
  if ('error' in outcome && follower?.dropped) {
    context.onDropped(outcome.error);
    session.destroy(); // the client does not read, so it would not get an error message either
  } else await session.finish(outcome);
}

class AttachedClient implements Follower {
  readonly done: Promise<Outcome>;
  readonly #finish: (outcome: Outcome) => void;
  readonly #outputs: Partial<Record<StreamName, Writable>>;
  #lingering: NodeJS.Timeout | undefined;
  dropped = false;

  constructor({ stdout, stderr }: RemoteSession, io: ContainerIo) {
    const { promise, resolve } = Promise.withResolvers<Outcome>();
    this.done = promise;
    this.#finish = resolve;
    this.#outputs = { stdout, stderr };
    for (const output of [stdout, stderr]) output?.on('drain', () => io.followerHasRoom());
  }

  get hasRoom(): boolean {
    const { stdout, stderr } = this.#outputs;
    return (stdout?.writableLength ?? 0) + (stderr?.writableLength ?? 0) < MAX_BEHIND;
  }

  write(stream: StreamName, bytes: Buffer): boolean {
    this.#lingering?.refresh();
    const output = this.#outputs[stream];
    if (output && !output.destroyed) output.write(bytes);
    return this.hasRoom;
  }

  end(): void {
    clearTimeout(this.#lingering);
    this.#finish({ exitCode: 0 });
  }

  drop(reason: string): void {
    this.dropped = true;
    this.#finish({ error: reason });
  }

  /**
   * Ends the session after {@link LINGER_QUIET_MS} without output, so that the client gets the output that its last
   * input causes.
   */
  linger(): void {
    this.#lingering = setTimeout(() => this.end(), LINGER_QUIET_MS);
    const last = setTimeout(() => this.end(), LINGER_MAX_MS);
    void this.done.then(() => clearTimeout(last));
  }
}

/**
 * Copies a client's input to a stdin that other clients share and that stays open. Resolves when the client's input
 * ends.
 */
function copyInput(from: Readable, to: Socket): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  to.setMaxListeners(0);
  const goOn = () => from.resume();
  from.on('data', (chunk: Buffer) => {
    if (to.writable && !to.write(chunk)) from.pause();
  });
  to.on('drain', goOn);
  to.on('close', goOn);
  from.on('close', () => {
    to.off('drain', goOn);
    to.off('close', goOn);
    resolve();
  });
  from.on('end', resolve);
  return promise;
}

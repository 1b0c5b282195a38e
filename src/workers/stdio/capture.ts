import { rmSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { makeFifo } from '../../sys/fifo.ts';
import { type Drained, drainReaders, FifoReader } from './fifo.ts';
import type { Captured, Fifos } from './protocol.ts';

/**
 * For a process that has ended while something still has its output open: the output counts as complete after so long
 * without a byte, and after so long in all (milliseconds).
 */
const QUIET_MS = 500;
const MAX_MS = 10_000;

/** Paths of an exec's FIFOs in `folder`. */
export function execFifos(
  folder: string,
  execId: string,
  streams: { stdin: boolean; stdout: boolean; stderr: boolean },
): Fifos {
  const path = (wanted: boolean, name: string) => (wanted ? join(folder, `${execId}-${name}`) : '');
  return {
    stdin: path(streams.stdin, 'stdin'),
    stdout: path(streams.stdout, 'stdout'),
    stderr: path(streams.stderr, 'stderr'),
  };
}

export function makeFifos(fifos: Fifos): void {
  for (const path of Object.values(fifos)) if (path !== '') makeFifo(path);
}

/** Removes the FIFOs' names: both sides have opened them by now, or never will. */
export function unlinkFifos(fifos: Fifos): void {
  for (const path of Object.values(fifos)) if (path !== '') rmSync(path, { force: true });
}

/** Makes the folder of exec FIFOs and empties it: execs do not outlive the worker that served them. */
export async function clearExecDir(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const name of await readdir(folder)) rmSync(join(folder, name), { force: true });
}

/** Keeps the beginning of a stream, up to a limit, and counts the rest. */
class HeadBuffer {
  readonly #chunks: Buffer[] = [];
  readonly #max: number;
  #size = 0;
  dropped = 0;

  constructor(max: number) {
    this.#max = max;
  }

  push(bytes: Buffer): void {
    const keep = Math.min(bytes.length, this.#max - this.#size);
    if (keep > 0) this.#chunks.push(Buffer.from(bytes.subarray(0, keep)));
    this.#size += keep;
    this.dropped += bytes.length - keep;
  }

  take(): Uint8Array<ArrayBuffer> {
    // A separate ArrayBuffer and not a slice of Node's pool, since it is transferred to the main thread.
    const all = new Uint8Array(this.#size);
    let at = 0;
    for (const chunk of this.#chunks) {
      all.set(chunk, at);
      at += chunk.length;
    }
    return all;
  }
}

/** The output of one ExecSync, read into memory. */
class Capture implements Disposable {
  readonly fifos: Fifos;
  /** Called when the process has ended. */
  readonly processEnded: () => void;
  readonly #processEnded: Promise<void>;
  readonly #stdout: HeadBuffer;
  readonly #stderr: HeadBuffer;
  readonly #readers: FifoReader[] = [];

  constructor(fifos: Fifos, maxBytes: number) {
    this.fifos = fifos;
    this.#stdout = new HeadBuffer(maxBytes);
    this.#stderr = new HeadBuffer(maxBytes);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#processEnded = promise;
    this.processEnded = resolve;
    try {
      makeFifos(fifos);
      this.#readers.push(this.#read(fifos.stdout, this.#stdout), this.#read(fifos.stderr, this.#stderr));
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  #read(path: string, head: HeadBuffer): FifoReader {
    return new FifoReader(path, (bytes) => {
      head.push(bytes);
      return true;
    });
  }

  /** Resolves when all writers have closed, or some time after the process has ended when others still have it open. */
  async drain(): Promise<Drained> {
    await Promise.race([Promise.all(this.#readers.map((reader) => reader.ended)), this.#processEnded]);
    return drainReaders(this.#readers, QUIET_MS, MAX_MS);
  }

  take(complete: boolean): Captured {
    const dropped = this.#stdout.dropped + this.#stderr.dropped;
    return { stdout: this.#stdout.take(), stderr: this.#stderr.take(), dropped, complete };
  }

  [Symbol.dispose](): void {
    for (const reader of this.#readers) reader[Symbol.dispose]();
    this.processEnded();
    unlinkFifos(this.fifos);
  }
}

/** The running captures, by exec id. */
export class Captures implements Disposable {
  readonly #folder: string;
  readonly #captures = new Map<string, Capture>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Makes an exec's FIFOs (no stdin) and starts reading them. */
  open(execId: string, maxBytes: number): Fifos {
    const fifos = execFifos(this.#folder, execId, { stdin: false, stdout: true, stderr: true });
    this.#captures.set(execId, new Capture(fifos, maxBytes));
    return fifos;
  }

  /**
   * Resolves with everything that the process wrote, once that is complete, or {@link processEnded} was called. Closes
   * and removes the FIFOs. Throws INTERNAL for an exec without a capture.
   */
  async output(execId: string): Promise<Captured> {
    const capture = this.#captures.get(execId);
    if (!capture) throw new SluiceError('INTERNAL', `no output is captured for exec ${execId}`);
    try {
      const { complete } = await capture.drain();
      return capture.take(complete);
    } finally {
      this.drop(execId);
    }
  }

  /** The process has ended: what has its output open now is none that the caller waits for. An absent one is fine. */
  processEnded(execId: string): void {
    this.#captures.get(execId)?.processEnded();
  }

  /** Ends a capture, whose output is what has come so far; an absent one is fine. */
  drop(execId: string): void {
    this.#captures.get(execId)?.[Symbol.dispose]();
    this.#captures.delete(execId);
  }

  [Symbol.dispose](): void {
    for (const execId of [...this.#captures.keys()]) this.drop(execId);
  }
}

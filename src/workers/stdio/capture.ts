import { rmSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { makeFifo } from '../../sys/fifo.ts';
import { type Drained, drainReaders, FifoReader } from './fifo.ts';
import type { Captured, Fifos } from './protocol.ts';

/** A process that ended and whose output something still holds: so much silence, or so long in all, counts as the end (ms). */
const QUIET_MS = 500;
const MAX_MS = 10_000;

/** Names of an exec's FIFOs, under `folder`. */
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

/** Both sides have opened the FIFOs, or never will: the names are not needed any more. */
export function unlinkFifos(fifos: Fifos): void {
  for (const path of Object.values(fifos)) if (path !== '') rmSync(path, { force: true });
}

/** Empties the folder of exec FIFOs: execs do not outlive the worker that served them. */
export async function clearExecDir(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o711 });
  for (const name of await readdir(folder)) rmSync(join(folder, name), { force: true });
}

/** Keeps the begin of a stream, up to a limit. */
class Keeper {
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
    // A buffer of its own and not a piece of Node's pool: it is handed to the other thread whole.
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
  readonly #stdout: Keeper;
  readonly #stderr: Keeper;
  readonly #readers: FifoReader[] = [];

  constructor(fifos: Fifos, maxBytes: number) {
    this.fifos = fifos;
    this.#stdout = new Keeper(maxBytes);
    this.#stderr = new Keeper(maxBytes);
    try {
      makeFifos(fifos);
      this.#readers.push(this.#read(fifos.stdout, this.#stdout), this.#read(fifos.stderr, this.#stderr));
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  #read(path: string, keeper: Keeper): FifoReader {
    return new FifoReader(path, (bytes) => {
      keeper.push(bytes);
      return true;
    });
  }

  drain(): Promise<Drained> {
    return drainReaders(this.#readers, QUIET_MS, MAX_MS);
  }

  take(complete: boolean): Captured {
    const dropped = this.#stdout.dropped + this.#stderr.dropped;
    return { stdout: this.#stdout.take(), stderr: this.#stderr.take(), dropped, complete };
  }

  [Symbol.dispose](): void {
    for (const reader of this.#readers) reader[Symbol.dispose]();
    unlinkFifos(this.fifos);
  }
}

/** The captures under way, by exec id. */
export class Captures {
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

  /** After the process ended: everything it wrote. Closes and removes the FIFOs. */
  async finish(execId: string): Promise<Captured> {
    const capture = this.#captures.get(execId);
    if (!capture) throw new SluiceError('INTERNAL', `no output is captured for exec ${execId}`);
    try {
      const { complete } = await capture.drain();
      return capture.take(complete);
    } finally {
      this.drop(execId);
    }
  }

  /** Gives up on one; one that is not there is fine. */
  drop(execId: string): void {
    this.#captures.get(execId)?.[Symbol.dispose]();
    this.#captures.delete(execId);
  }
}

import { rm, rmdir } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { dirname } from 'node:path';
import { makeFifo } from '../../sys/fifo.ts';
import { Clock, Stamp } from './clock.ts';
import { type Drained, drainReaders, FifoReader, FifoWriter } from './fifo.ts';
import { LogFile } from './log-file.ts';
import { LogLines, type StreamName } from './log-lines.ts';
import type { Fifos, IoRegistration, IoStats } from './protocol.ts';

/** A line without an end is written as a piece after so long: it can be seen, and a dying daemon takes no more than that along. */
const UNFINISHED_MS = 1000;
/** How long a client may hold up the container it is attached to, in milliseconds; then the client goes. */
const CLIENT_STALL_MS = 2000;

const clock = new Clock();

/** Someone who follows a container's output live. */
export interface Follower {
  /** Takes bytes of its own (a copy). Returns false when its buffer is full. */
  write(stream: StreamName, bytes: Buffer): boolean;
  /** Its buffer has room. */
  readonly hasRoom: boolean;
  /** The container's output is at its end. */
  end(): void;
  /** It did not keep up, and was dropped. */
  drop(reason: string): void;
}

export interface IoEvents {
  onLogError(id: string, path: string, error: Error): void;
}

interface OutputStream {
  name: StreamName;
  reader: FifoReader;
  lines: LogLines | undefined;
}

/**
 * The input and output of one container: its FIFOs are read at all times, its log is written, and whoever is attached sees a copy.
 * Nothing of the container's is held back but for a log that waits for its disk, and shortly for a slow follower.
 */
export class ContainerIo {
  readonly registration: IoRegistration;
  readonly #log: LogFile | undefined;
  readonly #outputs: OutputStream[] = [];
  readonly #followers = new Set<Follower>();
  readonly #stats: IoStats = { bytes: 0, entries: 0, split: 0, droppedBytes: 0, droppedEntries: 0 };
  #stdin: FifoWriter | undefined;
  /** The container has ended and its output was read. */
  #over = false;
  #released = false;
  #unfinishedTimer: NodeJS.Timeout | undefined;
  #stallTimer: NodeJS.Timeout | undefined;

  static async open(registration: IoRegistration, events: IoEvents): Promise<ContainerIo> {
    for (const path of Object.values(registration.fifos)) if (path !== '') makeFifo(path);
    let io: ContainerIo | undefined;
    const log =
      registration.logPath === ''
        ? undefined
        : await LogFile.open(registration.logPath, {
            onError: (error) => events.onLogError(registration.id, registration.logPath, error),
            onDropped: (bytes, entries) => io?.countDropped(bytes, entries),
            onRoom: () => io?.resume(),
          });
    try {
      io = new ContainerIo(registration, log);
      return io;
    } catch (error) {
      await log?.close();
      throw error;
    }
  }

  private constructor(registration: IoRegistration, log: LogFile | undefined) {
    this.registration = registration;
    this.#log = log;
    const { stdin, stdout, stderr } = registration.fifos;
    try {
      const stamp = new Stamp(clock);
      if (stdout !== '') this.#outputs.push(this.#follow('stdout', stdout, stamp));
      if (stderr !== '') this.#outputs.push(this.#follow('stderr', stderr, stamp));
      if (stdin !== '') this.#stdin = new FifoWriter(stdin);
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  get id(): string {
    return this.registration.id;
  }

  get stats(): IoStats {
    return this.#stats;
  }

  /** The container's stdin; undefined when it has none, or when it was closed. */
  get stdin(): Socket | undefined {
    return this.#stdin?.stream.writable ? this.#stdin.stream : undefined;
  }

  /** The read ends of what the container still writes to. */
  get descriptors(): number[] {
    return this.#outputs.flatMap(({ reader }) => reader.descriptor ?? []);
  }

  get isOver(): boolean {
    return this.#over;
  }

  #follow(name: StreamName, path: string, stamp: Stamp): OutputStream {
    const log = this.#log;
    const lines = log && new LogLines(name, this.registration.maxLine, stamp, log, this.#stats);
    const reader = new FifoReader(path, (bytes) => {
      this.#stats.bytes += bytes.length;
      if (log && lines) {
        lines.push(bytes);
        log.flush();
        if (lines.unfinished > 0) this.#unfinishedTimer ??= setTimeout(() => this.#flushUnfinished(), UNFINISHED_MS);
      }
      if (this.#followers.size > 0) this.#tell(name, bytes);
      return !log?.full && !this.#stallTimer;
    });
    void reader.ended.then(() => this.#streamEnded());
    return { name, reader, lines };
  }

  #streamEnded(): void {
    // When we closed them ourselves, all has been said already.
    if (!this.#released && this.#outputs.every(({ reader }) => reader.isEnded)) this.#finishOutput();
  }

  #finishOutput(): void {
    this.#over = true;
    for (const { lines } of this.#outputs) lines?.flush(true);
    this.#log?.flush();
    const followers = [...this.#followers];
    this.#followers.clear();
    for (const follower of followers) follower.end();
  }

  #flushUnfinished(): void {
    this.#unfinishedTimer = undefined;
    for (const { lines } of this.#outputs) lines?.flush(false);
    this.#log?.flush();
  }

  /** Lets the FIFOs be read again, where nothing speaks against it. */
  resume(): void {
    if (this.#log?.full || this.#stallTimer) return;
    for (const { reader } of this.#outputs) reader.resume();
  }

  countDropped(bytes: number, entries: number): void {
    this.#stats.droppedBytes += bytes;
    this.#stats.droppedEntries += entries;
  }

  /** Joins a follower. A container whose output is at its end has nothing to follow: `end` is called at once. */
  attach(follower: Follower): void {
    if (this.#over) follower.end();
    else this.#followers.add(follower);
  }

  detach(follower: Follower): void {
    this.#followers.delete(follower);
    this.followerHasRoom();
  }

  /** A follower's buffer has been emptied: the container goes on when it was the last full one. */
  followerHasRoom(): void {
    if (!this.#stallTimer || [...this.#followers].some((follower) => !follower.hasRoom)) return;
    clearTimeout(this.#stallTimer);
    this.#stallTimer = undefined;
    this.resume();
  }

  #tell(stream: StreamName, bytes: Buffer): void {
    const copy = Buffer.from(bytes);
    let full = false;
    for (const follower of this.#followers) if (!follower.write(stream, copy)) full = true;
    if (full) this.#stallTimer ??= setTimeout(() => this.#dropSlow(), CLIENT_STALL_MS);
  }

  #dropSlow(): void {
    for (const follower of this.#followers) {
      if (follower.hasRoom) continue;
      this.#followers.delete(follower);
      follower.drop(`the client took too little of the output for ${CLIENT_STALL_MS / 1000} s`);
    }
    this.#stallTimer = undefined;
    this.resume();
  }

  /** Closes the container's stdin once what was written to it was taken. Main then tells the shim (CloseIO). */
  async closeStdin(): Promise<void> {
    await this.#stdin?.close();
  }

  /** See {@link drainReaders}. Afterwards all that was read is in the log, and followers have been told of the end. */
  async drain(quietMs: number, maxMs: number): Promise<Drained> {
    const drained = await drainReaders(
      this.#outputs.map(({ reader }) => reader),
      quietMs,
      maxMs,
    );
    this.#finishOutput();
    await this.#log?.settled();
    return drained;
  }

  /** Goes on in a new log file of the same path. */
  async reopenLog(): Promise<void> {
    await this.#log?.reopen();
  }

  /** Takes what still waits in the FIFOs and closes everything; the FIFOs stay. */
  async close(): Promise<void> {
    await this.drain(0, 1000);
    await this.suspend();
  }

  /** Closes without reading on: what waits in the FIFOs is left to whoever opens them next. */
  async suspend(): Promise<void> {
    this.#release();
    this.#finishOutput(); // with what came in the meantime
    await this.#log?.close();
  }

  #release(): void {
    this.#released = true;
    clearTimeout(this.#unfinishedTimer);
    clearTimeout(this.#stallTimer);
    this.#stallTimer = undefined;
    for (const { reader } of this.#outputs) reader[Symbol.dispose]();
    this.#stdin?.[Symbol.dispose]();
  }
}

/** Removes FIFOs, and their folder when nothing else is in it. What is not there is fine. */
export async function removeFifos(fifos: Fifos): Promise<void> {
  const paths = Object.values(fifos).filter((path) => path !== '');
  for (const path of paths) await rm(path, { force: true });
  for (const folder of new Set(paths.map((path) => dirname(path)))) {
    await rmdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT' && error.code !== 'ENOTEMPTY') throw error;
    });
  }
}

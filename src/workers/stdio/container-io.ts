import { rmdir } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { dirname } from 'node:path';
import { Clock } from '../../clock.ts';
import { makeFifo } from '../../sys/fifo.ts';
import { removeFile } from '../../sys/folder.ts';
import { type Drained, drainReaders, FifoReader, FifoWriter } from './fifo.ts';
import type { OutputJournal, Slot } from './journal.ts';
import { LogFile } from './log-file.ts';
import { LogLines, type StreamName } from './log-lines.ts';
import type { Fifos, IoRegistration, IoStats } from './protocol.ts';
import { Stamp } from './stamp.ts';
import { StderrHold } from './stream-order.ts';

/** An unfinished line is written as a partial entry after so long, so that it can be read (milliseconds). */
const UNFINISHED_MS = 1000;
/**
 * How long a client that does not read may block the container it is attached to, in milliseconds; after that it is
 * dropped.
 */
const CLIENT_STALL_MS = 2000;

const clock = new Clock();

/** A client that gets a container's output live. */
export interface Follower {
  /** Takes bytes that no one overwrites. Returns false when its buffer is full. */
  write(stream: StreamName, bytes: Buffer): boolean;
  /** Whether its buffer has room. */
  readonly hasRoom: boolean;
  /** Called when the container's output has ended. */
  end(): void;
  /** Called when it was dropped because it did not keep up. */
  drop(reason: string): void;
}

export interface IoEvents {
  onLogError(id: string, path: string, error: Error): void;
}

/** One output stream of a container with a log. */
interface LoggedStream {
  name: StreamName;
  lines: LogLines;
  /** Bytes of its reads that the log has got, in the file or on their way to it. */
  taken: number;
  /** What it gave to the log last is on its way. */
  underWay: boolean;
}

/**
 * The input and output of one container: reads its FIFOs all the time, writes its log, and copies the output to
 * attached clients. The container waits only for a log that waits for its disk, and for a short time for a slow client.
 */
export class ContainerIo {
  readonly registration: IoRegistration;
  readonly #log: LogFile | undefined;
  readonly #readers: { name: StreamName; reader: FifoReader }[] = [];
  readonly #logged: LoggedStream[] = [];
  readonly #journal: OutputJournal | undefined;
  readonly #slot: Slot | undefined;
  readonly #followers = new Set<Follower>();
  readonly #hold: StderrHold | undefined;
  readonly #stats: IoStats = { bytes: 0, entries: 0, split: 0, droppedBytes: 0, droppedEntries: 0 };
  #stdin: FifoWriter | undefined;
  /** The output has ended and was read. */
  #hasEnded = false;
  #released = false;
  #unfinishedTimer: NodeJS.Timeout | undefined;
  #stallTimer: NodeJS.Timeout | undefined;
  /** What goes to the log when the write under way has ended. */
  #afterWrite: (() => void)[] = [];

  /** `journal` keeps what is read and not written yet, and gives what an earlier daemon has left there. */
  static async open(
    registration: IoRegistration,
    events: IoEvents,
    journal: OutputJournal | undefined,
  ): Promise<ContainerIo> {
    for (const path of Object.values(registration.fifos)) if (path !== '') makeFifo(path);
    let io: ContainerIo | undefined;
    const log =
      registration.logPath === ''
        ? undefined
        : await LogFile.open(registration.logPath, {
            onError: (error) => events.onLogError(registration.id, registration.logPath, error),
            onDropped: (bytes, entries) => io?.countDropped(bytes, entries),
            onIdle: () => io?.logIsIdle(),
          });
    try {
      io = new ContainerIo(registration, log, journal);
      return io;
    } catch (error) {
      await log?.close();
      throw error;
    }
  }

  private constructor(registration: IoRegistration, log: LogFile | undefined, journal: OutputJournal | undefined) {
    this.registration = registration;
    this.#log = log;
    this.#journal = journal;
    // Of a log whose size is not known nobody could tell later what is in it.
    if (log?.size !== undefined) this.#slot = journal?.claim(registration.id);
    const { stdin, stdout, stderr } = registration.fifos;
    try {
      const stamp = new Stamp(clock);
      if (stdout !== '') {
        const take = this.#taker('stdout', stamp);
        this.#follow('stdout', stdout, (bytes) => {
          this.#hold?.stdout();
          take(bytes);
        });
      }
      if (stderr !== '') {
        const take = this.#taker('stderr', stamp);
        const release = (bytes: Buffer) => {
          take(bytes);
          this.resume();
        };
        const hold = new StderrHold({ release });
        this.#hold = hold;
        this.#follow('stderr', stderr, (bytes) => hold.stderr(bytes));
      }
      this.#recover();
      if (stdin !== '') this.#stdin = new FifoWriter(stdin);
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  /** Puts into the log what an earlier daemon has read and not written, or not wholly. */
  #recover(): void {
    const log = this.#log;
    const slot = this.#slot;
    if (!log || !slot) return;
    const { stream: writer, size: before } = slot.begun;
    const beyond = Math.max(0, (log.size ?? 0) - before);
    // What is written for one stream makes the log longer, so the stream of the write that was cut off comes first.
    for (const stream of this.#logged.toSorted((a, b) => Number(b.name === writer) - Number(a.name === writer))) {
      const { name, lines } = stream;
      const { line, unread, committing } = slot[name].recover();
      const written = name === writer && !committing ? beyond : 0;
      lines.resume(line);
      if (unread.length > 0) lines.push(unread);
      else if (written > 0) lines.flush(false);
      log.skip(written);
      if (written === 0) this.#begin(name);
      this.#write(stream, unread.length);
    }
  }

  get id(): string {
    return this.registration.id;
  }

  get stats(): IoStats {
    return this.#stats;
  }

  /** The container's stdin; undefined when it has none, or it was closed. */
  get stdin(): Socket | undefined {
    return this.#stdin?.stream.writable ? this.#stdin.stream : undefined;
  }

  /** Descriptors of the read ends that are still open. */
  get descriptors(): number[] {
    return this.#readers.flatMap(({ reader }) => reader.descriptor ?? []);
  }

  #follow(name: StreamName, path: string, take: (bytes: Buffer) => void): void {
    const reader = new FifoReader(
      path,
      (bytes) => {
        this.#stats.bytes += bytes.length;
        take(bytes);
        return !this.#mustWait && !this.#isHeld(name);
      },
      this.#slot?.[name].buffer,
    );
    void reader.ended.then(() => this.#streamEnded());
    this.#readers.push({ name, reader });
  }

  /** Makes the function that writes a stream's bytes to the log and copies them to the followers. */
  #taker(name: StreamName, stamp: Stamp): (bytes: Buffer) => void {
    const log = this.#log;
    const lines = log && new LogLines(name, this.registration.maxLine, stamp, log, this.#stats);
    const stream = lines && { name, lines, taken: 0, underWay: false };
    if (stream) this.#logged.push(stream);
    return (bytes) => {
      // First, since the bytes may be gone once they are in the log.
      if (this.#followers.size > 0) this.#copyToFollowers(name, bytes);
      if (!stream) return;
      const kept = this.#log?.busy ? Buffer.from(bytes) : bytes;
      this.#whenIdle(() => {
        stream.lines.push(kept);
        this.#begin(name);
        this.#write(stream, kept.length);
      });
    };
  }

  /** Notes in the journal that lines of the stream are about to be written. */
  #begin(name: StreamName): void {
    this.#slot?.begin(name, this.#log?.size ?? 0);
  }

  /**
   * Adds to the log now, or, while a slow disk keeps it busy, after the write under way: the journal has one note, by
   * which the next daemon knows of one stream's lines how far they came.
   */
  #whenIdle(add: () => void): void {
    if (this.#log?.busy) this.#afterWrite.push(add);
    else add();
  }

  /** Writes the lines of a stream, of which `taken` more bytes were read. */
  #write(stream: LoggedStream, taken: number): void {
    const log = this.#log;
    if (!log) return;
    stream.taken += taken;
    log.flush();
    if (stream.lines.unfinished.length > 0)
      this.#unfinishedTimer ??= setTimeout(() => this.#flushUnfinished(), UNFINISHED_MS);
    stream.underWay = log.busy;
    if (!log.busy) this.#commit(stream);
    else for (const { reader } of this.#readers) reader.pause();
  }

  #commit(stream: LoggedStream): void {
    const { name, lines, taken } = stream;
    stream.taken = 0;
    stream.underWay = false;
    this.#slot?.commit(name, taken, lines.unfinished, this.#log?.size ?? 0);
  }

  /** The log has written what it was given while its disk was slow. */
  logIsIdle(): void {
    for (const stream of this.#logged) if (stream.underWay) this.#commit(stream);
    for (const add of this.#afterWrite.splice(0)) this.#whenIdle(add);
    this.resume();
  }

  /** The stream's last read is held back, and stays in its buffer meanwhile. */
  #isHeld(name: StreamName): boolean {
    return name === 'stderr' && this.#hold?.holds === true;
  }

  /** No more is read, because the log or a client does not keep up. */
  get #mustWait(): boolean {
    return this.#log?.busy === true || this.#stallTimer !== undefined;
  }

  #streamEnded(): void {
    // suspend() finishes the output itself after it has closed the readers.
    if (!this.#released && this.#readers.every(({ reader }) => reader.isEnded)) this.#finishOutput();
  }

  #finishOutput(): void {
    this.#hasEnded = true;
    this.#hold?.flush();
    this.#flushLines(true);
    const followers = [...this.#followers];
    this.#followers.clear();
    for (const follower of followers) follower.end();
  }

  #flushUnfinished(): void {
    this.#unfinishedTimer = undefined;
    this.#flushLines(false);
  }

  /** Writes unfinished lines as partial entries, see {@link LogLines.flush}. */
  #flushLines(all: boolean): void {
    for (const stream of this.#logged) {
      this.#whenIdle(() => {
        if (stream.lines.unfinished.length === 0) return;
        this.#begin(stream.name);
        stream.lines.flush(all);
        this.#write(stream, 0);
      });
    }
  }

  /** Reads the FIFOs on, unless the log or a client does not keep up. */
  resume(): void {
    if (this.#mustWait || this.#released) return;
    for (const { name, reader } of this.#readers) if (!this.#isHeld(name)) reader.resume();
  }

  countDropped(bytes: number, entries: number): void {
    this.#stats.droppedBytes += bytes;
    this.#stats.droppedEntries += entries;
  }

  /** Adds a follower. When the output has ended already, its `end` is called at once. */
  attach(follower: Follower): void {
    if (this.#hasEnded) follower.end();
    else this.#followers.add(follower);
  }

  detach(follower: Follower): void {
    this.#followers.delete(follower);
    this.followerHasRoom();
  }

  /** A follower's buffer has room again: reading resumes when it was the last full one. */
  followerHasRoom(): void {
    if (!this.#stallTimer || [...this.#followers].some((follower) => !follower.hasRoom)) return;
    clearTimeout(this.#stallTimer);
    this.#stallTimer = undefined;
    this.resume();
  }

  #copyToFollowers(stream: StreamName, bytes: Buffer): void {
    const copy = Buffer.from(bytes);
    let full = false;
    for (const follower of this.#followers) if (!follower.write(stream, copy)) full = true;
    if (full) this.#stallTimer ??= setTimeout(() => this.#dropSlow(), CLIENT_STALL_MS);
  }

  #dropSlow(): void {
    for (const follower of this.#followers) {
      if (follower.hasRoom) continue;
      this.#followers.delete(follower);
      follower.drop(`the client did not read the output for ${CLIENT_STALL_MS / 1000} s`);
    }
    this.#stallTimer = undefined;
    this.resume();
  }

  /** Closes the container's stdin once everything written to it was read. Main then calls CloseIO of the shim. */
  async closeStdin(): Promise<void> {
    await this.#stdin?.close();
  }

  /**
   * See {@link drainReaders}. Afterwards everything that was read is in the log, and `end` of the followers has been
   * called.
   */
  async drain(quietMs: number, maxMs: number): Promise<Drained> {
    const drained = await drainReaders(
      this.#readers.map(({ reader }) => reader),
      quietMs,
      maxMs,
    );
    this.#finishOutput();
    await this.#log?.settled();
    return drained;
  }

  /** Continues the log in a new file of the same path. */
  async reopenLog(): Promise<void> {
    await this.#log?.reopen();
  }

  /** Reads what is left in the FIFOs and closes everything; the FIFOs remain. */
  async close(): Promise<void> {
    await this.drain(0, 1000);
    await this.suspend();
  }

  /** Closes without reading on: what is in the FIFOs is left to the next reader. */
  async suspend(): Promise<void> {
    this.#release();
    this.#finishOutput(); // includes what was read in the meantime
    if (await this.#log?.close()) this.#journal?.release(this.id);
  }

  #release(): void {
    this.#released = true;
    clearTimeout(this.#unfinishedTimer);
    clearTimeout(this.#stallTimer);
    this.#stallTimer = undefined;
    for (const { reader } of this.#readers) reader[Symbol.dispose]();
    this.#stdin?.[Symbol.dispose]();
  }
}

/** Removes FIFOs, and their folder when it is empty then. An absent one is fine. */
export async function removeFifos(fifos: Fifos): Promise<void> {
  const paths = Object.values(fifos).filter((path) => path !== '');
  for (const path of paths) await removeFile(path);
  for (const folder of new Set(paths.map((path) => dirname(path)))) {
    await rmdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT' && error.code !== 'ENOTEMPTY') throw error;
    });
  }
}

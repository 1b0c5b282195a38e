/**
 * Small files of layers that any thread of the image pool may make: memory that its threads share. A layer's thread
 * reads the archive, which only one can, and of the system calls that each file takes it leaves some to threads that
 * have no layer. It can take back what none of them has begun, so it waits for nobody but a thread that is at work.
 */
import type { SmallFile } from './small-file.ts';

/** Batches at a time, and their bytes: room for the largest small file with the longest path. */
const SLOTS = 8;
const SLOT_BYTES = 64 << 10;
/** Files of a batch: half a millisecond's work, which is some ten times what waking a thread takes. */
const FILES_OF_BATCH = 16;

/**
 * Where the words are: threads that would help, a number that changes when there may be work, and four for each slot.
 */
const HELPERS = 0;
const CHANGES = 1;
const WORDS = 2;
const WORDS_OF_SLOT = 4;
const STATE = 0;
/** Files of the batch; those that were made, the first ones; the blocks that they occupy. */
const COUNT = 1;
const MADE = 2;
const BLOCKS = 3;
const WORD_BYTES = 8 * Math.ceil((4 * (WORDS + SLOTS * WORDS_OF_SLOT)) / 8);

/**
 * The state of a slot: nobody's; a layer's thread puts files in; any thread may take it; one makes them; they are made.
 */
const FREE = 0;
const FILLING = 1;
const READY = 2;
const TAKEN = 3;
const DONE = 4;

/** A record: words (below), the path, the bytes; the next one begins at a multiple of eight. */
const SIZE = 0;
const PATH_LENGTH = 1;
const MODE = 2;
const UID = 3;
const GID = 4;
const FLAGS = 5;
const ATIME_NANOSECONDS = 6;
const MTIME_NANOSECONDS = 7;
/** Seconds are doubles: these are numbers of doubles and not of words. */
const ATIME = 4;
const MTIME = 5;
const RECORD_BYTES = 48;
const HAS_OWNER = 1;

/**
 * Milliseconds for one batch that another thread has begun. Only a disk that hangs, or a thread that was killed in the
 * middle of it, takes so long.
 */
const PATIENCE_MS = 5 * 60_000;

/** For tests. */
export interface FileQueueOptions {
  filesOfBatch?: number;
  patienceMs?: number;
}

export const fileQueueMemory = (): SharedArrayBuffer => new SharedArrayBuffer(WORD_BYTES + SLOTS * SLOT_BYTES);

/** One thread's view of the memory. */
export class FileQueue {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #batches: Batch[];
  /** A batch has no more files than this. */
  readonly filesOfBatch: number;

  constructor(memory: SharedArrayBuffer, options: FileQueueOptions = {}) {
    const { filesOfBatch = FILES_OF_BATCH, patienceMs = PATIENCE_MS } = options;
    this.filesOfBatch = filesOfBatch;
    this.#words = new Int32Array(memory, 0, WORDS + SLOTS * WORDS_OF_SLOT);
    this.#batches = Array.from(
      { length: SLOTS },
      (_, slot) => new Batch(memory, { words: this.#words, slot, patienceMs, wake: () => this.wake() }),
    );
  }

  /** Threads that have no layer. */
  get helpers(): number {
    return Atomics.load(this.#words, HELPERS);
  }

  /** This thread has no layer from now on, and takes what is offered. */
  join(): void {
    Atomics.add(this.#words, HELPERS, 1);
    this.wake();
  }

  /** It has one, after {@link join}. */
  leave(): void {
    Atomics.sub(this.#words, HELPERS, 1);
  }

  /** Another one when there may be something to take. */
  get changes(): number {
    return Atomics.load(this.#words, CHANGES);
  }

  /** Resolves when {@link changes} is no longer `seen`. */
  async changed(seen: number): Promise<void> {
    await Atomics.waitAsync(this.#words, CHANGES, seen).value;
  }

  /** Makes helping threads look for something to take. */
  wake(): void {
    Atomics.add(this.#words, CHANGES, 1);
    Atomics.notify(this.#words, CHANGES);
  }

  /** An empty batch for this thread to fill; undefined when none is free. */
  fill(): Batch | undefined {
    return this.#batches.find((batch) => batch.claim());
  }

  /** A batch that this thread has to make now; undefined when there is none. */
  take(): Batch | undefined {
    return this.#batches.find((batch) => batch.take());
  }
}

interface BatchOptions {
  words: Int32Array<SharedArrayBuffer>;
  slot: number;
  patienceMs: number;
  wake: () => void;
}

/** Files in one slot of the memory. Which calls are allowed follows from the slot's state, and who has it. */
export class Batch {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #base: number;
  readonly #bytes: Buffer<SharedArrayBuffer>;
  readonly #numbers: Uint32Array<SharedArrayBuffer>;
  readonly #doubles: Float64Array<SharedArrayBuffer>;
  readonly #patienceMs: number;
  readonly #wake: () => void;
  #end = 0;

  constructor(memory: SharedArrayBuffer, { words, slot, patienceMs, wake }: BatchOptions) {
    const from = WORD_BYTES + slot * SLOT_BYTES;
    this.#words = words;
    this.#base = WORDS + slot * WORDS_OF_SLOT;
    this.#bytes = Buffer.from(memory, from, SLOT_BYTES);
    this.#numbers = new Uint32Array(memory, from, SLOT_BYTES / 4);
    this.#doubles = new Float64Array(memory, from, SLOT_BYTES / 8);
    this.#patienceMs = patienceMs;
    this.#wake = wake;
  }

  /** Makes an empty batch of a free slot, for this thread to fill; false when it is not free. */
  claim(): boolean {
    if (!this.#from(FREE, FILLING)) return false;
    this.#words[this.#base + COUNT] = 0;
    this.#words[this.#base + MADE] = 0;
    this.#words[this.#base + BLOCKS] = 0;
    this.#end = 0;
    return true;
  }

  /** Copies a file into the batch; false when it has no room. Then it has others, since one always has room. */
  add({ path, mode, owner, atime, mtime }: SmallFile, data: Buffer): boolean {
    const count = this.#words[this.#base + COUNT] ?? 0;
    const at = this.#end;
    const body = at + RECORD_BYTES + path.length;
    const end = body + data.length;
    if (end > SLOT_BYTES) return false;
    const first = at / 4;
    this.#numbers[first + SIZE] = data.length;
    this.#numbers[first + PATH_LENGTH] = path.length;
    this.#numbers[first + MODE] = mode;
    this.#numbers[first + UID] = owner?.uid ?? 0;
    this.#numbers[first + GID] = owner?.gid ?? 0;
    this.#numbers[first + FLAGS] = owner ? HAS_OWNER : 0;
    this.#numbers[first + ATIME_NANOSECONDS] = atime.nanoseconds;
    this.#numbers[first + MTIME_NANOSECONDS] = mtime.nanoseconds;
    this.#doubles[at / 8 + ATIME] = atime.seconds;
    this.#doubles[at / 8 + MTIME] = mtime.seconds;
    this.#bytes.write(path, at + RECORD_BYTES, 'latin1');
    data.copy(this.#bytes, body);
    this.#words[this.#base + COUNT] = count + 1;
    this.#end = 8 * Math.ceil(end / 8);
    return true;
  }

  /** From now on any thread may take it. */
  offer(): void {
    Atomics.store(this.#words, this.#base + STATE, READY);
    this.#wake();
  }

  /** This thread makes its files, and then calls {@link done}; false when another one does already. */
  take(): boolean {
    return this.#from(READY, TAKEN);
  }

  /**
   * Calls `make` for the files of the batch that are not made so far, in their order; it returns the blocks that the
   * file occupies. Both its arguments are valid only during the call. Throws what it throws; the file is then the first
   * that is not made.
   */
  work(make: (file: SmallFile, data: Buffer) => number): void {
    const count = this.#words[this.#base + COUNT] ?? 0;
    for (let which = 0, at = 0; which < count; which++) {
      const { file, data, end } = this.#record(at);
      at = end;
      if (which < this.made) continue;
      this.#words[this.#base + BLOCKS] = this.blocks + make(file, data);
      this.#words[this.#base + MADE] = which + 1;
    }
  }

  /** The thread that took it has worked; it is the other's again. */
  done(): void {
    Atomics.store(this.#words, this.#base + STATE, DONE);
    Atomics.notify(this.#words, this.#base + STATE);
  }

  get isDone(): boolean {
    return Atomics.load(this.#words, this.#base + STATE) === DONE;
  }

  /** Nobody has begun it. */
  get isOffered(): boolean {
    return Atomics.load(this.#words, this.#base + STATE) === READY;
  }

  /** Blocks this thread until the one that took it is done. Throws when that takes too long; it is then never free. */
  wait(): void {
    const until = performance.now() + this.#patienceMs;
    while (!this.isDone) {
      const left = until - performance.now();
      if (left <= 0) throw new Error(`files of the layer were not made within ${this.#patienceMs / 1000} s`);
      Atomics.wait(this.#words, this.#base + STATE, TAKEN, left);
    }
  }

  /** Files that were made: the first ones. */
  get made(): number {
    return this.#words[this.#base + MADE] ?? 0;
  }

  /** Blocks of 512 bytes of those. */
  get blocks(): number {
    return this.#words[this.#base + BLOCKS] ?? 0;
  }

  /** What is in it is not needed any more: any thread may fill it anew. */
  free(): void {
    Atomics.store(this.#words, this.#base + STATE, FREE);
  }

  #from(state: number, to: number): boolean {
    return Atomics.compareExchange(this.#words, this.#base + STATE, state, to) === state;
  }

  #record(at: number): { file: SmallFile; data: Buffer; end: number } {
    const number = (which: number) => this.#numbers[at / 4 + which] ?? 0;
    const second = (which: number) => this.#doubles[at / 8 + which] ?? 0;
    const body = at + RECORD_BYTES + number(PATH_LENGTH);
    const end = body + number(SIZE);
    const file = {
      path: this.#bytes.toString('latin1', at + RECORD_BYTES, body),
      mode: number(MODE),
      owner: number(FLAGS) & HAS_OWNER ? { uid: number(UID), gid: number(GID) } : undefined,
      atime: { seconds: second(ATIME), nanoseconds: number(ATIME_NANOSECONDS) },
      mtime: { seconds: second(MTIME), nanoseconds: number(MTIME_NANOSECONDS) },
    };
    return { file, data: this.#bytes.subarray(body, end), end: 8 * Math.ceil(end / 8) };
  }
}

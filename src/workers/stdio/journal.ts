/**
 * What was read from containers and is not in their logs yet. A daemon that is killed between the read and the write
 * would lose it, so reads go straight into memory that the keeper (keeper.ts) has open, too: the next daemon finds
 * there what the log lacks, and nothing is in the log twice.
 *
 * For each stream of a container the memory has the buffer of its reads, the unfinished line, and whether the buffer is
 * still wanted; for the log, its size before the last write and which stream wrote. One thread does all this, so that
 * one write at most was under way when it was killed:
 *
 * - A read fills the buffer, which was zero before: what is not zero has been read. (Zero bytes at the end of a read
 *   cannot be told from none. They are lost, in that moment alone.)
 * - Before the write, {@link Slot.begin} notes the log's size: a log that is longer shows how far the write came.
 * - After the write, {@link Slot.commit} copies the unfinished line to its second place and makes that valid and the
 *   buffer unwanted, both in one store of four bytes. Then it notes the log's new size, and at last clears the buffer.
 */
import type { Fd } from '../../sys/fd.ts';
import { dropMemory, makeMemory, mapMemory, memoryOf, memorySize, readMemory } from '../../sys/shared-memory.ts';
import type { StreamName } from './log-lines.ts';

/** The name of the memory, which /proc/PID/fd shows. A change of the layout needs another one. */
const MEMORY = 'sluice-output-1';

/** Bytes of one read at most. */
const READ_SIZE = 32 << 10;
/** Bytes of an unfinished line that are kept; of a longer one, nothing. It is the usual limit of a log line, too. */
const LINE_SIZE = 16 << 10;

const HEADER_SIZE = 4096;
/** A slot: header, two places for an unfinished line and one for reads of each stream. */
const SLOT_SIZE = HEADER_SIZE + 4 * LINE_SIZE + 2 * READ_SIZE;
/** So many slots are mapped at a time. Memory is only taken by those pages of them that were written. */
const SLOTS = 32;

/** Offsets in the header. */
const USED = 0;
const ID_LENGTH = 4;
const MARK = 8;
const STATES = 16;
const ID = 64;

const STREAMS: readonly StreamName[] = ['stdout', 'stderr'];
const CONSUMED = 1;
const SECOND_PLACE = 2;
const LENGTH_SHIFT = 8;

/** Where a slot is. */
interface Place {
  file: Fd;
  offset: number;
  memory: Buffer;
}

/** One stream's part of a {@link Slot}. */
class StreamJournal {
  /** Where the stream is read into. */
  readonly buffer: Buffer;
  readonly #places: readonly [Buffer, Buffer];
  /** The unfinished line's length and place, and {@link CONSUMED}. */
  readonly #state: Int32Array;
  readonly #place: Place;
  /** Where the buffer begins in the file. */
  readonly #offset: number;

  constructor(place: Place, index: number) {
    const { memory, offset } = place;
    const part = (at: number, size: number) => memory.subarray(at, at + size);
    const lines = HEADER_SIZE + index * 2 * LINE_SIZE;
    const reads = HEADER_SIZE + 4 * LINE_SIZE + index * READ_SIZE;
    this.buffer = part(reads, READ_SIZE);
    this.#places = [part(lines, LINE_SIZE), part(lines + LINE_SIZE, LINE_SIZE)];
    this.#state = new Int32Array(memory.buffer, memory.byteOffset + STATES + index * 4, 1);
    this.#place = place;
    this.#offset = offset + reads;
  }

  /**
   * What an earlier daemon left: the unfinished line of its last commit, what it read after that, and whether that
   * commit came to its end. If it did not, the stream's last write has been dealt with.
   */
  recover(): { line: Buffer; unread: Buffer; committing: boolean } {
    const state = Atomics.load(this.#state, 0);
    const committing = (state & CONSUMED) !== 0;
    if (committing) {
      dropMemory(this.#place.file, this.#offset, READ_SIZE);
      Atomics.and(this.#state, 0, ~CONSUMED);
    }
    // A look through the mapping would take memory for all of the buffer.
    const read = readMemory(this.#place.file, this.#offset, READ_SIZE);
    let length = read.length;
    while (length > 0 && read[length - 1] === 0) length--;
    const line = this.#places[state & SECOND_PLACE ? 1 : 0].subarray(0, state >> LENGTH_SHIFT);
    return { line, unread: read.subarray(0, length), committing };
  }

  /** The first `read` bytes of the buffer are in the log, but for `line`, which is unfinished. */
  commit(read: number, line: Buffer, done: () => void): void {
    const before = Atomics.load(this.#state, 0);
    const length = line.length <= LINE_SIZE ? line.length : 0;
    const place = ~before & SECOND_PLACE;
    line.copy(this.#places[place ? 1 : 0], 0, 0, length);
    Atomics.store(this.#state, 0, CONSUMED | place | (length << LENGTH_SHIFT));
    done();
    this.buffer.fill(0, 0, read);
    Atomics.and(this.#state, 0, ~CONSUMED);
  }
}

/** The journal of one container. */
export class Slot {
  readonly id: string;
  readonly stdout: StreamJournal;
  readonly stderr: StreamJournal;
  /** The log's size in bytes before the last write, and the stream that wrote, in one number: size * 2 + stream. */
  readonly #mark: Float64Array;

  constructor(id: string, place: Place) {
    this.id = id;
    this.#mark = new Float64Array(place.memory.buffer, place.memory.byteOffset + MARK, 1);
    this.stdout = new StreamJournal(place, STREAMS.indexOf('stdout'));
    this.stderr = new StreamJournal(place, STREAMS.indexOf('stderr'));
  }

  /** Lines of the stream are about to be written to the log, which has `size` bytes. */
  begin(stream: StreamName, size: number): void {
    this.#mark[0] = size * 2 + STREAMS.indexOf(stream);
  }

  /**
   * What was read from the stream, the first `read` bytes of its buffer, is in the log, which has `size` bytes now, but
   * for `line`, which is unfinished.
   */
  commit(stream: StreamName, read: number, line: Buffer, size: number): void {
    this[stream].commit(read, line, () => this.begin(stream, size));
  }

  /** What {@link Slot.begin} noted last. */
  get begun(): { stream: StreamName; size: number } {
    const mark = this.#mark[0] ?? 0;
    return { stream: STREAMS[mark % 2] ?? 'stdout', size: Math.floor(mark / 2) };
  }
}

/** The slots of all containers. */
export class OutputJournal {
  /** New slots are in the first one; an earlier daemon may have left further ones. */
  readonly #files: readonly [Fd, ...Fd[]];
  readonly #slots = new Map<string, { slot: Slot; place: Place }>();
  /** Free places in the first file. */
  #free: Place[] = [];
  #mapped = 0;

  private constructor(files: readonly [Fd, ...Fd[]]) {
    this.#files = files;
  }

  /**
   * Takes over what these processes keep of an earlier daemon's journal, or makes a new one. Throws the error of the
   * system.
   */
  static open(keepers: readonly number[]): OutputJournal {
    const [first = makeMemory(MEMORY), ...others] = keepers.flatMap((pid) => memoryOf(pid, MEMORY));
    const journal = new OutputJournal([first, ...others]);
    journal.#mapped = memorySize(first);
    for (const place of placesOf(first, 0, journal.#mapped)) if (!journal.#find(place)) journal.#free.push(place);
    for (const file of others) for (const place of placesOf(file, 0, memorySize(file))) journal.#find(place);
    return journal;
  }

  /** The descriptors that are to be kept open as long as a container has output. */
  get descriptors(): number[] {
    return this.#files.map(({ number }) => number);
  }

  /** The slot of this container: the one that it had, or an empty one. */
  claim(id: string): Slot {
    const has = this.#slots.get(id);
    if (has) return has.slot;
    const place = this.#free.pop() ?? this.#more();
    const { memory } = place;
    memory.writeInt32LE(memory.write(id, ID, HEADER_SIZE - ID), ID_LENGTH);
    memory.writeInt32LE(1, USED);
    return this.#use(id, place);
  }

  /** Gives the container's slot back; fine when it has none. */
  release(id: string): void {
    const held = this.#slots.get(id);
    if (!held) return;
    this.#slots.delete(id);
    const { file, offset } = held.place;
    dropMemory(file, offset, SLOT_SIZE);
    if (file === this.#files[0]) this.#free.push(held.place);
  }

  /** Gives back the slots of all containers but these. */
  retain(ids: ReadonlySet<string>): void {
    for (const id of [...this.#slots.keys()]) if (!ids.has(id)) this.release(id);
  }

  #find(place: Place): boolean {
    const { memory } = place;
    if (memory.readInt32LE(USED) === 0) return false;
    this.#use(memory.toString('utf8', ID, ID + memory.readInt32LE(ID_LENGTH)), place);
    return true;
  }

  #use(id: string, place: Place): Slot {
    const slot = new Slot(id, place);
    this.#slots.set(id, { slot, place });
    return slot;
  }

  #more(): Place {
    const size = SLOTS * SLOT_SIZE;
    const [place, ...free] = placesOf(this.#files[0], this.#mapped, size);
    if (!place) throw new Error('a journal maps at least one slot');
    this.#mapped += size;
    this.#free = free;
    return place;
  }
}

/** Maps a part of the file, and returns the places in it. */
function placesOf(file: Fd, from: number, size: number): Place[] {
  if (size === 0) return [];
  const memory = mapMemory(file, from, size);
  return Array.from({ length: Math.floor(size / SLOT_SIZE) }, (_, index) => {
    const at = index * SLOT_SIZE;
    return { file, offset: from + at, memory: memory.subarray(at, at + SLOT_SIZE) };
  });
}

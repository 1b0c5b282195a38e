/**
 * Accepts HTTP/2 clients whatever they send as `:authority`. Over a unix socket there is no host, and clients send
 * "localhost", the socket's path, that path with %2F, or nothing (kubernetes 109081, 112597; grpc-java 12664; k3s
 * 5346). grpc-go's server takes them all. nghttp2, under Node, resets a stream whose authority RFC 3986 does not allow,
 * or that has none, and Node has no option for it.
 *
 * The first header block of a connection shows what its client sends. A connection with "localhost" is handed on as it
 * is: that is kubelet and crictl. For any other the value is replaced in the bytes on their way to the server, without
 * decoding the rest (RFC 7541): a literal value becomes one that is no longer, in the same representation, so that the
 * entries of the server's dynamic table stay at the client's indices. (An empty value becomes one byte; a table that is
 * full to the byte would then lose its oldest entry early.)
 *
 * Clients send no request before the server's SETTINGS have come (gRPC's connection is not ready until then). So a
 * SETTINGS frame is sent here, and its acknowledgement is taken out of the client's bytes; the server's own settings
 * follow. It has what must be known before the first request: how many calls may come at once (stream-room.ts).
 */
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { HEADROOM } from './stream-room.ts';

const PREFACE = 24;
const FRAME_HEADER = 9;
const HEADERS = 1;
const SETTINGS = 4;
const MAX_CONCURRENT_STREAMS = 3;
const PING = 6;
const CONTINUATION = 9;
const ACK = 0x1;
const END_STREAM = 0x1;
const END_HEADERS = 0x4;
const PADDED = 0x8;
const PRIORITY = 0x20;
/** The largest frame that a client may send before the server allows more, which this server does not. */
const MAX_FRAME = 16_384;
/** Bytes of one header block, over all its frames; nghttp2's own limit for received ones is of this order. */
const MAX_BLOCK = 128 << 10;

const AUTHORITY = Buffer.from(':authority');
const LOCALHOST = Buffer.from('localhost');
/** "localhost" in HPACK's Huffman code, as grpc-go and nghttp2 send it. */
const LOCALHOST_HUFFMAN = Buffer.from('a0e41d139d09', 'hex');
/** Of the static table: `:authority` with an empty value. */
const AUTHORITY_INDEX = 1;

/** What a client sends in its first request: "localhost", another authority, or none. */
type Sends = 'localhost' | 'other' | 'none';

/** Milliseconds that a client gets to acknowledge the settings once it has sent a request. */
const ACK_MS = 1000;

/**
 * Calls `use` with the connection to serve: the socket itself once its first request has come with "localhost", else a
 * stream with an authority that the server takes. A client that sends something else than HTTP/2 is handed on for the
 * server to refuse.
 */
export function acceptAuthority(socket: Socket, use: (connection: Duplex) => void): void {
  let got: Buffer = Buffer.alloc(0);
  let timer: NodeJS.Timeout | undefined;
  const end = () => {
    clearTimeout(timer);
    socket.off('data', onData);
    socket.off('error', destroy);
    socket.off('close', end);
  };
  const destroy = () => socket.destroy();
  const serve = (how: 'socket' | 'rewritten', bytes: Buffer) => {
    end();
    socket.pause();
    socket.unshift(bytes);
    use(how === 'socket' ? socket : new Rewritten(socket));
  };
  const onData = (chunk: Buffer) => {
    got = got.length === 0 ? chunk : Buffer.concat([got, chunk]);
    const first = lookAt(got);
    if (first.how === 'wait') return;
    if (first.how === 'socket' && !first.acknowledged) {
      timer ??= setTimeout(() => serve('rewritten', got), ACK_MS);
      return;
    }
    // Bytes that are rewritten lose the acknowledgement there.
    serve(first.how, first.how === 'socket' ? first.withoutAck : got);
  };
  socket.on('error', destroy);
  socket.on('close', end);
  socket.on('data', onData);
  socket.write(frame(SETTINGS, 0, 0, firstSettings()));
}

interface FirstBytes {
  how: 'wait' | 'socket' | 'rewritten';
  /** Whether the acknowledgement of the settings is among the bytes, and the bytes without it. */
  acknowledged: boolean;
  withoutAck: Buffer;
}

/** Decides from a connection's first bytes how it is served. */
function lookAt(bytes: Buffer): FirstBytes {
  if (!isHttp2(bytes)) return { how: 'socket', acknowledged: true, withoutAck: bytes };
  let how: FirstBytes['how'] = bytes.length > MAX_BLOCK ? 'rewritten' : 'wait';
  let ack: { at: number; end: number } | undefined;
  for (let at = PREFACE; at + FRAME_HEADER <= bytes.length; ) {
    const end = at + FRAME_HEADER + bytes.readUIntBE(at, 3);
    if (end > bytes.length) break;
    const part = frameAt(bytes, at, end);
    if (isAck(part)) ack ??= { at, end };
    else if (part.type === HEADERS && how === 'wait') {
      how = part.flags & END_HEADERS && sendsOf(fragmentOf(part)) === 'localhost' ? 'socket' : 'rewritten';
    } else if (how === 'wait' && part.type === PING) how = 'rewritten'; // the client waits for an answer
    at = end;
  }
  const withoutAck = ack ? Buffer.concat([bytes.subarray(0, ack.at), bytes.subarray(ack.end)]) : bytes;
  return { how, acknowledged: ack !== undefined, withoutAck };
}

const HTTP2 = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
const isHttp2 = (bytes: Buffer) => HTTP2.startsWith(bytes.toString('latin1', 0, PREFACE));

/** RFC 9113, 6.5.1: an identifier of 16 bits and a value of 32. */
function firstSettings(): Buffer {
  const settings = Buffer.alloc(6);
  settings.writeUInt16BE(MAX_CONCURRENT_STREAMS, 0);
  settings.writeUInt32BE(HEADROOM, 2);
  return settings;
}

const isAck = ({ type, flags }: Pick<Frame, 'type' | 'flags'>) => type === SETTINGS && (flags & ACK) !== 0;

function sendsOf(block: Buffer): Sends {
  const field = authorityField(block);
  if (!field) return 'none';
  const value = field.value && block.subarray(field.value.at, field.end);
  return value?.equals(field.value?.huffman ? LOCALHOST_HUFFMAN : LOCALHOST) ? 'localhost' : 'other';
}

interface Frame {
  type: number;
  flags: number;
  stream: number;
  payload: Buffer;
}

function frameAt(bytes: Buffer, at: number, end: number): Frame {
  return {
    type: bytes.readUInt8(at + 3),
    flags: bytes.readUInt8(at + 4),
    stream: bytes.readUInt32BE(at + 5) & 0x7fffffff,
    payload: bytes.subarray(at + FRAME_HEADER, end),
  };
}

/** The part of a header block in a frame, without padding and priority; empty for a malformed frame. */
function fragmentOf({ type, flags, payload }: Frame): Buffer {
  if (type === CONTINUATION) return payload;
  const padding = flags & PADDED ? (payload[0] ?? 0) : 0;
  const start = (flags & PADDED ? 1 : 0) + (flags & PRIORITY ? 5 : 0);
  return payload.subarray(start, Math.max(start, payload.length - padding));
}

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(FRAME_HEADER);
  header.writeUIntBE(payload.length, 0, 3);
  header.writeUInt8(type, 3);
  header.writeUInt8(flags, 4);
  header.writeUInt32BE(stream, 5);
  return Buffer.concat([header, payload]);
}

/**
 * The client's bytes with an authority that the server takes, and without the first acknowledgement of settings.
 * Exported for tests.
 */
export class AuthorityRewriter {
  #sends: Sends | undefined;
  #acknowledged = false;
  #waiting: Buffer = Buffer.alloc(0);
  #preface = PREFACE;
  /** The header block of which not all frames have come. */
  #block: { stream: number; flags: number; parts: Buffer[]; bytes: number } | undefined;
  #lastStream = 0;

  /** Takes the next bytes and returns what can be passed on. Throws for a frame or a header block beyond all bounds. */
  push(chunk: Buffer): Buffer {
    this.#waiting = this.#waiting.length === 0 ? chunk : Buffer.concat([this.#waiting, chunk]);
    const out: Buffer[] = [];
    let at = 0;
    const { length } = this.#waiting;
    if (this.#preface > 0) {
      at = Math.min(this.#preface, length);
      this.#preface -= at;
      out.push(this.#waiting.subarray(0, at));
    }
    while (at + FRAME_HEADER <= length) {
      const size = this.#waiting.readUIntBE(at, 3);
      const end = at + FRAME_HEADER + size;
      const type = this.#waiting[at + 3];
      if (type !== HEADERS && type !== CONTINUATION && size <= MAX_FRAME) {
        if (end > length) break;
        const ack = !this.#acknowledged && isAck(frameAt(this.#waiting, at, end));
        if (ack) this.#acknowledged = true;
        else out.push(this.#waiting.subarray(at, end));
      } else {
        if (size > MAX_FRAME) throw new Error(`a frame of ${size} bytes`);
        if (end > length) break;
        out.push(...this.#headers(frameAt(this.#waiting, at, end)));
      }
      at = end;
    }
    this.#waiting = this.#waiting.subarray(at);
    return Buffer.concat(out);
  }

  #headers(part: Frame): Buffer[] {
    if (part.type === HEADERS) this.#block = { stream: part.stream, flags: part.flags, parts: [], bytes: 0 };
    // A CONTINUATION of nothing is an error that the server reports.
    if (this.#block?.stream !== part.stream) return [frame(part.type, part.flags, part.stream, part.payload)];
    const { parts, flags, stream } = this.#block;
    const fragment = fragmentOf(part);
    parts.push(fragment);
    this.#block.bytes += fragment.length;
    if (this.#block.bytes > MAX_BLOCK) throw new Error(`a header block of more than ${MAX_BLOCK} bytes`);
    if (!(part.flags & END_HEADERS)) return [];
    this.#block = undefined;
    const request = stream > this.#lastStream; // trailers have no authority
    this.#lastStream = Math.max(this.#lastStream, stream);
    const sent = Buffer.concat(parts);
    this.#sends ??= sendsOf(sent);
    const block = this.#sends === 'localhost' ? sent : rewritten(sent, request && this.#sends === 'none');
    const frames: Buffer[] = [];
    for (let at = 0; at === 0 || at < block.length; at += MAX_FRAME) {
      const last = at + MAX_FRAME >= block.length ? END_HEADERS : 0;
      const piece = block.subarray(at, at + MAX_FRAME);
      frames.push(frame(at === 0 ? HEADERS : CONTINUATION, (at === 0 ? flags & END_STREAM : 0) | last, stream, piece));
    }
    return frames;
  }
}

/** `:authority: localhost` as a literal that enters no table. */
const ADDED = Buffer.concat([Buffer.from([AUTHORITY_INDEX, LOCALHOST.length]), LOCALHOST]);

/**
 * A header block whose authority the server takes. One that cannot be parsed is returned as it is, for the server to
 * refuse.
 */
function rewritten(block: Buffer, add: boolean): Buffer {
  if (add) return Buffer.concat([sizeUpdates(block), ADDED, block.subarray(sizeUpdates(block).length)]);
  const field = authorityField(block);
  if (!field) return block; // an index into the dynamic table, whose entry was replaced when it came
  const { start, end, value } = field;
  if (!value) return Buffer.concat([block.subarray(0, start), ADDED, block.subarray(end)]);
  const replacement = LOCALHOST.subarray(0, Math.max(1, Math.min(LOCALHOST.length, end - value.at)));
  const head = block.subarray(0, value.lengthAt);
  return Buffer.concat([head, Buffer.from([replacement.length]), replacement, block.subarray(end)]);
}

/** Updates of the dynamic table's size, which may stand at the beginning of a block alone. */
function sizeUpdates(block: Buffer): Buffer {
  let at = 0;
  while (at < block.length && ((block[at] ?? 0) & 0xe0) === 0x20) at = integer(block, at, 5)?.next ?? block.length;
  return block.subarray(0, at);
}

interface Field {
  start: number;
  end: number;
  /** Where the value's length and the value are; absent for an indexed field. */
  value?: { lengthAt: number; at: number; huffman: boolean };
}

/** The field `:authority` where the block has it as a literal, or as an index into the static table. */
function authorityField(block: Buffer): Field | undefined {
  for (let start = 0; start < block.length; ) {
    const first = block[start] ?? 0;
    if (first & 0x80) {
      const index = integer(block, start, 7);
      if (!index) return undefined;
      if (index.value === AUTHORITY_INDEX) return { start, end: index.next };
      start = index.next;
      continue;
    }
    const update = (first & 0xe0) === 0x20;
    const index = integer(block, start, first & 0x40 ? 6 : update ? 5 : 4);
    if (!index) return undefined;
    if (update) {
      start = index.next;
      continue;
    }
    let lengthAt = index.next;
    let isAuthority = index.value === AUTHORITY_INDEX;
    if (index.value === 0) {
      const name = string(block, lengthAt);
      if (!name) return undefined;
      isAuthority = !name.huffman && block.subarray(name.at, name.end).equals(AUTHORITY);
      lengthAt = name.end;
    }
    const value = string(block, lengthAt);
    if (!value) return undefined;
    if (isAuthority) return { start, end: value.end, value: { lengthAt, at: value.at, huffman: value.huffman } };
    start = value.end;
  }
  return undefined;
}

/**
 * An integer with a prefix of so many bits (RFC 7541, 5.1); undefined when the block ends in it or it is beyond 2^28.
 */
function integer(block: Buffer, at: number, prefix: number): { value: number; next: number } | undefined {
  const mask = (1 << prefix) - 1;
  let value = (block[at] ?? 0) & mask;
  if (at >= block.length) return undefined;
  if (value < mask) return { value, next: at + 1 };
  for (let shift = 0, next = at + 1; shift <= 21 && next < block.length; shift += 7, next++) {
    const byte = block[next] ?? 0;
    value += (byte & 0x7f) << shift;
    if (!(byte & 0x80)) return { value, next: next + 1 };
  }
  return undefined;
}

/** A string (RFC 7541, 5.2): its bytes are at `at` to `end`. */
function string(block: Buffer, start: number): { at: number; end: number; huffman: boolean } | undefined {
  const length = integer(block, start, 7);
  if (!length || length.next + length.value > block.length) return undefined;
  return { at: length.next, end: length.next + length.value, huffman: ((block[start] ?? 0) & 0x80) !== 0 };
}

/** A connection whose incoming bytes go through an {@link AuthorityRewriter}. */
class Rewritten extends Duplex {
  readonly #socket: Socket;

  constructor(socket: Socket) {
    super();
    this.#socket = socket;
    const rewriter = new AuthorityRewriter();
    socket.on('data', (chunk: Buffer) => {
      try {
        const bytes = rewriter.push(chunk);
        if (bytes.length > 0 && !this.push(bytes)) socket.pause();
      } catch (error) {
        this.destroy(error as Error);
      }
    });
    socket.on('end', () => this.push(null));
    socket.on('error', (error) => this.destroy(error));
    socket.on('close', () => this.destroy());
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.end(() => done());
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }
}

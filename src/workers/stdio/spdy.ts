/**
 * The server's side of SPDY/3.1, as far as Kubernetes' streaming uses it: kubelet and crictl use it with a runtime by
 * default. Source of the rules: the SPDY protocol drafts 3 and 3.1 (https://www.chromium.org/spdy/spdy-protocol/).
 *
 * npm's spdy-transport 3.0.0 was tried on Node 24 and is not used, for these reasons:
 * - Flow control: the peers use Go's moby/spdystream, which implements none and never sends WINDOW_UPDATE.
 *   spdy-transport enforces the windows, so output stops for good after the initial 64 KiB (observed: 65,713 bytes,
 *   then nothing). Here the windows apply once the peer has sent a WINDOW_UPDATE or an initial window size; until then
 *   TCP limits the sender, as it does in Go.
 * - Half-close: both support it. Here a stream is a Duplex, `end()` sends FIN and the other direction stays open.
 * - Maintenance: no release for years; 3,500 lines that also implement HTTP/2, on fifteen more packages of that age.
 * - Memory: a peer without windows is limited only by the socket. Here a stream that is not read stops the reading of
 *   the connection, and a data frame of up to 16 MiB is passed on in pieces as it arrives.
 *
 * Header blocks are inflated by zlib with the dictionary of SPDY/3. The blocks that we send (empty, in SYN_REPLY) are
 * stored blocks, which every inflater accepts and which need no compressor per connection.
 */
import { Duplex } from 'node:stream';
import { createInflate, type Inflate } from 'node:zlib';

export const RST = {
  PROTOCOL_ERROR: 1,
  INVALID_STREAM: 2,
  REFUSED_STREAM: 3,
  CANCEL: 5,
  INTERNAL_ERROR: 6,
  FLOW_CONTROL_ERROR: 7,
  STREAM_ALREADY_CLOSED: 9,
} as const;

export const GOAWAY = { OK: 0, PROTOCOL_ERROR: 1, INTERNAL_ERROR: 2 } as const;

export const TYPE = {
  SYN_STREAM: 1,
  SYN_REPLY: 2,
  RST_STREAM: 3,
  SETTINGS: 4,
  PING: 6,
  GOAWAY: 7,
  HEADERS: 8,
  WINDOW_UPDATE: 9,
} as const;

export const FLAG_FIN = 1;
const FLAG_UNIDIRECTIONAL = 2;
const SETTINGS_INITIAL_WINDOW_SIZE = 7;

const INITIAL_WINDOW = 64 << 10;
const MAX_WINDOW = 0x7fffffff;
/** Limit of the payload of one data frame, so that streams take turns. */
const MAX_DATA = 64 << 10;
/** Limit of a control frame's payload, and of its inflated headers. */
const MAX_CONTROL = 64 << 10;
const MAX_HEADERS = 100;
const MAX_STREAMS = 2000;
/** Unread bytes of a stream above which the connection is not read: a peer without windows has no other limit. */
const MAX_UNREAD = 1 << 20;
/** Consumed bytes after which a WINDOW_UPDATE is sent. */
const CREDIT_STEP = 32 << 10;
/** Time within which the peer must close after our GOAWAY, in milliseconds. */
const LINGER_MS = 5000;

// biome-ignore format: the word list of the draft, section 2.6.10.1
const DICTIONARY_WORDS = [
  'options', 'head', 'post', 'put', 'delete', 'trace', 'accept', 'accept-charset', 'accept-encoding', 'accept-language',
  'accept-ranges', 'age', 'allow', 'authorization', 'cache-control', 'connection', 'content-base', 'content-encoding',
  'content-language', 'content-length', 'content-location', 'content-md5', 'content-range', 'content-type', 'date', 'etag',
  'expect', 'expires', 'from', 'host', 'if-match', 'if-modified-since', 'if-none-match', 'if-range', 'if-unmodified-since',
  'last-modified', 'location', 'max-forwards', 'pragma', 'proxy-authenticate', 'proxy-authorization', 'range', 'referer',
  'retry-after', 'server', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'user-agent', 'vary', 'via', 'warning',
  'www-authenticate', 'method', 'get', 'status', '200 OK', 'version', 'HTTP/1.1', 'url', 'public', 'set-cookie',
  'keep-alive', 'origin',
];
const DICTIONARY_TAIL =
  '100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative ' +
  'Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal ' +
  'Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, ' +
  'Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,' +
  'application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8' +
  'charset=iso-8859-1,utf-,*,enq=0.';

/** The words, each preceded by its length, and the tail: 1423 bytes. */
export const DICTIONARY: Buffer = Buffer.concat([
  ...DICTIONARY_WORDS.flatMap((word) => [uint32(word.length), Buffer.from(word, 'latin1')]),
  Buffer.from(DICTIONARY_TAIL, 'latin1'),
]);

function uint32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

export function controlFrame(type: number, flags: number, payload: Buffer): Buffer {
  const frame = Buffer.allocUnsafe(8 + payload.length);
  frame.writeUInt16BE(0x8003, 0);
  frame.writeUInt16BE(type, 2);
  frame.writeUInt32BE(payload.length, 4);
  frame[4] = flags;
  frame.set(payload, 8);
  return frame;
}

function dataHeader(stream: number, flags: number, length: number): Buffer {
  const header = Buffer.allocUnsafe(8);
  header.writeUInt32BE(stream, 0);
  header.writeUInt32BE(length, 4);
  header[4] = flags;
  return header;
}

/** An empty stored block, as a compressor's sync flush ends; it makes Go's inflater return what it has. */
const FLUSH = Buffer.from([0x00, 0x00, 0x00, 0xff, 0xff]);

/**
 * A deflate block of type "stored": its length, the complement of the length, the bytes. `first` adds the zlib header.
 */
function storedBlock(bytes: Buffer, first: boolean): Buffer {
  const head = Buffer.from([0, 0, 0, 0, 0]);
  head.writeUInt16LE(bytes.length, 1);
  head.writeUInt16LE(~bytes.length & 0xffff, 3);
  return Buffer.concat([first ? Buffer.from([0x78, 0x01]) : Buffer.alloc(0), head, bytes, FLUSH]);
}

/** A queue of received bytes. */
class ByteQueue {
  readonly #chunks: Buffer[] = [];
  size = 0;

  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.size += chunk.length;
  }

  /** Removes exactly `count` bytes. Throws when there are fewer. */
  take(count: number): Buffer {
    const first = this.#chunks[0];
    if (first && first.length >= count) return this.takeSome(count);
    const parts: Buffer[] = [];
    for (let left = count; left > 0; ) {
      const part = this.takeSome(left);
      if (part.length === 0) throw new Error('the queue holds fewer bytes');
      parts.push(part);
      left -= part.length;
    }
    return Buffer.concat(parts);
  }

  /** Removes between 1 and `max` bytes without copying; an empty buffer when the queue is empty. */
  takeSome(max: number): Buffer {
    const first = this.#chunks[0];
    if (!first || max === 0) return Buffer.alloc(0);
    if (first.length <= max) {
      this.#chunks.shift();
      this.size -= first.length;
      return first;
    }
    this.#chunks[0] = first.subarray(max);
    this.size -= max;
    return first.subarray(0, max);
  }

  unshift(chunk: Buffer): void {
    this.#chunks.unshift(chunk);
    this.size += chunk.length;
  }
}

/** Names in lower case; of several values of one name only the first. */
export type Headers = ReadonlyMap<string, string>;

/**
 * One stream. `end()` half-closes it. It never emits an error: 'close' without 'end' means that the stream or its
 * connection broke.
 */
export class SpdyStream extends Duplex {
  readonly id: number;
  readonly headers: Headers;
  readonly #connection: SpdyConnection;
  #remoteDone: boolean;
  #localDone: boolean;
  /** Bytes received, and bytes that the peer was credited for in WINDOW_UPDATEs. */
  #received = 0;
  #credited = 0;
  /** Bytes that the peer's window lets us send; applies once the connection's #windowsApply is set. */
  sendWindow: number;
  #blocked: (() => void) | undefined;

  constructor(connection: SpdyConnection, id: number, headers: Headers, flags: number, sendWindow: number) {
    super({ allowHalfOpen: true, readableHighWaterMark: 64 << 10, writableHighWaterMark: 128 << 10 });
    this.#connection = connection;
    this.id = id;
    this.headers = headers;
    this.sendWindow = sendWindow;
    this.#remoteDone = (flags & FLAG_FIN) !== 0;
    this.#localDone = (flags & FLAG_UNIDIRECTIONAL) !== 0;
    // An error of a stream (a write after its end) closes that stream; without a listener it would end the thread.
    this.on('error', () => {});
    if (this.#remoteDone) this.push(null);
    if (this.#localDone) super.end();
  }

  /** Accepts the stream with a SYN_REPLY; a peer drops data of a stream without one. */
  reply(): void {
    this.#connection.sendReply(this);
  }

  /** Closes the stream with RST_STREAM. */
  reset(status: number): void {
    if (this.destroyed) return;
    this.#connection.sendReset(this.id, status);
    this.broken();
  }

  /** Closes the stream without RST_STREAM, after the peer has reset it or the connection is gone. */
  broken(): void {
    this.#remoteDone = true;
    this.#localDone = true;
    this.destroy();
  }

  /** Takes data from the peer. */
  receive(bytes: Buffer): void {
    if (this.#remoteDone) {
      if (!this.destroyed) this.reset(RST.STREAM_ALREADY_CLOSED);
      return;
    }
    this.#received += bytes.length;
    this.push(bytes);
    this.#credit();
    if (this.readableLength > MAX_UNREAD) this.#connection.stall(this);
  }

  receiveEnd(): void {
    if (this.#remoteDone) return;
    this.#remoteDone = true;
    this.push(null);
  }

  /** Continues a write that waited for the peer's window. */
  unblock(): void {
    const blocked = this.#blocked;
    this.#blocked = undefined;
    blocked?.();
  }

  /** Every consumer calls read(), 'data' and pipe too; what it consumes opens the peer's window. */
  override read(size?: number): unknown {
    const taken = super.read(size);
    this.#credit();
    if (this.readableLength < MAX_UNREAD / 2) this.#connection.unstall(this);
    return taken;
  }

  override _read(): void {
    // Data is pushed when it arrives.
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#localDone) {
      done();
      return;
    }
    const room = this.#connection.roomFor(this);
    if (room <= 0) {
      this.#blocked = () => this._write(chunk, _encoding, done);
      return;
    }
    const part = chunk.subarray(0, Math.min(chunk.length, room, MAX_DATA));
    this.sendWindow -= part.length;
    this.#connection.sendData(this.id, part, (error) => {
      if (error || part.length === chunk.length) done(error);
      else this._write(chunk.subarray(part.length), _encoding, done);
    });
  }

  override _final(done: (error?: Error | null) => void): void {
    if (!this.#localDone) this.#connection.sendEnd(this.id);
    this.#localDone = true;
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#remoteDone || !this.#localDone) {
      this.#connection.sendReset(this.id, error ? RST.INTERNAL_ERROR : RST.CANCEL);
    }
    this.#remoteDone = true;
    this.#localDone = true;
    this.#blocked = undefined;
    this.#connection.forget(this, this.#received - this.#credited);
    done(error);
  }

  /** Opens the peer's window by what was consumed of the stream. */
  #credit(): void {
    const consumed = this.#received - this.readableLength - this.#credited;
    if (consumed < CREDIT_STEP) return;
    this.#credited += consumed;
    this.#connection.credit(this.#remoteDone ? undefined : this.id, consumed);
  }
}

export interface SpdyEvents {
  /** The peer opened a stream: reply to it or reset it, and read it. */
  onStream(stream: SpdyStream): void;
  /** The connection and all its streams are closed. */
  onClose(): void;
}

/** The server's end of a connection, on any byte stream. */
export class SpdyConnection {
  readonly #socket: Duplex;
  readonly #events: SpdyEvents;
  readonly #input = new ByteQueue();
  readonly #streams = new Map<number, SpdyStream>();
  readonly #stalled = new Set<SpdyStream>();
  #inflate: Inflate | undefined;
  #inflated: Buffer[] = [];
  #inflatedSize = 0;
  /** A header block is being inflated. The following frames wait, since they may belong to its stream. */
  #busy = false;
  #lastStream = 0;
  /** The data frame that is being read. */
  #dataStream = 0;
  #dataLeft = 0;
  #dataFlags = 0;
  #inData = false;
  #repliedOnce = false;
  #windowsApply = false;
  #sessionWindowApplies = false;
  #sessionWindow = INITIAL_WINDOW;
  #initialWindow = INITIAL_WINDOW;
  #sessionCredit = 0;
  #ended = false;
  #closed = false;

  constructor(socket: Duplex, events: SpdyEvents) {
    this.#socket = socket;
    this.#events = events;
    socket.on('data', (chunk: Buffer) => {
      if (this.#ended) return; // data after our GOAWAY is read and dropped, so that the close does not send a TCP reset
      this.#input.push(chunk);
      this.#read();
      this.#adjustFlow();
    });
    socket.on('error', () => this.destroy());
    socket.on('end', () => this.destroy());
    socket.on('close', () => this.destroy());
  }

  /**
   * Sends GOAWAY, half-closes the socket when everything is sent, and gives the peer {@link LINGER_MS} to close its
   * side.
   */
  end(status: number = GOAWAY.OK): void {
    if (this.#ended || this.#closed) return;
    this.#ended = true;
    this.#socket.end(controlFrame(TYPE.GOAWAY, 0, Buffer.concat([uint32(this.#lastStream), uint32(status)])));
    this.#socket.resume();
    setTimeout(() => this.destroy(), LINGER_MS).unref();
  }

  destroy(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#ended = true;
    this.#socket.destroy();
    this.#inflate?.close();
    for (const stream of [...this.#streams.values()]) stream.broken();
    this.#events.onClose();
  }

  // Methods for the streams.

  sendReply(stream: SpdyStream): void {
    const block = storedBlock(uint32(0), !this.#repliedOnce);
    this.#repliedOnce = true;
    this.#send(controlFrame(TYPE.SYN_REPLY, 0, Buffer.concat([uint32(stream.id), block])));
  }

  sendReset(id: number, status: number): void {
    this.#send(controlFrame(TYPE.RST_STREAM, 0, Buffer.concat([uint32(id), uint32(status)])));
  }

  /** Calls `done` when the kernel has the bytes: the next piece may follow, and the buffer may be reused. */
  sendData(id: number, bytes: Buffer, done: (error?: Error | null) => void): void {
    if (this.#ended) return;
    this.#sessionWindow -= bytes.length;
    this.#socket.cork();
    this.#socket.write(dataHeader(id, 0, bytes.length));
    this.#socket.write(bytes, done);
    this.#socket.uncork();
  }

  sendEnd(id: number): void {
    this.#send(dataHeader(id, FLAG_FIN, 0));
  }

  /** Bytes that the peer's windows let a stream send now. */
  roomFor(stream: SpdyStream): number {
    return Math.min(
      this.#windowsApply ? stream.sendWindow : MAX_WINDOW,
      this.#sessionWindowApplies ? this.#sessionWindow : MAX_WINDOW,
    );
  }

  /** Credits the peer for `count` consumed bytes; `id` is left out for a stream on which it sends no more. */
  credit(id: number | undefined, count: number): void {
    if (id !== undefined) this.#sendWindowUpdate(id, count);
    this.#sessionCredit += count;
    if (this.#sessionCredit < CREDIT_STEP) return;
    this.#sendWindowUpdate(0, this.#sessionCredit);
    this.#sessionCredit = 0;
  }

  stall(stream: SpdyStream): void {
    this.#stalled.add(stream);
  }

  unstall(stream: SpdyStream): void {
    if (this.#stalled.delete(stream)) this.#adjustFlow();
  }

  /** Removes a closed stream; `unread` bytes of it will never be consumed. */
  forget(stream: SpdyStream, unread: number): void {
    this.#streams.delete(stream.id);
    if (unread > 0) this.credit(undefined, unread);
    this.unstall(stream);
  }

  #send(frame: Buffer): void {
    if (!this.#ended) this.#socket.write(frame);
  }

  #sendWindowUpdate(id: number, count: number): void {
    this.#send(controlFrame(TYPE.WINDOW_UPDATE, 0, Buffer.concat([uint32(id), uint32(count)])));
  }

  /**
   * Pauses the socket while a stream has too much unread data, or while a header block is being inflated and much data
   * waits behind it.
   */
  #adjustFlow(): void {
    if (this.#closed) return;
    if (!this.#ended && (this.#stalled.size > 0 || this.#input.size > MAX_UNREAD)) this.#socket.pause();
    else if (this.#socket.isPaused()) this.#socket.resume();
  }

  /** Parses the received bytes. */
  #read(): void {
    while (!this.#busy && !this.#ended) {
      if (this.#inData) {
        if (!this.#readData()) return;
        continue;
      }
      if (this.#input.size < 8) return;
      const header = this.#input.take(8);
      const length = header.readUIntBE(5, 3);
      const flags = header.readUInt8(4);
      if (header.readUInt8(0) < 0x80) {
        this.#dataStream = header.readUInt32BE(0);
        this.#dataLeft = length;
        this.#dataFlags = flags;
        this.#inData = true;
        continue;
      }
      if (header.readUInt16BE(0) !== 0x8003 || length > MAX_CONTROL) {
        this.#fail();
        return;
      }
      if (this.#input.size < length) {
        this.#input.unshift(header);
        return;
      }
      this.#control(header.readUInt16BE(2), flags, this.#input.take(length));
    }
  }

  /** Reads the next piece of a data frame; false when none has arrived. */
  #readData(): boolean {
    const stream = this.#streams.get(this.#dataStream);
    if (this.#dataLeft > 0) {
      const bytes = this.#input.takeSome(this.#dataLeft);
      if (bytes.length === 0) return false;
      this.#dataLeft -= bytes.length;
      if (stream) stream.receive(bytes);
      else this.credit(undefined, bytes.length);
    }
    if (this.#dataLeft > 0) return true;
    this.#inData = false;
    if (stream && (this.#dataFlags & FLAG_FIN) !== 0) stream.receiveEnd();
    // A closed stream may still get data that was under way; data for a stream that never existed is a protocol error.
    if (this.#dataStream > this.#lastStream || this.#dataStream === 0) {
      this.sendReset(this.#dataStream, RST.INVALID_STREAM);
    }
    return true;
  }

  #control(type: number, flags: number, payload: Buffer): void {
    const word = (at: number) => payload.readUInt32BE(at) & 0x7fffffff;
    const fits = (size: number): boolean => {
      if (payload.length < size) this.#fail();
      return payload.length >= size;
    };
    switch (type) {
      case TYPE.SYN_STREAM:
        if (fits(10)) this.#inflateHeaders(payload.subarray(10), (headers) => this.#open(word(0), flags, headers));
        return;
      case TYPE.HEADERS:
        // No supported client sends HEADERS. They are inflated all the same, since the compression state spans all
        // header blocks.
        if (fits(4)) {
          this.#inflateHeaders(payload.subarray(4), () => {
            if ((flags & FLAG_FIN) !== 0) this.#streams.get(word(0))?.receiveEnd();
          });
        }
        return;
      case TYPE.SYN_REPLY:
        this.#fail(); // the server opens no streams, so the peer has nothing to reply to
        return;
      case TYPE.RST_STREAM:
        if (fits(8)) this.#streams.get(word(0))?.broken();
        return;
      case TYPE.PING:
        // Odd ids are the client's pings; an even one would answer a ping of ours, and we send none.
        if (fits(4) && payload.readUInt32BE(0) % 2 === 1)
          this.#send(controlFrame(TYPE.PING, 0, payload.subarray(0, 4)));
        return;
      case TYPE.WINDOW_UPDATE:
        if (fits(8)) this.#windowUpdate(word(0), word(4));
        return;
      case TYPE.SETTINGS:
        if (fits(4)) this.#settings(payload);
        return;
      // GOAWAY: the peer opens no more streams; the open ones continue. The draft says to ignore unknown types.
    }
  }

  #open(id: number, flags: number, headers: Headers): void {
    if (id <= this.#lastStream || id % 2 === 0) {
      this.#fail();
      return;
    }
    this.#lastStream = id;
    if (this.#streams.size >= MAX_STREAMS) {
      this.sendReset(id, RST.REFUSED_STREAM);
      return;
    }
    const stream = new SpdyStream(this, id, headers, flags, this.#initialWindow);
    this.#streams.set(id, stream);
    this.#events.onStream(stream);
  }

  #windowUpdate(id: number, delta: number): void {
    if (delta === 0) return;
    if (id === 0) {
      this.#sessionWindowApplies = true;
      this.#sessionWindow += delta;
      if (this.#sessionWindow > MAX_WINDOW) {
        this.#fail();
        return;
      }
      for (const stream of this.#streams.values()) stream.unblock();
      return;
    }
    this.#windowsApply = true;
    const stream = this.#streams.get(id);
    if (!stream) return;
    stream.sendWindow += delta;
    if (stream.sendWindow > MAX_WINDOW) stream.reset(RST.FLOW_CONTROL_ERROR);
    else stream.unblock();
  }

  #settings(payload: Buffer): void {
    const count = payload.readUInt32BE(0);
    if (payload.length < 4 + count * 8) {
      this.#fail();
      return;
    }
    for (let at = 4; at < 4 + count * 8; at += 8) {
      if (payload.readUIntBE(at + 1, 3) !== SETTINGS_INITIAL_WINDOW_SIZE) continue;
      const size = payload.readUInt32BE(at + 4);
      if (size > MAX_WINDOW) {
        this.#fail();
        return;
      }
      this.#windowsApply = true;
      for (const stream of this.#streams.values()) {
        stream.sendWindow += size - this.#initialWindow;
        stream.unblock();
      }
      this.#initialWindow = size;
    }
  }

  #inflateHeaders(block: Buffer, then: (headers: Headers) => void): void {
    if (!this.#inflate) {
      this.#inflate = createInflate({ dictionary: DICTIONARY, chunkSize: 4096 });
      this.#inflate.on('error', () => this.#fail());
      this.#inflate.on('data', (bytes: Buffer) => {
        this.#inflatedSize += bytes.length;
        if (this.#inflatedSize > MAX_CONTROL) this.#fail();
        else this.#inflated.push(bytes);
      });
    }
    this.#busy = true;
    this.#inflate.write(block, () => {
      if (this.#ended) return;
      const headers = parseHeaders(Buffer.concat(this.#inflated));
      this.#inflated = [];
      this.#inflatedSize = 0;
      this.#busy = false;
      if (!headers) {
        this.#fail();
        return;
      }
      then(headers);
      this.#read();
      this.#adjustFlow();
    });
  }

  /** Closes the connection after a protocol error of the peer. */
  #fail(): void {
    this.end(GOAWAY.PROTOCOL_ERROR);
    for (const stream of [...this.#streams.values()]) stream.broken();
  }
}

/** Parses an inflated header block; undefined when it is malformed. */
export function parseHeaders(block: Buffer): Headers | undefined {
  const headers = new Map<string, string>();
  let at = 0;
  const word = (): number => {
    if (at + 4 > block.length) return -1;
    at += 4;
    return block.readUInt32BE(at - 4);
  };
  const text = (): string | undefined => {
    const length = word();
    if (length < 0 || at + length > block.length) return undefined;
    at += length;
    return block.toString('latin1', at - length, at);
  };
  const count = word();
  if (count < 0 || count > MAX_HEADERS) return undefined;
  for (let pair = 0; pair < count; pair++) {
    const name = text();
    const value = text();
    if (name === undefined || value === undefined) return undefined;
    headers.set(name.toLowerCase(), value.split('\0')[0] ?? '');
  }
  return at === block.length ? headers : undefined;
}

/**
 * SPDY/3.1, the server's side of it, as much as Kubernetes' streaming uses: it is what kubelet and crictl speak to a runtime by
 * default. Source of the rules: the SPDY protocol drafts 3 and 3.1 (https://www.chromium.org/spdy/spdy-protocol/).
 *
 * Own, and not npm's spdy-transport 3.0.0, which was tried on Node 24 first:
 * - Flow control: the peers are Go's moby/spdystream, which has none: it sends no WINDOW_UPDATE, ever. spdy-transport keeps to the
 *   windows strictly, so any output stops for ever after the initial 64 KiB (seen: 65,713 bytes, then nothing). Here windows bind
 *   from the moment a peer shows that it knows them; for the others TCP holds back the connection, as in Go.
 * - Half-close: both have it. Here a stream is a plain Duplex, `end()` is FIN and the other direction goes on.
 * - Maintenance: none for years; 3,500 lines that also do HTTP/2, on fifteen more packages of that age, for what fits below.
 * - Memory: a peer without windows has no brake in it but the socket; here a stream that nobody reads stops the reading, and the data of
 *   a frame of up to 16 MiB goes on as it comes in.
 *
 * Header blocks are inflated by zlib with the dictionary of SPDY/3. Ours (two empty SYN_REPLYs at most) are sent as stored blocks,
 * which every inflater takes and which needs no compressor per connection.
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
/** Payload of one data frame: small enough that streams take turns. */
const MAX_DATA = 64 << 10;
/** Payload of a control frame, and what its headers may inflate to. */
const MAX_CONTROL = 64 << 10;
const MAX_HEADERS = 100;
const MAX_STREAMS = 2000;
/** A stream nobody reads holds so much, then the connection is left unread: the peer has no other brake. */
const MAX_UNREAD = 1 << 20;
/** Consumed bytes after which a window is opened again. */
const CREDIT_STEP = 32 << 10;
/** Time for the peer to close after we did, in milliseconds. */
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

/** The words, each after its length, and the tail: 1423 bytes. */
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

/** An empty stored block: what a compressor's sync flush ends with, and what makes Go's inflater hand out what it has. */
const FLUSH = Buffer.from([0x00, 0x00, 0x00, 0xff, 0xff]);

/** A deflate block of type "stored": its length, the length's complement, the bytes. `first` begins the zlib stream. */
function storedBlock(bytes: Buffer, first: boolean): Buffer {
  const head = Buffer.from([0, 0, 0, 0, 0]);
  head.writeUInt16LE(bytes.length, 1);
  head.writeUInt16LE(~bytes.length & 0xffff, 3);
  return Buffer.concat([first ? Buffer.from([0x78, 0x01]) : Buffer.alloc(0), head, bytes, FLUSH]);
}

/** Bytes as they come from the network, taken as they are needed. */
class ByteQueue {
  readonly #chunks: Buffer[] = [];
  size = 0;

  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.size += chunk.length;
  }

  /** Exactly `count` bytes, which must be there. */
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

  /** Between 1 and `max` bytes, without copying; none when there are none. */
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

/** Names in lower case; of several values of a name the first. */
export type Headers = ReadonlyMap<string, string>;

/**
 * One stream. `end()` half-closes. It never fails with an error: 'close' without 'end' says that the stream or its connection broke.
 */
export class SpdyStream extends Duplex {
  readonly id: number;
  readonly headers: Headers;
  readonly #connection: SpdyConnection;
  #remoteDone: boolean;
  #localDone: boolean;
  /** Taken in, and told to the peer as consumed. */
  #received = 0;
  #credited = 0;
  /** Bytes the peer lets us send; binds once {@link SpdyConnection.windowsBind}. */
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
    // Errors of a stream (a write after its end) break that stream, which 'close' tells; they must not end the thread.
    this.on('error', () => {});
    if (this.#remoteDone) this.push(null);
    if (this.#localDone) super.end();
  }

  /** Accepts the stream: a peer drops data of a stream that was not. */
  reply(): void {
    this.#connection.sendReply(this);
  }

  /** Breaks the stream. */
  reset(status: number): void {
    if (this.destroyed) return;
    this.#connection.sendReset(this.id, status);
    this.broken();
  }

  /** The peer, or the connection, broke it: nothing more is sent. */
  broken(): void {
    this.#remoteDone = true;
    this.#localDone = true;
    this.destroy();
  }

  /** Data of the peer's. */
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

  /** The window may have opened. */
  unblock(): void {
    const blocked = this.#blocked;
    this.#blocked = undefined;
    blocked?.();
  }

  /** All consumers come by here, 'data' and pipe too; what they took opens the peer's window. */
  override read(size?: number): unknown {
    const taken = super.read(size);
    this.#credit();
    if (this.readableLength < MAX_UNREAD / 2) this.#connection.unstall(this);
    return taken;
  }

  override _read(): void {
    // Data is pushed when it comes.
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

  /** Opens the peer's window by what was read from the stream. */
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
  /** The connection is gone, and all streams with it. */
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
  /** A header block is being inflated: what follows must wait, since it may belong to the stream. */
  #busy = false;
  #lastStream = 0;
  /** The data frame being read. */
  #dataStream = 0;
  #dataLeft = 0;
  #dataFlags = 0;
  #inData = false;
  #repliedOnce = false;
  #windowsBind = false;
  #sessionBinds = false;
  #sessionWindow = INITIAL_WINDOW;
  #initialWindow = INITIAL_WINDOW;
  #sessionCredit = 0;
  #ended = false;
  #closed = false;

  constructor(socket: Duplex, events: SpdyEvents) {
    this.#socket = socket;
    this.#events = events;
    socket.on('data', (chunk: Buffer) => {
      if (this.#ended) return; // after our GOAWAY: read, so that the close is no reset, and thrown away
      this.#input.push(chunk);
      this.#read();
      this.#adjustFlow();
    });
    socket.on('error', () => this.destroy());
    socket.on('end', () => this.destroy());
    socket.on('close', () => this.destroy());
  }

  /** Bytes on their way to the peer that the kernel has not taken yet. */
  get unsent(): number {
    return this.#socket.writableLength;
  }

  /** Says good-bye, closes when all is sent, and gives the peer a moment to close its side. */
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

  // What the streams need.

  sendReply(stream: SpdyStream): void {
    const block = storedBlock(uint32(0), !this.#repliedOnce);
    this.#repliedOnce = true;
    this.#send(controlFrame(TYPE.SYN_REPLY, 0, Buffer.concat([uint32(stream.id), block])));
  }

  sendReset(id: number, status: number): void {
    this.#send(controlFrame(TYPE.RST_STREAM, 0, Buffer.concat([uint32(id), uint32(status)])));
  }

  /** `done` when the kernel has the bytes: the next piece may come, and the buffer may be used again. */
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

  /** How much the peer's windows let a stream send now. */
  roomFor(stream: SpdyStream): number {
    return Math.min(
      this.#windowsBind ? stream.sendWindow : MAX_WINDOW,
      this.#sessionBinds ? this.#sessionWindow : MAX_WINDOW,
    );
  }

  /** `count` bytes were consumed, of a stream that may still send or of one that is done. */
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

  /** A stream is over; `unread` bytes of it will not be read by anyone. */
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

  /** Leaves the socket unread while a stream is full, or a header block is being inflated and much waits behind it. */
  #adjustFlow(): void {
    if (this.#closed) return;
    if (!this.#ended && (this.#stalled.size > 0 || this.#input.size > MAX_UNREAD)) this.#socket.pause();
    else if (this.#socket.isPaused()) this.#socket.resume();
  }

  /** Takes apart what has come in. */
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

  /** The next piece of a data frame; false when there is none yet. */
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
    // A stream that is over may still get what was under way; one that never was is a mistake of the peer's.
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
        // Nothing we serve sends any; they are inflated all the same, since the compression goes on from frame to frame.
        if (fits(4)) {
          this.#inflateHeaders(payload.subarray(4), () => {
            if ((flags & FLAG_FIN) !== 0) this.#streams.get(word(0))?.receiveEnd();
          });
        }
        return;
      case TYPE.SYN_REPLY:
        this.#fail(); // we open no streams
        return;
      case TYPE.RST_STREAM:
        if (fits(8)) this.#streams.get(word(0))?.broken();
        return;
      case TYPE.PING:
        // Odd ids are the client's; an even one would be the answer to a ping of ours, and we send none.
        if (fits(4) && payload.readUInt32BE(0) % 2 === 1)
          this.#send(controlFrame(TYPE.PING, 0, payload.subarray(0, 4)));
        return;
      case TYPE.WINDOW_UPDATE:
        if (fits(8)) this.#windowUpdate(word(0), word(4));
        return;
      case TYPE.SETTINGS:
        if (fits(4)) this.#settings(payload);
        return;
      // GOAWAY: the peer opens no more streams; those there are go on to their end. Unknown types are ignored, as the draft says.
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
      this.#sessionBinds = true;
      this.#sessionWindow += delta;
      if (this.#sessionWindow > MAX_WINDOW) {
        this.#fail();
        return;
      }
      for (const stream of this.#streams.values()) stream.unblock();
      return;
    }
    this.#windowsBind = true;
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
      this.#windowsBind = true;
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

  /** The peer breaks the protocol: nothing that follows can be trusted. */
  #fail(): void {
    this.end(GOAWAY.PROTOCOL_ERROR);
    for (const stream of [...this.#streams.values()]) stream.broken();
  }
}

/** Undefined when the block is not what the draft describes. */
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

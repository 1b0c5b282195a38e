/**
 * Netlink: requests to the kernel as messages over a socket, and its answers (netlink(7), <linux/netlink.h>). rtnetlink
 * and nf_tables build on it. All of it is synchronous: the kernel works a request off inside the call that sends it and
 * queues the answer on the socket before that call returns, so no read ever has to wait.
 *
 * A socket belongs to the network namespace that the thread was in when it was opened, whatever the thread does later.
 */
import { Fd, untilThreadEnds } from './fd.ts';
import { C, check, errno, libc, SysError } from './libc.ts';

/** <linux/socket.h>, <linux/netlink.h>. */
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const NETLINK_GET_STRICT_CHK = 12;
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;

export const NETLINK = { ROUTE: 0, NETFILTER: 12 } as const;

const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const HEADER = 16;

export const NLM_F = {
  REQUEST: 1,
  MULTI: 2,
  ACK: 4,
  /** The notification of the change comes to the one who asked for it as well (links: since Linux 6.2). */
  ECHO: 8,
  DUMP_INTR: 0x10,
  DUMP: 0x300,
  EXCL: 0x200,
  REPLACE: 0x100,
  CREATE: 0x400,
  APPEND: 0x800,
  /** In an answer: the copy of the request was left out. */
  CAPPED: 0x100,
  /** In an answer: attributes follow the error, the kernel's own words among them. */
  ACK_TLVS: 0x200,
} as const;

const NLMSGERR_ATTR_MSG = 1;
export const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;

const EINTR = 4;
const EAGAIN = 11;

/**
 * Acknowledgements of a batch must fit into the receive buffer all at once: the kernel queues them before the first is
 * read.
 */
const RECEIVE_BUFFER = 1 << 20;
/** A dump comes in pieces of at most 32 KiB (NLMSG_GOODSIZE, netlink_dump). */
const READ_SIZE = 1 << 16;
/** A dump during which something changed (NLM_F_DUMP_INTR) is taken again so many times. */
const DUMP_ATTEMPTS = 5;

/** The kernel said no to one request. */
export class NetlinkError extends Error {
  override readonly name = 'NetlinkError';
  readonly errno: number;
  /** The errno's name, as in Node's own system errors. */
  readonly code: string;
  /** The errno in libc's words, in lower case as Go prints it: what the reference plugins show. */
  readonly text: string;

  constructor(number: number, kernel = '') {
    const { code } = new SysError('', number);
    const text = errnoText(number);
    super(kernel === '' ? text : `${text} (${kernel})`);
    this.errno = number;
    this.code = code;
    this.text = text;
  }
}

/** An errno in words, as Go has them: libc's own, in lower case. */
export function errnoText(number: number): string {
  const text = String(libc.strerror(number));
  return text.charAt(0).toLowerCase() + text.slice(1);
}

/** One message to the kernel. `flags` without REQUEST and ACK, which are added. */
export interface Request {
  type: number;
  flags?: number;
  /** The fixed part and the attributes. */
  body: Buffer;
  /** The kernel acknowledges it only when it fails (the frame of an nf_tables batch). */
  silent?: boolean;
}

export interface Answer {
  type: number;
  body: Buffer;
}

/** What came back for one request. */
export interface Outcome {
  answers: Answer[];
  error?: NetlinkError;
}

/** One attribute: 16 bits of length, 16 bits of type, the payload, zeros up to a multiple of four. */
export function attribute(type: number, payload: Buffer): Buffer {
  const length = 4 + payload.length;
  const out = Buffer.alloc((length + 3) & ~3);
  out.writeUInt16LE(length, 0);
  out.writeUInt16LE(type, 2);
  payload.copy(out, 4);
  return out;
}

export const attributeU8 = (type: number, value: number): Buffer => attribute(type, Buffer.from([value]));

export function attributeU16(type: number, value: number): Buffer {
  const payload = Buffer.alloc(2);
  payload.writeUInt16LE(value);
  return attribute(type, payload);
}

export function attributeU32(type: number, value: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32LE(value >>> 0);
  return attribute(type, payload);
}

/** In network byte order, as netfilter has all its numbers. */
export function attributeBe32(type: number, value: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32BE(value >>> 0);
  return attribute(type, payload);
}

/** A string with its terminating zero. */
export const attributeText = (type: number, text: string): Buffer => attribute(type, Buffer.from(`${text}\0`));

export const nested = (type: number, attributes: Buffer[]): Buffer =>
  attribute(type | NLA_F_NESTED, Buffer.concat(attributes));

/**
 * The attributes that begin at `from`, by type. Of several with one type the last counts, except for lists:
 * {@link listOf}.
 */
export function attributesOf(body: Buffer, from = 0): Map<number, Buffer> {
  return new Map(listOf(body, from));
}

/** The attributes that begin at `from`, in their order. */
export function listOf(body: Buffer, from = 0): [type: number, payload: Buffer][] {
  const found: [number, Buffer][] = [];
  for (let at = from; at + 4 <= body.length; ) {
    const length = body.readUInt16LE(at);
    if (length < 4 || at + length > body.length) break;
    found.push([body.readUInt16LE(at + 2) & NLA_TYPE_MASK, body.subarray(at + 4, at + length)]);
    at += (length + 3) & ~3;
  }
  return found;
}

/** A string attribute without its zero. */
export function textOf(payload: Buffer | undefined): string | undefined {
  if (payload === undefined) return undefined;
  const end = payload.indexOf(0);
  return payload.toString('latin1', 0, end < 0 ? payload.length : end);
}

/** Of all sockets of this thread: what is read is taken out before anybody else reads. */
const received = Buffer.allocUnsafeSlow(READ_SIZE);

export class NetlinkSocket implements Disposable {
  readonly #fd: Fd;
  #sequence = 0;

  /**
   * Opens a socket of the namespace this thread is in; with `kept` for as long as the thread lives. Throws
   * {@link SysError}: EPROTONOSUPPORT where the kernel lacks the family.
   */
  constructor(protocol: number, { kept = false }: { kept?: boolean } = {}) {
    const type = SOCK_RAW | C.SOCK_CLOEXEC | C.O_NONBLOCK;
    const fd = new Fd(check('socket', libc.socket(AF_NETLINK, type, protocol), 'netlink'));
    this.#fd = kept ? untilThreadEnds(fd) : fd;
    // Comforts, which old kernels refuse: shorter acknowledgements, reasons in words, dumps filtered by the kernel.
    this.#set(SOL_NETLINK, NETLINK_CAP_ACK, 1);
    this.#set(SOL_NETLINK, NETLINK_EXT_ACK, 1);
    if (protocol === NETLINK.ROUTE) this.#set(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1);
    this.#set(SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER);
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }

  #set(level: number, option: number, value: number): void {
    const buffer = Buffer.alloc(4);
    buffer.writeInt32LE(value);
    libc.setsockopt(this.#fd.number, level, option, buffer, buffer.length);
  }

  /**
   * Sends the requests in one go and collects what comes back, in their order. A refused request is in its outcome and
   * keeps none of the others from being carried out (an nf_tables batch is all or nothing, which is the kernel's
   * doing). Throws {@link SysError} when the socket itself fails: with ENOBUFS it is unknown what was carried out.
   */
  exchange(requests: Request[]): Outcome[] {
    const first = this.#sequence + 1;
    const frames = requests.flatMap(({ type, flags = 0, body, silent }) => {
      const header = Buffer.alloc(HEADER);
      header.writeUInt32LE(HEADER + body.length, 0);
      header.writeUInt16LE(type, 4);
      header.writeUInt16LE(flags | NLM_F.REQUEST | (silent ? 0 : NLM_F.ACK), 6);
      header.writeUInt32LE(++this.#sequence, 8);
      const padding = (4 - (body.length & 3)) & 3;
      return padding === 0 ? [header, body] : [header, body, Buffer.alloc(padding)];
    });
    const packet = Buffer.concat(frames);
    check('write', Number(libc.write(this.#fd.number, packet, packet.length)), 'netlink');

    const outcomes: Outcome[] = requests.map(() => ({ answers: [] }));
    const open = new Set(requests.flatMap(({ silent }, index) => (silent ? [] : [index])));
    this.#collect(first, outcomes, open);
    // An all-or-nothing batch that failed leaves the rest of it without an answer.
    if (open.size > 0 && !outcomes.some(({ error }) => error)) throw new SysError('read', EAGAIN, 'netlink: no answer');
    return outcomes;
  }

  /** One request; throws {@link NetlinkError} when it is refused. */
  request(request: Request): Answer[] {
    const [outcome] = this.exchange([request]);
    if (outcome?.error) throw outcome.error;
    return outcome?.answers ?? [];
  }

  /** All objects that a request with NLM_F_DUMP lists. Throws {@link NetlinkError}. */
  dump(type: number, body: Buffer): Answer[] {
    for (let attempt = 1; ; attempt++) {
      try {
        return this.request({ type, flags: NLM_F.DUMP, body });
      } catch (error) {
        if (!(error instanceof Interrupted) || attempt === DUMP_ATTEMPTS) throw error;
      }
    }
  }

  /** After an overrun (ENOBUFS) the kernel answers nothing more until the queue was read to its end. */
  #drain(): void {
    for (;;) {
      const size = Number(libc.read(this.#fd.number, received, received.length));
      if (size < 0 && errno() === EAGAIN) return;
    }
  }

  #collect(first: number, outcomes: Outcome[], open: Set<number>): void {
    let interrupted = false;
    for (;;) {
      const size = Number(libc.read(this.#fd.number, received, received.length));
      if (size < 0) {
        const code = errno();
        if (code === EINTR) continue;
        if (code === EAGAIN) break;
        this.#drain();
        throw new SysError('read', code, 'netlink');
      }
      for (let at = 0; at + HEADER <= size; ) {
        const length = received.readUInt32LE(at);
        if (length < HEADER || at + length > size) break;
        const type = received.readUInt16LE(at + 4);
        const flags = received.readUInt16LE(at + 6);
        const index = received.readUInt32LE(at + 8) - first;
        const body = received.subarray(at + HEADER, at + length);
        at += (length + 3) & ~3;
        if (flags & NLM_F.DUMP_INTR && type !== NLMSG_ERROR) interrupted = true;
        const outcome = outcomes[index];
        if (!outcome) continue; // a late answer to something earlier
        if (type === NLMSG_ERROR || type === NLMSG_DONE) {
          open.delete(index);
          const error = body.length >= 4 ? errorOf(type, flags, body) : undefined;
          if (error) outcome.error ??= error;
        } else {
          outcome.answers.push({ type, body: Buffer.from(body) });
        }
      }
      if (open.size === 0) break;
    }
    if (interrupted) throw new Interrupted('the kernel’s list changed while it was read');
  }
}

class Interrupted extends Error {
  override readonly name = 'Interrupted';
}

/**
 * NLMSG_ERROR: the negative errno, the request's header, perhaps its body, then attributes. NLMSG_DONE: the errno of
 * the dump.
 */
function errorOf(type: number, flags: number, body: Buffer): NetlinkError | undefined {
  const number = -body.readInt32LE(0);
  if (number === 0) return undefined;
  if (!(flags & NLM_F.ACK_TLVS)) return new NetlinkError(number);
  const request = type === NLMSG_ERROR && body.length >= 20 ? body.readUInt32LE(4) : 0;
  const from = type === NLMSG_DONE ? 4 : flags & NLM_F.CAPPED ? 20 : 4 + ((request + 3) & ~3);
  return new NetlinkError(number, textOf(attributesOf(body, from).get(NLMSGERR_ATTR_MSG)));
}

/** Throws the first error among the outcomes. */
export function mustAll(outcomes: Outcome[]): void {
  for (const { error } of outcomes) if (error) throw error;
}

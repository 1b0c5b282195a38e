import { chmodSync } from 'node:fs';
import { Fd } from './fd.ts';
import { C, check, errno, libc, SysError } from './libc.ts';

/** Size of sun_path, with the final NUL. */
const MAX_PATH = 108;
const BACKLOG = 128;
/** Descriptors that one message can carry (SCM_MAX_FD). */
const MAX_DESCRIPTORS = 253;
const CMSG_HEADER = 16; // sizeof(struct cmsghdr), 64 bit
const EAGAIN = 11;
const ETOOMANYREFS = 109;

/**
 * A unix socket that listens at `path`, for a process that inherits it: clients can connect and send before that
 * process has started. Mode 0600. Throws {@link SysError} (EADDRINUSE when the path exists), RangeError when the path
 * is too long.
 */
export function listenUnix(path: string): Fd {
  const address = unixAddress(path);
  using socket = new Fd(check('socket', libc.socket(C.AF_UNIX, C.SOCK_STREAM | C.SOCK_CLOEXEC, 0)));
  check('bind', libc.bind(socket.number, address, address.length), path);
  chmodSync(path, 0o600);
  check('listen', libc.listen(socket.number, BACKLOG), path);
  return socket.move();
}

/**
 * A datagram socket whose peer is `path`; a leading "@" names an abstract one. What its owner writes to it never
 * blocks. Throws {@link SysError} (ENOENT, ECONNREFUSED when nobody listens), RangeError when the path is too long.
 */
export function connectDatagram(path: string): Fd {
  const address = unixAddress(path);
  using socket = new Fd(check('socket', libc.socket(C.AF_UNIX, C.SOCK_DGRAM | C.SOCK_CLOEXEC | C.SOCK_NONBLOCK, 0)));
  check('connect', libc.connect(socket.number, address, address.length), path);
  return socket.move();
}

/** Sends one datagram whole. Throws {@link SysError}: EAGAIN when the peer's queue is full. */
export function sendDatagram(socket: Fd, data: Uint8Array): void {
  check('write', Number(libc.write(socket.number, data, data.length)));
}

/** A sockaddr_un, as long as the name: the length of an abstract name is that of its address. */
function unixAddress(path: string): Buffer {
  const name = Buffer.from(path);
  if (name.length >= MAX_PATH) throw new RangeError(`${path}: longer than a unix socket's path may be`);
  const abstract = path.startsWith('@');
  const address = Buffer.alloc(2 + name.length + (abstract ? 0 : 1));
  if (process.arch === 's390x') address.writeUInt16BE(C.AF_UNIX, 0);
  else address.writeUInt16LE(C.AF_UNIX, 0);
  address.set(name, 2);
  if (abstract) address[2] = 0;
  return address;
}

/** Two connected unix sockets. Throws {@link SysError}. */
export function socketPair(): [Fd, Fd] {
  const fds: [number, number] = [-1, -1];
  check('socketpair', libc.socketpair(C.AF_UNIX, C.SOCK_STREAM | C.SOCK_CLOEXEC, 0, fds));
  return [new Fd(fds[0]), new Fd(fds[1])];
}

/**
 * Sends copies of descriptors (SCM_RIGHTS), at most 253. Nobody has to receive them: as long as the other end exists,
 * what they refer to stays open. False when the queue has no room.
 */
export function sendDescriptors(socket: Fd, fds: readonly number[]): boolean {
  if (fds.length > MAX_DESCRIPTORS) return false;
  const length = CMSG_HEADER + 4 * fds.length;
  const control = new ArrayBuffer(Math.ceil(length / 8) * 8);
  new BigUint64Array(control, 0, 1)[0] = BigInt(length);
  new Int32Array(control, 8, 2).set([C.SOL_SOCKET, C.SCM_RIGHTS]);
  new Int32Array(control, CMSG_HEADER, fds.length).set(fds);
  const message = {
    name: null,
    nameLength: 0,
    // A message without a byte of data carries nothing.
    iov: { base: Buffer.alloc(1), length: 1 },
    iovLength: 1,
    control: new Uint8Array(control),
    controlLength: length,
    flags: 0,
  };
  if (libc.sendmsg(socket.number, message, C.MSG_DONTWAIT | C.MSG_NOSIGNAL) >= 0) return true;
  if (errno() === EAGAIN || errno() === ETOOMANYREFS) return false;
  throw new SysError('sendmsg', errno(), 'of descriptors');
}

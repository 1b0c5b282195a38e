import { chmodSync } from 'node:fs';
import { Fd } from './fd.ts';
import { C, check, libc } from './libc.ts';

/** Size of sun_path, with the final NUL. */
const MAX_PATH = 108;
const BACKLOG = 128;

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

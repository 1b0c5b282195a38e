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
  const name = Buffer.from(path);
  if (name.length >= MAX_PATH)
    throw new RangeError(`${path}: longer than the ${MAX_PATH - 1} bytes of a unix socket's path`);
  const address = Buffer.alloc(2 + MAX_PATH);
  if (process.arch === 's390x') address.writeUInt16BE(C.AF_UNIX, 0);
  else address.writeUInt16LE(C.AF_UNIX, 0);
  address.set(name, 2);
  using socket = new Fd(check('socket', libc.socket(C.AF_UNIX, C.SOCK_STREAM | C.SOCK_CLOEXEC, 0)));
  check('bind', libc.bind(socket.number, address, address.length), path);
  chmodSync(path, 0o600);
  check('listen', libc.listen(socket.number, BACKLOG), path);
  return socket.move();
}

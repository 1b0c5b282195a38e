import { constants, fstatSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { Fd, openFd } from './fd.ts';
import { C, check, errno, libc, SysError } from './libc.ts';

const EEXIST = 17;
const FIONREAD = 0x541b;

/** Makes a FIFO (mode 0700, as shims expect) and the folders above it; one that is there already is taken as it is. */
export function makeFifo(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o711 });
  if (libc.mkfifo(path, 0o700) < 0) {
    const code = errno();
    if (code !== EEXIST) throw new SysError('mkfifo', code, path);
  }
}

/**
 * Opens the end we read. The open succeeds without a writer, and epoll stays silent until there has been one; the end of the
 * stream is the moment when the last writer closes. Throws {@link SysError}; a file that is no FIFO is refused.
 */
export function openFifoReader(path: string): Fd {
  return openFifo(path, C.O_RDONLY);
}

/**
 * Opens the end we write. Read and write access, so that the open needs no reader to be there and no write fails with EPIPE
 * between two readers.
 */
export function openFifoWriter(path: string): Fd {
  return openFifo(path, C.O_RDWR);
}

function openFifo(path: string, access: number): Fd {
  using fd = openFd(path, access | C.O_NONBLOCK);
  if ((fstatSync(fd.number).mode & constants.S_IFMT) !== constants.S_IFIFO) {
    throw new Error(`${path} is not a FIFO`);
  }
  return new Fd(fd.release());
}

/** Bytes that wait in a FIFO or socket to be read. */
export function bytesReady(fd: number): number {
  const count = Buffer.alloc(4);
  check('ioctl', libc.ioctl(fd, FIONREAD, count), 'FIONREAD');
  return count.readInt32LE(0);
}

import { constants, fstatSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { Fd, openFd } from './fd.ts';
import { C, check, errno, libc, SysError } from './libc.ts';

const EEXIST = 17;
const FIONREAD = 0x541b;

/** Makes a FIFO (mode 0700, which shims expect) and its parent folders. An existing one is kept. */
export function makeFifo(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  if (libc.mkfifo(path, 0o700) < 0) {
    const code = errno();
    if (code !== EEXIST) throw new SysError('mkfifo', code, path);
  }
}

/**
 * Opens the read end. The open does not wait for a writer, and epoll reports nothing until the first writer has opened;
 * EOF comes when the last writer closes. Throws {@link SysError}, and Error for a file that is not a FIFO.
 */
export function openFifoReader(path: string): Fd {
  return openFifo(path, C.O_RDONLY);
}

/**
 * Opens the write end, with read and write access: the open needs no reader, and no write fails with EPIPE between two
 * readers.
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

/** The number of bytes that a read of this FIFO or socket would return now. */
export function bytesReady(fd: number): number {
  const count = Buffer.alloc(4);
  check('ioctl', libc.ioctl(fd, FIONREAD, count), 'FIONREAD');
  return count.readInt32LE(0);
}

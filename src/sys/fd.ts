import { openSync } from 'node:fs';
import { C, check, libc } from './libc.ts';

/** An open descriptor with O_CLOEXEC that `using` closes: `using f = openFd(path, C.O_RDONLY)`. */
export class Fd {
  #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** The descriptor's number. Throws once the descriptor was closed or released. */
  get number(): number {
    if (this.#fd < 0) throw new Error('the descriptor is closed');
    return this.#fd;
  }

  /** Returns the descriptor without closing it; from now on the caller must close it. */
  release(): number {
    const fd = this.number;
    this.#fd = -1;
    return fd;
  }

  /** Moves the descriptor into a new owner that outlives the scope of this one. */
  move(): Fd {
    return new Fd(this.release());
  }

  [Symbol.dispose](): void {
    if (this.#fd < 0) return;
    libc.close(this.#fd);
    this.#fd = -1;
  }
}

/** Opens `path`; `mode` applies when `flags` create the file. Throws {@link SysError}. */
export function openFd(path: string, flags: number, mode = 0o600): Fd {
  return new Fd(check('open', libc.open(path, flags | C.O_CLOEXEC, mode), path));
}

/**
 * Moves a descriptor to a number that Node closes when this thread ends, as it does with what node:fs has opened: a
 * pool's idle thread ends without a word. To be left open until then.
 */
export function untilThreadEnds(fd: Fd): Fd {
  using from = fd;
  const number = openSync('/dev/null', 'r');
  check('dup3', libc.dup3(from.number, number, C.O_CLOEXEC));
  return new Fd(number);
}

/** Writes `text` into the file at `path` below the open folder `dir`. Throws {@link SysError}. */
export function writeBelow(dir: number, path: string, text: string): void {
  using file = new Fd(check('openat', libc.openat(dir, path, C.O_WRONLY | C.O_CLOEXEC, 0), path));
  const bytes = Buffer.from(text);
  check('write', Number(libc.write(file.number, bytes, bytes.length)), path);
}

/** Keeps a descriptor that this process inherited from those that it starts. Throws {@link SysError} (EBADF). */
export function keepFromChildren(fd: number): void {
  check('fcntl', libc.fcntl(fd, C.F_SETFD, C.FD_CLOEXEC));
}

/** Makes a pipe and returns its read and its write end. */
export function pipe(): [read: Fd, write: Fd] {
  const fds: [number, number] = [-1, -1];
  check('pipe2', libc.pipe2(fds, C.O_CLOEXEC));
  return [new Fd(fds[0]), new Fd(fds[1])];
}

/**
 * An anonymous file (memfd) that contains `data`, with its offset at the start. As a process's stdin it needs no
 * writer, whatever the size.
 */
export function memoryFile(data: Uint8Array): Fd {
  using file = new Fd(check('memfd_create', libc.memfdCreate('sluice-stdin', C.MFD_CLOEXEC)));
  for (let at = 0; at < data.length; ) {
    at += check('write', Number(libc.write(file.number, data.subarray(at), data.length - at)));
  }
  check('lseek', Number(libc.lseek(file.number, 0, 0)));
  return new Fd(file.release());
}

import { C, check, libc } from './libc.ts';

/** An open descriptor that closes itself: `using f = openFd(path, C.O_RDONLY)`. Always close-on-exec. */
export class Fd {
  #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** The descriptor's number; throws once it was closed or handed on. */
  get number(): number {
    if (this.#fd < 0) throw new Error('the descriptor is closed');
    return this.#fd;
  }

  /** Gives the descriptor away: the caller closes it from now on. */
  release(): number {
    const fd = this.number;
    this.#fd = -1;
    return fd;
  }

  /** Gives the descriptor to another owner, out of the scope that would close it. */
  move(): Fd {
    return new Fd(this.release());
  }

  [Symbol.dispose](): void {
    if (this.#fd < 0) return;
    libc.close(this.#fd);
    this.#fd = -1;
  }
}

/** Opens `path`; `mode` counts when `flags` create the file. Throws {@link SysError}. */
export function openFd(path: string, flags: number, mode = 0o600): Fd {
  return new Fd(check('open', libc.open(path, flags | C.O_CLOEXEC, mode), path));
}

/** Keeps a descriptor that this process inherited from those that it starts. Throws {@link SysError} (EBADF). */
export function keepFromChildren(fd: number): void {
  check('fcntl', libc.fcntl(fd, C.F_SETFD, C.FD_CLOEXEC));
}

/** A pipe as its read and its write end. */
export function pipe(): [read: Fd, write: Fd] {
  const fds: [number, number] = [-1, -1];
  check('pipe2', libc.pipe2(fds, C.O_CLOEXEC));
  return [new Fd(fds[0]), new Fd(fds[1])];
}

/** An anonymous file that holds `data`, its offset at the start: input of any size for a process, without a writer. */
export function memoryFile(data: Uint8Array): Fd {
  using file = new Fd(check('memfd_create', libc.memfdCreate('sluice-stdin', C.MFD_CLOEXEC)));
  for (let at = 0; at < data.length; ) {
    at += check('write', Number(libc.write(file.number, data.subarray(at), data.length - at)));
  }
  check('lseek', Number(libc.lseek(file.number, 0, 0)));
  return new Fd(file.release());
}

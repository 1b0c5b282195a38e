import { C, check, errno, libc, SysError } from './libc.ts';

const SIOCBRDELBR = 0x89a1;
const IFREQ_SIZE = 40;
const NAME_SIZE = 16;
const ENODEV = 19;
const ENXIO = 6;

/**
 * Sets an interface of the thread's current network namespace up or down. Throws {@link SysError} with the interface's
 * name.
 */
export function setLink(name: string, up: boolean): void {
  withSocket((socket) => {
    const ifreq = Buffer.alloc(IFREQ_SIZE); // struct ifreq: 16 bytes of name, then the flags
    ifreq.write(name, 0, NAME_SIZE - 1, 'latin1');
    check('ioctl', libc.ioctl(socket, C.SIOCGIFFLAGS, ifreq), name);
    const flags = ifreq.readInt16LE(NAME_SIZE);
    ifreq.writeInt16LE(up ? flags | C.IFF_UP : flags & ~C.IFF_UP, NAME_SIZE);
    check('ioctl', libc.ioctl(socket, C.SIOCSIFFLAGS, ifreq), name);
  });
}

/** Sets a bridge down and deletes it; its ports remain, without a master. An absent bridge is fine. */
export function removeBridge(name: string): void {
  try {
    setLink(name, false);
  } catch (error) {
    if (error instanceof SysError && error.errno === ENODEV) return;
    throw error;
  }
  withSocket((socket) => {
    if (libc.ioctl(socket, SIOCBRDELBR, Buffer.from(`${name}\0`, 'latin1')) === 0) return;
    const code = errno();
    if (code !== ENODEV && code !== ENXIO) throw new SysError('ioctl', code, name);
  });
}

/**
 * Interface ioctls work on any socket and act on the network namespace in which the socket was made: that of this
 * thread.
 */
function withSocket(use: (socket: number) => void): void {
  const socket = check('socket', libc.socket(C.AF_INET, C.SOCK_DGRAM | C.SOCK_CLOEXEC, 0));
  try {
    use(socket);
  } finally {
    libc.close(socket);
  }
}

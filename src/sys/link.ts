import { C, check, errno, libc, SysError } from './libc.ts';

const SIOCBRDELBR = 0x89a1;
const IFREQ_SIZE = 40;
const NAME_SIZE = 16;
const ENODEV = 19;
const ENXIO = 6;

/** Sets an interface of the namespace this thread is in up or down. Throws {@link SysError} that names it. */
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

/** Takes a bridge down and deletes it; its ports stay, without a bridge. One that is not there is fine. */
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

/** The ioctls of interfaces go through any socket; it also decides the namespace: that of this thread. */
function withSocket(use: (socket: number) => void): void {
  const socket = check('socket', libc.socket(C.AF_INET, C.SOCK_DGRAM | C.SOCK_CLOEXEC, 0));
  try {
    use(socket);
  } finally {
    libc.close(socket);
  }
}

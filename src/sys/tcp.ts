import { setTimeout as sleep } from 'node:timers/promises';
import { Fd } from './fd.ts';
import { C, check, errno, libc, SysError } from './libc.ts';
import { inNetns } from './netns.ts';

const SOCK_NONBLOCK = 0o4000;
const AF_INET6 = 10;
const EISCONN = 106;
const ETIMEDOUT = 110;
const EALREADY = 114;
const EINPROGRESS = 115;

/** The loopback address as sockaddr_in or sockaddr_in6. */
function loopback(family: number, port: number): Buffer {
  const address = Buffer.alloc(family === AF_INET6 ? 28 : 16);
  if (process.arch === 's390x') address.writeUInt16BE(family, 0);
  else address.writeUInt16LE(family, 0);
  address.writeUInt16BE(port, 2);
  if (family === AF_INET6) address[23] = 1;
  else address.set([127, 0, 0, 1], 4);
  return address;
}

/**
 * Connects to a TCP port on the loopback of the network namespace at `netns`, over IPv4 first and then over IPv6. The
 * socket is made inside the namespace and belongs to it from then on; this thread has left the namespace before any
 * other task runs. Throws {@link SysError} (ECONNREFUSED, ETIMEDOUT after `timeoutMs`), and StrandedThread when the
 * thread could not return.
 */
export async function connectInNetns(netns: string, port: number, timeoutMs: number): Promise<Fd> {
  try {
    return await connectTo(netns, C.AF_INET, port, timeoutMs);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    try {
      return await connectTo(netns, AF_INET6, port, timeoutMs);
    } catch {
      throw error; // the IPv4 error gives the cause; IPv6 may be disabled altogether
    }
  }
}

async function connectTo(netns: string, family: number, port: number, timeoutMs: number): Promise<Fd> {
  const type = C.SOCK_STREAM | SOCK_NONBLOCK | C.SOCK_CLOEXEC;
  const fd = inNetns(netns, () => new Fd(check('socket', libc.socket(family, type, 0))));
  try {
    const address = loopback(family, port);
    const began = performance.now();
    // On a loopback the first connect usually settles it; with a full backlog the kernel retries.
    for (let wait = 1; ; wait = Math.min(wait * 2, 50)) {
      if (libc.connect(fd.number, address, address.length) === 0) return fd;
      const code = errno();
      if (code === EISCONN) return fd;
      if (code !== EINPROGRESS && code !== EALREADY) throw new SysError('connect', code, `to port ${port}`);
      if (performance.now() - began > timeoutMs) throw new SysError('connect', ETIMEDOUT, `to port ${port}`);
      await sleep(wait);
    }
  } catch (error) {
    fd[Symbol.dispose]();
    throw error;
  }
}

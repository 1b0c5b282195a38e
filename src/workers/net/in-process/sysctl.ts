/**
 * Sysctls of network namespaces. The kernel finds a name below /proc/sys/net in a chain with one entry for each
 * namespace that was looked into: 1 µs without pods, 30 µs with 500, 60 to 90 with 1000. What a launch needs of the
 * host's is therefore kept open by this thread.
 */
import { constants, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { writeBelow } from '../../../sys/fd.ts';
import { SysError } from '../../../sys/libc.ts';
import { during } from './refusal.ts';

/** A sysctl of the namespace that this thread is in. */
export const writeSysctl = (key: string, value: string): void => writeFileSync(`/proc/sys/${key}`, value);

export function readSysctl(key: string): string | undefined {
  try {
    return readFileSync(`/proc/sys/${key}`, 'latin1').trim();
  } catch {
    return undefined; // a kernel without IPv6 has none of its switches
  }
}

/** For a setting that the kernel may not have, and that nothing depends on. */
export function tryWriteSysctl(key: string, value: string): void {
  try {
    writeSysctl(key, value);
  } catch {
    // The reference plugins look away here, too: without IPv6 the switch is absent and nothing is lost.
  }
}

/** Of the host's namespace, opened at their first use; Node closes them when the thread ends. */
const opened = new Map<string, number>();

function hostFile(key: string, flags: number): number {
  let file = opened.get(key);
  if (file === undefined) {
    file = openSync(`/proc/sys/${key}`, flags);
    opened.set(key, file);
  }
  return file;
}

/** The routes of a link of the host's are ours: it is to learn none. To be called in the host's namespace. */
export function ignoreRouterAdvertisements(link: string): void {
  const file = `${link}/accept_ra`;
  try {
    writeBelow(hostFile('net/ipv6/conf', constants.O_RDONLY | constants.O_DIRECTORY), file, '0');
  } catch (error) {
    if (!(error instanceof SysError) && (error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    // As in tryWriteSysctl(): a kernel without IPv6, or a link without it.
  }
}

/** Lets the host pass packets on between its interfaces. To be called in the host's namespace. Throws Refusal. */
export function enableForwarding(six: boolean): void {
  const key = six ? 'net/ipv6/conf/all/forwarding' : 'net/ipv4/ip_forward';
  if (isOn(key)) return;
  during('failed to enable forwarding', () => writeSysctl(key, '1'));
}

function isOn(key: string): boolean {
  const value = Buffer.alloc(8);
  try {
    return readSync(hostFile(key, constants.O_RDONLY), value, 0, value.length, 0) > 0 && value[0] === 0x31;
  } catch {
    return false; // writing it says what is wrong
  }
}

/**
 * Counters of a pod's interfaces, read through one of its processes, so that no thread has to enter the namespace; a
 * pinned sandbox has no process.
 */
import { readFileSync, statSync } from 'node:fs';
import { inNetns } from '../../sys/netns.ts';
import { isGone, readText } from './files.ts';

export interface InterfaceReading {
  name: string;
  rxBytes: bigint;
  rxPackets: bigint;
  rxErrors: bigint;
  rxDropped: bigint;
  txBytes: bigint;
  txPackets: bigint;
  txErrors: bigint;
  txDropped: bigint;
}

/**
 * The interfaces (except lo) of the namespace pinned at `netns`, read from /proc/<pid>/net/dev. Undefined when that
 * process is not in this namespace: the pid of a dead process may have been reused. With pid 0 the thread enters the
 * namespace for the moment of the reading.
 */
export function readNetwork(pid: number, netns: string): InterfaceReading[] | undefined {
  try {
    if (pid === 0) return parseNetDev(inNetns(netns, () => readFileSync('/proc/thread-self/net/dev', 'latin1')));
    const pinned = statSync(netns);
    const its = statSync(`/proc/${pid}/ns/net`);
    if (pinned.ino !== its.ino || pinned.dev !== its.dev) return undefined;
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
  const text = readText(`/proc/${pid}/net/dev`);
  return text === undefined ? undefined : parseNetDev(text);
}

/**
 * Parses /proc/<pid>/net/dev. Columns: bytes packets errs drop fifo frame compressed multicast for receiving, then the
 * same for sending with colls and carrier in place of the last two.
 */
export function parseNetDev(text: string): InterfaceReading[] {
  const interfaces: InterfaceReading[] = [];
  for (const line of text.split('\n')) {
    const match = /^\s*([^:]+):\s*(\d[\d\s]*)$/.exec(line);
    const name = match?.[1];
    if (name === undefined || name === 'lo') continue;
    const columns = (match?.[2] ?? '').trim().split(/\s+/).map(BigInt);
    const column = (at: number) => columns[at] ?? 0n;
    interfaces.push({
      name,
      rxBytes: column(0),
      rxPackets: column(1),
      rxErrors: column(2),
      rxDropped: column(3),
      txBytes: column(8),
      txPackets: column(9),
      txErrors: column(10),
      txDropped: column(11),
    });
  }
  return interfaces;
}

/**
 *   node test/overload/probe.ts SOCKET CGROUP_PARENT
 *
 * A caller of its own process and session, so that its times are not those of the client that makes the load: lists
 * pods every 20 ms and asks for a pod every 100 ms, until its standard input closes. Prints the milliseconds of each
 * list and of each refusal as JSON. It goes ahead of the load when both want a processor: on two cores half of a slow
 * list's time was the probe's own wait for one.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { GRPC } from '../../src/errors.ts';
import { favourClient } from '../bench/load.ts';
import { connectCri } from '../rig/cri.ts';
import { podConfig } from '../rig/messages.ts';

export interface Probed {
  lists: number[];
  refusals: number[];
}

const [socket = '', cgroupParent = ''] = process.argv.slice(2);
using cri = connectCri(socket);
const probed: Probed = { lists: [], refusals: [] };
let over = false;
process.stdin.resume().once('end', () => {
  over = true;
});

async function timed(work: () => Promise<unknown>): Promise<{ ms: number; error?: { code?: number } }> {
  const began = performance.now();
  try {
    await work();
    return { ms: performance.now() - began };
  } catch (error) {
    return { ms: performance.now() - began, error: error as { code?: number } };
  }
}

const lists = async () => {
  while (!over) {
    const { ms, error } = await timed(() => cri.listPodSandbox());
    if (error) throw error;
    probed.lists.push(ms);
    await sleep(20);
  }
};
const launch = async (number: number) => {
  const config = podConfig(`probe-${number}`, { cgroupParent });
  const { ms, error } = await timed(() => cri.runPodSandbox({ config }, { timeoutMs: 120_000 }));
  if (error?.code === GRPC.RESOURCE_EXHAUSTED) probed.refusals.push(ms);
};
const launches = async () => {
  const asked: Promise<void>[] = [];
  for (let number = 0; !over; number++) {
    asked.push(launch(number)); // one that is accepted may wait long for its turn
    await sleep(100);
  }
  await Promise.all(asked);
};
await cri.version();
using _ahead = favourClient();
console.log('ready');
await Promise.all([lists(), launches()]);
console.log(JSON.stringify(probed));

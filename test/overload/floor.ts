/**
 *   node test/overload/floor.ts [--calls 2000] [--rounds 5]
 *
 * What an overload costs at least: a server of grpc-js that refuses every call at once and does nothing else, a client
 * that makes so many at once, and a second one that asks for a short list every 20 ms. Each is a process. Prints the
 * CPU time of a refused call, the times of refusals and of lists, and the longest time for which the server's thread
 * answered nobody.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Client, credentials, Server, ServerCredentials, status } from '@grpc/grpc-js';
import { favourClient } from '../bench/load.ts';
import { latencies } from '../bench/statistics.ts';
import { privateFolder } from '../rig/paths.ts';

const asIs = (bytes: Buffer) => bytes;
const method = (name: string) => ({
  path: `/floor/${name}`,
  requestStream: false as const,
  responseStream: false as const,
  requestSerialize: asIs,
  requestDeserialize: asIs,
  responseSerialize: asIs,
  responseDeserialize: asIs,
});
/** What 99 of 100 lists shall stay below. */
const LATE_MS = 25;
/** Bytes of a small RunPodSandbox. */
const REQUEST = Buffer.alloc(180, 1);
const [role, socket = ''] = process.argv.slice(2);

if (role === 'server') {
  const server = new Server();
  server.addService(
    { refuse: method('refuse'), list: method('list') },
    {
      refuse: (_call: unknown, answer: (error: object) => void) =>
        answer({ code: status.RESOURCE_EXHAUSTED, details: 'the queue is full' }),
      list: (_call: unknown, answer: (error: null, bytes: Buffer) => void) => answer(null, REQUEST),
    },
  );
  const bound = Promise.withResolvers<number>();
  server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (_error, port) => bound.resolve(port));
  await bound.promise;
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  let before = process.cpuUsage();
  process.on('message', () => {
    const { user, system } = process.cpuUsage(before);
    process.send?.({ cpuMs: (user + system) / 1000, longestMs: delay.max / 1e6 });
    before = process.cpuUsage();
    delay.reset();
  });
  process.send?.('ready');
} else if (role === 'probe') {
  using _ahead = favourClient();
  const client = new Client(`unix:${socket}`, credentials.createInsecure());
  const lists: number[] = [];
  let count = 0;
  process.on('message', () => process.send?.(lists.splice(0)));
  for (;;) {
    const began = performance.now();
    await new Promise((done) => client.makeUnaryRequest('/floor/list', asIs, asIs, REQUEST, done));
    lists.push(performance.now() - began);
    if (++count === 5) process.send?.('ready');
    await sleep(20);
  }
} else await measure();

async function measure(): Promise<void> {
  const { values } = parseArgs({
    options: { calls: { type: 'string', default: '2000' }, rounds: { type: 'string', default: '5' } },
  });
  const folder = privateFolder('sluice-floor');
  const path = join(folder, 'socket');
  const begin = async (name: string) => {
    const child = fork(import.meta.filename, [name, path], { detached: true }); // sessions of their own, as the daemon has
    await once(child, 'message');
    return child;
  };
  const [server, probe] = [await begin('server'), await begin('probe')];
  const ask = async <T>(child: typeof server): Promise<T> => {
    child.send('');
    const [answer] = await once(child, 'message');
    return answer as T;
  };
  const client = new Client(`unix:${path}`, credentials.createInsecure());
  const calls = Number(values.calls);
  try {
    for (let round = 0; round < Number(values.rounds); round++) {
      await ask(server);
      await ask(probe);
      const refusals = await Promise.all(
        Array.from({ length: calls }, async () => {
          const began = performance.now();
          await new Promise((done) => client.makeUnaryRequest('/floor/refuse', asIs, asIs, REQUEST, done));
          return performance.now() - began;
        }),
      );
      await sleep(200);
      const { cpuMs, longestMs } = await ask<{ cpuMs: number; longestMs: number }>(server);
      const times = await ask<number[]>(probe);
      const lists = latencies(times);
      const late = times.filter((ms) => ms > LATE_MS).length;
      const refused = latencies(refusals);
      console.log(
        `${calls} calls: ${((cpuMs / calls) * 1000).toFixed(0)} µs of CPU each; nobody answered for ${longestMs.toFixed(0)} ms; lists p50 ${lists.p50.toFixed(1)} ms, longest ${lists.max.toFixed(1)} ms, ${late} of ${lists.count} after more than ${LATE_MS} ms; refusals p50 ${refused.p50.toFixed(0)} ms`,
      );
    }
  } finally {
    client.close();
    for (const child of [server, probe]) child.kill();
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * How long a daemon takes to list its pods, one call after the other, without what a client does with the answer. The
 * process of a benchmark is no good for that: it has launched the pods, each answer of 500 pods is decoded into some
 * thousand objects, and V8 collects them for up to 15 ms in the middle of a call. So this file runs itself as a process
 * of its own, which decodes nothing.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { Client, credentials } from '@grpc/grpc-js';
import { RuntimeServiceDefinition } from '../../proto/gen/cri.ts';
import { callTimes } from './load.ts';
import type { Latencies } from './statistics.ts';

/** Milliseconds of `count` calls of ListPodSandbox on a CRI socket. Rejects when a call fails. */
export async function listTimes(socket: string, count: number): Promise<Latencies> {
  const child = fork(import.meta.filename, [socket, String(count)]);
  const measured = once(child, 'message') as Promise<[Latencies]>;
  const ended = once(child, 'exit').then(([code]) => {
    throw new Error(`the client that lists pods ended with ${code}`);
  });
  const [times] = await Promise.race([measured, ended]);
  ended.catch(() => {}); // it ends when it has measured
  return times;
}

async function measure(socket: string, count: number): Promise<Latencies> {
  const client = new Client(`unix:${socket}`, credentials.createInsecure(), {
    'grpc.max_receive_message_length': 16 << 20,
  });
  const asItIs = (bytes: Buffer) => bytes;
  const list = () =>
    new Promise<void>((resolve, reject) => {
      const path = `/${RuntimeServiceDefinition.fullName}/ListPodSandbox`;
      client.makeUnaryRequest(path, asItIs, asItIs, Buffer.alloc(0), (error) => (error ? reject(error) : resolve()));
    });
  try {
    await callTimes(20, list); // V8 makes fast code of the client
    return await callTimes(count, list);
  } finally {
    client.close();
  }
}

if (import.meta.main && process.send) {
  const [socket = '', count = ''] = process.argv.slice(2);
  process.send(await measure(socket, Number(count)));
  process.disconnect();
}

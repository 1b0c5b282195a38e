/**
 * The floor of a pull: a process that does in C what no pull can do without (image-floor.c), with as many threads as
 * there are processors. What a daemon takes more is its own: Sluice's share is JavaScript, V8, undici and records.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { program } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import type { FloorAnswer, FloorPull } from './image-floor-process.ts';
import type { Puller } from './image-sides.ts';

/** `registry` is host:port of image-server.ts. Below `folder`, which is made, is what was pulled. Needs gcc. */
export async function startImageFloor(folder: string, registry: string): Promise<Puller> {
  const pulled = join(folder, 'pulled');
  mkdirSync(pulled, { recursive: true });
  const library = join(folder, 'floor.so');
  const source = join(import.meta.dirname, 'image-floor.c');
  await run(program('gcc'), ['-O2', '-Wall', '-shared', '-fPIC', '-o', library, source]);
  let child: ChildProcess | undefined;
  const start = () => {
    child = fork(join(import.meta.dirname, 'image-floor-process.ts'), [library, registry, pulled], {
      env: { ...process.env, UV_THREADPOOL_SIZE: String(availableParallelism()) },
    });
    child.setMaxListeners(0);
  };
  let last = 0;
  const ask = async (kind: FloorPull['kind'], name: string): Promise<void> => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const id = ++last;
    const process = child;
    if (!process?.connected) throw new Error('the floor’s process has ended');
    const onExit = () => reject(new Error('the floor’s process has ended'));
    const onMessage = (answer: FloorAnswer) => {
      if (answer.id !== id) return;
      process.off('message', onMessage).off('exit', onExit);
      if (answer.error === undefined) resolve();
      else reject(new Error(answer.error));
    };
    process.on('message', onMessage).on('exit', onExit);
    process.send({ id, kind, name } satisfies FloorPull);
    return promise;
  };
  const stop = async () => {
    if (!child?.connected) return;
    const ended = once(child, 'exit');
    child.disconnect();
    await ended;
  };
  start();
  return {
    folder,
    pid: () => child?.pid ?? 0,
    start: async () => start(),
    stop,
    pull: (name) => ask('pull', name),
    remove: (name) => ask('remove', name),
    [Symbol.asyncDispose]: stop,
  };
}

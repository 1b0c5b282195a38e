/**
 * V8's options, which belong to the process and not to a thread: what one thread sets for a moment, another one resets
 * in the middle of it. So one thread at a time does so; what lasts longer is main's alone.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { getEnvironmentData, setEnvironmentData } from 'node:worker_threads';

const KEY = 'sluice: lock of V8’s options';
const FREE = 0;
const TAKEN = 1;
/** A thread that was ended inside leaves the lock taken; what is done inside takes milliseconds. */
const PATIENCE_MS = 2000;

/** Main makes it, as it loads; threads, and those that they start, are given the same memory. */
const lock = new Int32Array(sharedMemory());

function sharedMemory(): SharedArrayBuffer {
  const there = getEnvironmentData(KEY);
  if (there instanceof SharedArrayBuffer) return there;
  const made = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
  setEnvironmentData(KEY, made);
  return made;
}

/**
 * Runs `work` while boolean options (`expose-gc`, without dashes) are what `options` says, and sets them to the
 * contrary afterwards. Waits meanwhile for other threads that do the same, without running anything else: `work` is
 * short.
 */
export function withV8Options<T>(options: Readonly<Record<string, boolean>>, work: () => T): T {
  const set = (contrary: boolean) => {
    for (const [option, wanted] of Object.entries(options)) {
      setFlagsFromString(wanted === contrary ? `--no-${option}` : `--${option}`);
    }
  };
  using _alone = takeLock();
  set(false);
  try {
    return work();
  } finally {
    set(true);
  }
}

function takeLock(): Disposable {
  while (Atomics.compareExchange(lock, 0, FREE, TAKEN) !== FREE) {
    if (Atomics.wait(lock, 0, TAKEN, PATIENCE_MS) === 'timed-out') break;
  }
  return {
    [Symbol.dispose]: () => {
      Atomics.store(lock, 0, FREE);
      Atomics.notify(lock, 0, 1);
    },
  };
}

/** V8's own function that collects this thread's garbage; each call gives another one, of a context of its own. */
export function garbageCollector(): (options: object) => unknown {
  // Contexts have it when they are made under this option. It does not stay, since compiled code is only taken from a
  // cache that was written under the same options: threads that start later need it.
  return withV8Options({ 'expose-gc': true }, () => runInNewContext('gc') as (options: object) => unknown);
}

/**
 * Runs `work`, which shrinks heaps, so that compiled WebAssembly stays: each such collection forgets that of all
 * threads, and V8 compiles it again so that it can be made faster, which undici's parser must not be
 * (src/workers/http/parser.ts). Not twice at a time, since the option belongs to the process; a thread that is started
 * meanwhile takes no code cache.
 */
export async function keepingWebAssembly(work: () => Promise<void>): Promise<void> {
  setFlagsFromString('--no-flush-liftoff-code');
  try {
    await work();
  } finally {
    setFlagsFromString('--flush-liftoff-code');
  }
}

import { check, libc } from './libc.ts';

/** Bytes of a set of processors: one bit for each of 8192, the most that a kernel can be built for. */
const SET_BYTES = 1024;

/** The processors that this thread may run on, in ascending order. Throws {@link SysError}. */
export function ownProcessors(): number[] {
  return numbersIn(ownSet());
}

/**
 * Runs `work` with this thread on one processor alone, and gives the thread back its own set afterwards. Throws
 * {@link SysError} when the thread may not run there, and what `work` throws.
 */
export function onProcessor<T>(processor: number, work: () => T): T {
  const before = ownSet();
  const alone = Buffer.alloc(SET_BYTES);
  alone[processor >> 3] = 1 << (processor & 7);
  check('sched_setaffinity', libc.schedSetaffinity(0, SET_BYTES, alone), `processor ${processor}`);
  try {
    return work();
  } finally {
    check('sched_setaffinity', libc.schedSetaffinity(0, SET_BYTES, before), 'the set of before');
  }
}

function ownSet(): Buffer {
  const set = Buffer.alloc(SET_BYTES);
  check('sched_getaffinity', libc.schedGetaffinity(0, SET_BYTES, set));
  return set;
}

function numbersIn(set: Buffer): number[] {
  const found: number[] = [];
  for (let number = 0; number < SET_BYTES * 8; number++)
    if (((set[number >> 3] ?? 0) & (1 << (number & 7))) !== 0) found.push(number);
  return found;
}

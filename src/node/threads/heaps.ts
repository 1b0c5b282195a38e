/**
 * How large the young generations of threads are. The daemon's objects are short-lived, so a small one does, and each
 * of its heaps has one. Layers are another matter: every file makes some objects and every piece some buffers, and with
 * 1 MiB V8 collected a hundred times and marked the whole heap three times for 72 MiB in twelve layers.
 */
import { setFlagsFromString } from 'node:v8';
import type { ResourceLimits } from 'node:worker_threads';

/** Three parts, of which one is what V8 calls a semi-space. */
export const SMALL_HEAP: ResourceLimits = { maxYoungGenerationSizeMb: 3 };
/** For threads that unpack layers; they end soon afterwards. */
export const ROOMY_HEAP: ResourceLimits = { maxYoungGenerationSizeMb: 24 };

/**
 * Lets these limits count for threads that are started from now on. bin/sluiced gives main's heap its size by an option
 * that V8 looks at again for each heap, and that would count for more. (Code caches stay good: V8 does not compare it.)
 */
export function limitHeapsOfThreads(): void {
  setFlagsFromString('--max-semi-space-size=0');
}

import { setImmediate as turn } from 'node:timers/promises';
import type { FileQueue } from './file-queue.ts';
import type { GiveWay } from './give-way.ts';
import { makeSmallFile } from './small-file.ts';

/**
 * What a thread of the image pool does while it has no layer: it makes small files of the others' layers. Between two
 * batches it hears what else there is to do.
 */
export class FileHelper {
  readonly queue: FileQueue;
  readonly way: GiveWay | undefined;
  #layers = 0;
  #free = Promise.withResolvers<void>();

  constructor(queue: FileQueue, way?: GiveWay) {
    this.queue = queue;
    this.way = way;
    this.#free.resolve();
    queue.join();
  }

  /** The thread has a layer of its own until this is disposed. */
  atWork(): Disposable {
    if (this.#layers++ === 0) {
      this.#free = Promise.withResolvers();
      this.queue.leave();
    }
    return {
      [Symbol.dispose]: () => {
        if (--this.#layers > 0) return;
        this.queue.join();
        this.#free.resolve();
      },
    };
  }

  /** Helps as long as the thread lives. */
  async help(): Promise<never> {
    for (;;) {
      const seen = this.queue.changes;
      if (this.#layers > 0) await this.#free.promise;
      else if (helpOnce(this.queue, this.way)) await turn();
      else await this.queue.changed(seen);
    }
  }
}

/** Makes the files of one batch; false when there is none. */
function helpOnce(queue: FileQueue, way: GiveWay | undefined): boolean {
  way?.give();
  const batch = queue.take();
  if (!batch) return false;
  try {
    batch.work(makeSmallFile);
  } catch {
    // The layer's own thread finds the first file that is not made, tries for itself and meets the error.
  } finally {
    batch.done();
  }
  return true;
}

import { createHash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { BUNDLED } from '../../version.ts';
import { type DigestWork, makeRing, RingWriter } from './digest-ring.ts';

/**
 * Bytes of a blob from which on its digest gets a thread of its own. A digest takes a second for each GiB, a quarter of
 * what the layer's thread does; a thread takes some 20 ms and 7 MiB.
 */
const LARGE = 128 << 20;
const ENTRY = new URL(BUNDLED ? './worker-digest.js' : '../digest.ts', import.meta.url);

/** The digest of bytes that come piece by piece. */
export interface BlobDigest extends Disposable {
  /** Undefined when the next piece may come at once. The bytes may be changed afterwards. */
  add(piece: Buffer): Promise<void> | undefined;
  /** Ends the input; resolves with the digest in hexadecimal. */
  hex(): Promise<string>;
}

/** For a blob of so many bytes. `large` is for tests. */
export function blobDigest(algorithm: DigestWork['algorithm'], size: number, large = LARGE): BlobDigest {
  return size >= large && availableParallelism() > 1 ? new InThread(algorithm) : new Here(algorithm);
}

class Here implements BlobDigest {
  readonly #hash: ReturnType<typeof createHash>;

  constructor(algorithm: DigestWork['algorithm']) {
    this.#hash = createHash(algorithm);
  }

  add(piece: Buffer): undefined {
    this.#hash.update(piece);
  }

  async hex(): Promise<string> {
    return this.#hash.digest('hex');
  }

  [Symbol.dispose](): void {}
}

class InThread implements BlobDigest {
  readonly #worker: Worker;
  readonly #ring: RingWriter;
  readonly #result: Promise<string>;

  constructor(algorithm: DigestWork['algorithm']) {
    const ring = makeRing();
    this.#ring = new RingWriter(ring);
    const workerData: DigestWork = { algorithm, ring };
    this.#worker = new Worker(ENTRY, { workerData, name: 'digest' });
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    promise.catch(() => {}); // `add` rejects with it as well
    const fail = (error: Error) => {
      this.#ring.fail(error);
      reject(error);
    };
    this.#worker.on('message', resolve);
    this.#worker.on('error', (error: Error) => fail(error));
    this.#worker.on('exit', (status) => fail(new Error(`the thread for a digest ended with ${status}`)));
    this.#result = promise;
  }

  add(piece: Buffer): Promise<void> {
    return this.#ring.add(piece);
  }

  async hex(): Promise<string> {
    await this.#ring.end();
    return this.#result;
  }

  [Symbol.dispose](): void {
    this.#worker.terminate().catch(() => {}); // it has nothing that would be left over
  }
}

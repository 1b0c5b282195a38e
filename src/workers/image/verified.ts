import { createHash, type Hash } from 'node:crypto';

/** What a blob or a layer's content must be. */
export interface Expected {
  /** algorithm:hex. */
  digest: string;
  /** Bytes; left out when nobody has said it. */
  size?: number;
}

/** The algorithms that image references may use (OCI image specification, "Digests"). */
const ALGORITHMS: Record<string, number> = { sha256: 64, sha512: 128 };

/** Is this a digest that can be checked? */
export function isDigest(text: string): boolean {
  const [algorithm = '', hex = '', ...rest] = text.split(':');
  return rest.length === 0 && ALGORITHMS[algorithm] === hex.length && /^[0-9a-f]+$/.test(hex);
}

/** A running digest; `matches` once all bytes are in. */
export class Digester {
  readonly #algorithm: string;
  readonly #hash: Hash;
  size = 0;
  #result: string | undefined;

  constructor(expected: string) {
    this.#algorithm = expected.slice(0, expected.indexOf(':'));
    this.#hash = createHash(this.#algorithm);
  }

  update(chunk: Buffer): void {
    this.#hash.update(chunk);
    this.size += chunk.length;
  }

  /** The digest of what came; nothing more can be added. */
  get digest(): string {
    this.#result ??= `${this.#algorithm}:${this.#hash.digest('hex')}`;
    return this.#result;
  }
}

/**
 * Bytes on their way, counted and hashed. Ending the iteration early does not end the source, so that after a failure further down
 * the rest can still be read: damaged content is better explained by the digest that it has.
 */
export class Verified implements AsyncIterable<Buffer> {
  readonly #source: AsyncIterator<Buffer>;
  readonly digester: Digester;

  constructor(source: AsyncIterable<Buffer>, expected: Expected) {
    this.#source = source[Symbol.asyncIterator]();
    this.digester = new Digester(expected.digest);
  }

  [Symbol.asyncIterator](): AsyncIterator<Buffer> {
    return {
      next: async () => {
        const result = await this.#source.next();
        if (!result.done) this.digester.update(result.value);
        return result;
      },
    };
  }

  /** Reads what is left. */
  async drain(): Promise<void> {
    for await (const _ of this);
  }

  /** Ends the source. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }
}

import { codeOf, SluiceError } from '../../errors.ts';
import type { FetchedLayer, FetchLayer } from '../../workers/image/fetch-layer.ts';
import type { handlers } from '../../workers/image.ts';
import type { Log } from '../observe/log.ts';
import type { Pool } from '../threads/pool.ts';
import { LayerChannel } from './layer-channel.ts';
import type { LayerProgress, WantedLayer } from './layer-store.ts';

export interface LayerFetcherOptions {
  pool: Pool<typeof handlers>;
  /** A layer that waits for its registry so long (milliseconds) without a byte fails. */
  progressTimeoutMs: () => number;
  log: Log;
  /** How a layer says what it hides; default: as overlayfs wants it. */
  whiteouts?: 'files';
  /** `seconds` for the whole layer: of them it `waited` for the registry, and `paused` while a launch was late. */
  onFetched?: (result: {
    seconds: number;
    waited: number;
    paused: number;
    error?: unknown;
    downloaded: number;
    unpacked: number;
  }) => void;
  /** Where a layer's blob is kept; undefined: it is not. */
  keepBlob?: (digest: string) => string | undefined;
}

/** Has workers download and unpack layers. */
export class LayerFetcher {
  readonly #options: LayerFetcherOptions;

  constructor(options: LayerFetcherOptions) {
    this.#options = options;
  }

  /** Puts a layer into `dir`/fs. Throws what the worker's fetchLayer throws, with the layer's digest. */
  async fetch(
    { diffId, blob, name, repository }: WantedLayer,
    {
      dir,
      avoid,
      signal,
      progress,
    }: { dir: string; avoid?: FetchLayer['avoid']; signal: AbortSignal; progress: LayerProgress },
  ): Promise<FetchedLayer> {
    const { pool, progressTimeoutMs, whiteouts, onFetched, keepBlob, log } = this.#options;
    const began = performance.now();
    const seconds = () => (performance.now() - began) / 1000;
    const { digest, size, mediaType, urls } = blob;
    progress.state = 'downloading';
    try {
      const result = await repository.layer({ digest, urls }, async (source, renew) => {
        using channel = new LayerChannel({
          signal,
          renew,
          onProgress: (downloaded) => {
            progress.downloaded = downloaded;
          },
          onProblem: (err) => log.info({ digest, err }, 'the registry wants a new token, and there is none'),
        });
        const { port } = channel;
        const of = { digest, size, diffId, mediaType, name, keep: keepBlob?.(digest), whiteouts };
        return await pool.call(
          'fetchLayer',
          { ...of, source, dir, avoid, progressTimeoutMs: progressTimeoutMs(), port },
          [port],
        );
      });
      progress.downloaded = size;
      const { downloadSeconds: waited, pauseSeconds: paused, bytes: unpacked } = result;
      onFetched?.({ seconds: seconds(), waited, paused, downloaded: size, unpacked });
      return result;
    } catch (error) {
      onFetched?.({ seconds: seconds(), waited: 0, paused: 0, error, downloaded: 0, unpacked: 0 });
      throw new SluiceError(codeOf(error), `layer ${blob.digest}`, { cause: error });
    }
  }
}

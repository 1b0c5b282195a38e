import { type BlobJob, type DownloadReport, download, Unauthorized } from './download.ts';
import { type Unpacked, type UnpackJob, unpack } from './unpack.ts';

export interface FetchLayer extends BlobJob, Pick<UnpackJob, 'diffId' | 'dir'> {
  /** Two 64-bit counters, of bytes downloaded and unpacked: what main sees of the layer while it is under way. */
  progress: SharedArrayBuffer;
}

export type FetchedLayer = DownloadReport &
  ({ kind: 'unpacked'; layer: Unpacked } | { kind: 'unauthorized'; source: number; challenges: string[] });

/** Downloads, verifies and unpacks one layer in one pass. Errors: see {@link download} and {@link unpack}. */
export async function fetchLayer(job: FetchLayer): Promise<FetchedLayer> {
  const progress = new BigInt64Array(job.progress);
  const count = (counter: 0 | 1, bytes: number) => Atomics.add(progress, counter, BigInt(bytes));
  const report: DownloadReport = { retries: 0, unreachable: [] };
  const counted = counting(download(job, report), (bytes) => count(0, bytes));
  const { digest, size, diffId, dir } = job;
  try {
    const layer = await unpack(counted, { blob: { digest, size }, diffId, dir }, (bytes) => count(1, bytes));
    return { kind: 'unpacked', layer, ...report };
  } catch (error) {
    if (!(error instanceof Unauthorized)) throw error;
    return { kind: 'unauthorized', source: error.source, challenges: error.challenges, ...report };
  }
}

async function* counting(source: AsyncIterable<Buffer>, count: (bytes: number) => void): AsyncGenerator<Buffer> {
  for await (const chunk of source) {
    count(chunk.length);
    yield chunk;
  }
}

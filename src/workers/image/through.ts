import { pipeline, Readable, type Transform } from 'node:stream';

/** Large enough that a file mostly arrives in one piece, small enough that a dozen layers at once stay cheap. */
export const CHUNK = 256 * 1024;

/** What comes out of a transform that is fed from `source`; a failure of either is thrown. */
export async function* through(source: AsyncIterable<Buffer>, transform: Transform): AsyncGenerator<Buffer> {
  // The loop below throws whatever ended the pipeline; the callback only has to be there.
  const out = pipeline(Readable.from(source, { objectMode: false }), transform, () => {});
  for await (const chunk of out) yield chunk as Buffer;
}

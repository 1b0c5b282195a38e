/** Items in one message of a list stream; a few hundred bytes each keep it far below 16 MiB. */
const BATCH = 1000;

/** Cuts a list into batches; an empty list is one empty batch, so that the client hears something. */
export function* batches<T>(items: Iterable<T>, size = BATCH): Generator<T[]> {
  let batch: T[] = [];
  let any = false;
  for (const item of items) {
    batch.push(item);
    if (batch.length < size) continue;
    yield batch;
    any = true;
    batch = [];
  }
  if (batch.length > 0 || !any) yield batch;
}

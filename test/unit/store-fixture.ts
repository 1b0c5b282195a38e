/** A table that lives in memory and keeps what is written, and a reader of life cycle events. */
import type { Events } from '../../src/node/store/events.ts';
import { type Row, Table } from '../../src/node/store/table.ts';

/** `writes` has what `view` shows of each row at the moment it is written; undefined for a deletion. */
export function memoryTable<R extends Row>(view: (row: R) => Partial<R>) {
  const writes: (Partial<R> | undefined)[] = [];
  const write = (_id: string, json: string) => void writes.push(JSON.parse(json));
  const table = new Table<R>(
    { encode: (row) => JSON.stringify(view(row)), decode: (text) => JSON.parse(text) },
    { insert: write, update: write, delete: () => void writes.push(undefined) },
  );
  return { table, writes };
}

/** Subscribes at once. The result ends the subscription and gives what was published: type, container, sandbox. */
export function follow(events: Events): () => Promise<[type: string, container: string, sandbox: string][]> {
  const end = new AbortController();
  const seen: [string, string, string][] = [];
  const done = (async () => {
    for await (const { type, containerId, sandboxId } of events.subscribe(end.signal)) {
      seen.push([type, containerId, sandboxId]);
    }
  })();
  return async () => {
    await new Promise<void>((resolve) => setImmediate(resolve));
    end.abort();
    await done;
    return seen;
  };
}

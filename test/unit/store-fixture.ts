/** Rows, a table that lives in memory and keeps what is written, and a reader of life cycle events. */
import type { ContainerRow } from '../../src/node/store/container.ts';
import type { Events } from '../../src/node/store/events.ts';
import type { SandboxRow } from '../../src/node/store/sandbox.ts';
import { type Row, Table } from '../../src/node/store/table.ts';
import { emptyContainer, emptyPod } from '../rig/messages.ts';

/** A pod of which nothing exists yet. */
export function sandboxRow(over: Partial<SandboxRow> = {}): SandboxRow {
  return {
    id: 'pod1',
    name: 'web_shop_u-1_0',
    state: 'creating',
    createdAt: 0n,
    config: emptyPod(),
    runtimeHandler: '',
    runtime: 'runc',
    netns: '',
    addresses: [],
    image: '',
    snapshot: '/snapshots/pod1',
    bundle: '/bundles/pod1',
    rootDir: '/root/pod1',
    stateDir: '/state/pod1',
    pid: 0,
    ...over,
  };
}

/** A container of that pod of which nothing exists yet. */
export function containerRow(over: Partial<ContainerRow> = {}): ContainerRow {
  return {
    id: 'ctr1',
    name: 'app_web_shop_u-1_0',
    sandbox: 'pod1',
    state: 'creating',
    config: emptyContainer(),
    image: '',
    createdAt: 0n,
    startedAt: 0n,
    finishedAt: 0n,
    exitCode: 0,
    reason: '',
    message: '',
    pid: 0,
    snapshot: '/snapshots/ctr1',
    bundle: '/bundles/ctr1',
    rootDir: '/root/ctr1',
    stateDir: '/state/ctr1',
    logPath: '',
    io: { stdin: '', stdout: '', stderr: '' },
    volumes: {},
    cgroupsPath: '',
    stopSignal: '',
    ...over,
  };
}

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

import { ContainerConfig, PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { explain } from '../../errors.ts';
import type { ImageRow, LayerRow } from '../images/rows.ts';
import type { Log } from '../observe/log.ts';
import { type Codec, criCodec, plainCodec } from './codec.ts';
import { migrateRows, type StoredRow } from './connection.ts';
import type { ContainerRow } from './container.ts';
import { Copies, type CopyWriter, readCopies } from './copies.ts';
import { Database } from './database.ts';
import { MIGRATIONS, type Migrations, newestVersion } from './migrations.ts';
import type { SandboxRow } from './sandbox.ts';
import { BrokenStore } from './sqlite-errors.ts';
import { type Row, Table } from './table.ts';

export interface StoreOptions {
  /** Copies of the rows in plain files, from which a broken store is rebuilt. */
  copies?: { folders: Readonly<Record<TableName, string>>; writer: CopyWriter };
  log?: Pick<Log, 'info' | 'warn' | 'error'>;
  /** Receives the duration of each write, in seconds. */
  onWrite?: (seconds: number) => void;
  migrations?: Migrations;
}

const CODECS = {
  sandboxes: criCodec<PodSandboxConfig, SandboxRow>(PodSandboxConfig, ['createdAt']),
  containers: criCodec<ContainerConfig, ContainerRow>(ContainerConfig, ['createdAt', 'startedAt', 'finishedAt']),
  images: plainCodec<ImageRow>(),
  layers: plainCodec<LayerRow>(),
};

export type TableName = keyof typeof CODECS;
export const TABLE_NAMES = Object.keys(CODECS) as TableName[];

interface Tables {
  sandboxes: Table<SandboxRow>;
  containers: Table<ContainerRow>;
  images: Table<ImageRow>;
  layers: Table<LayerRow>;
}

type ReadRows = (table: TableName) => StoredRow[];

/** Everything that survives the daemon, by kind. */
export class Store implements Disposable {
  readonly sandboxes: Table<SandboxRow>;
  readonly containers: Table<ContainerRow>;
  readonly images: Table<ImageRow>;
  readonly layers: Table<LayerRow>;
  /** Keeps the rows' copies; absent when there are none. Dispose of it before the store. */
  readonly copies: Copies | undefined;
  /** The file was lost or broken, and the rows are those of the copies. */
  readonly rebuilt: boolean = false;
  readonly #database: Database;
  readonly #options: StoreOptions;
  #changes = 0;

  /**
   * Opens the store, or makes it. A broken one is moved aside and rebuilt from the copies. Throws CONFIG_INVALID for a
   * store of a newer Sluice, or one that can neither be read nor written.
   */
  constructor(path: string, options: StoreOptions = {}) {
    this.#options = options;
    const { log, copies, onWrite, migrations = MIGRATIONS } = options;
    this.#database = new Database({ path, tables: TABLE_NAMES, migrations, log, onWrite });
    if (copies) this.copies = new Copies({ ...copies, version: newestVersion(migrations), log });
    let tables: Tables | undefined;
    if (!this.#database.isNew) {
      try {
        tables = this.#makeTables((table) => this.#database.takeStored(table));
      } catch (cause) {
        this.#database.replaceBroken(new BrokenStore(`a row cannot be read: ${explain(cause)}`));
      }
    }
    if (!tables) {
      tables = this.#makeTables(this.#readCopies());
      this.rebuilt = TABLE_NAMES.some((name) => (tables?.[name].size ?? 0) > 0);
    }
    const { sandboxes, containers, images, layers } = tables;
    this.sandboxes = sandboxes;
    this.containers = containers;
    this.images = images;
    this.layers = layers;
    for (const name of TABLE_NAMES) this.#database.readFrom(name, tables[name]);
    if (this.rebuilt) {
      this.#database.rewrite();
      const found = Object.fromEntries(TABLE_NAMES.map((name) => [name, tables[name].size]));
      log?.error({ path, found }, 'the store was lost and has been rebuilt from the copies of its rows');
    }
  }

  get path(): string {
    return this.#database.path;
  }

  /** Why changes cannot be written; undefined: they can. */
  get trouble(): string | undefined {
    return this.#database.trouble;
  }

  /** Changes that could not be written yet and are in memory alone. */
  get pendingWrites(): number {
    return this.#database.pending;
  }

  /** Changes since the start. */
  get changes(): number {
    return this.#changes;
  }

  /** Makes the copies agree with the rows. */
  async syncCopies(): Promise<void> {
    await Promise.all(TABLE_NAMES.map((name) => this.copies?.sync(name, this[name].all())));
  }

  /** The containers of a pod. */
  containersOf(sandbox: string): ContainerRow[] {
    return [...this.containers.values()].filter((container) => container.sandbox === sandbox);
  }

  /** Names of the runtimes that pods have. */
  runtimesInUse(): Set<string> {
    return new Set([...this.sandboxes.values()].map(({ runtime }) => runtime));
  }

  [Symbol.dispose](): void {
    this.#database[Symbol.dispose]();
  }

  #makeTables(read: ReadRows): Tables {
    return {
      sandboxes: this.#table('sandboxes', CODECS.sandboxes, read),
      containers: this.#table('containers', CODECS.containers, read),
      images: this.#table('images', CODECS.images, read),
      layers: this.#table('layers', CODECS.layers, read),
    };
  }

  #table<R extends Row>(name: TableName, codec: Codec<R>, read: ReadRows): Table<R> {
    const changed = (id: string, text?: string) => {
      this.#changes++;
      this.copies?.note(name, id, text);
    };
    const writer = {
      insert: (id: string, text: string) => {
        this.#database.insert(name, id, text);
        changed(id, text);
      },
      update: (id: string, text: string) => {
        this.#database.update(name, id, text);
        changed(id, text);
      },
      delete: (id: string) => {
        this.#database.delete(name, id);
        changed(id);
      },
    };
    return new Table<R>(codec, writer, read(name));
  }

  /** The rows of which there are copies that can be read, as this version has them. */
  #readCopies(): ReadRows {
    const { copies, log, migrations = MIGRATIONS } = this.#options;
    const problem = (path: string, reason: string) =>
      log?.warn({ path, reason }, 'a copy of a row cannot be used: the row is lost');
    const versions = new Map<number, Map<string, StoredRow[]>>();
    for (const table of copies ? TABLE_NAMES : []) {
      for (const [version, rows] of readCopies(copies?.folders[table] ?? '', problem)) {
        const tables = versions.get(version) ?? new Map<string, StoredRow[]>();
        versions.set(version, tables.set(table, rows));
      }
    }
    const found: Record<TableName, StoredRow[]> = { sandboxes: [], containers: [], images: [], layers: [] };
    for (const [version, old] of versions) {
      try {
        const current = migrateRows({ rows: old, tables: TABLE_NAMES, version, migrations });
        for (const table of TABLE_NAMES) {
          found[table].push(...(current.get(table) ?? []).filter((row) => isReadable(table, row, problem)));
        }
      } catch (error) {
        problem(`all copies of version ${version}`, explain(error));
      }
    }
    return (table) => found[table];
  }
}

function isReadable(
  table: TableName,
  { id, row }: StoredRow,
  problem: (path: string, reason: string) => void,
): boolean {
  try {
    if (CODECS[table].decode(row).id === id) return true;
    problem(`${table} ${id}`, 'it is the row of another');
  } catch (error) {
    problem(`${table} ${id}`, explain(error));
  }
  return false;
}

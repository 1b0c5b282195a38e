import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { explain } from '../../errors.ts';
import { namesInSync } from '../../sys/folder.ts';
import type { CopyChange } from '../../workers/store/copies.ts';
import type { Log } from '../observe/log.ts';
import type { StoredRow } from './connection.ts';

/** Milliseconds for which changes are gathered: a launch changes its row several times within some. */
const GATHER_MS = 100;
/** Milliseconds until the next attempt after a failed one. */
const PAUSE_MS = 10_000;

/**
 * Handlers of the store worker that write the files. Calls must be carried out in their order: the sync of a start has
 * rows that are older than a write behind it, and would remove what that has written.
 */
export interface CopyWriter {
  writeCopies(input: { changes: readonly CopyChange[] }): Promise<void>;
  syncCopies(input: { folder: string; copies: readonly { name: string; text: string }[] }): Promise<void>;
}

export interface CopiesOptions {
  /** Folder of the copies of each table. */
  folders: Readonly<Record<string, string>>;
  /** Version of the rows, see migrations.ts. */
  version: number;
  writer: CopyWriter;
  log?: Pick<Log, 'info' | 'warn'>;
}

/**
 * Keeps a copy of each row in a file of its own, beside the store: those of pods and containers in the state folder,
 * which ends with them, those of images and layers in the root folder. A worker writes them, some milliseconds after
 * the change.
 */
export class Copies implements AsyncDisposable {
  readonly #options: CopiesOptions;
  /**
   * By table and id: the row, or undefined for a deleted one. What can wait until the files are written is not done at
   * each change.
   */
  readonly #changes = new Map<string, Map<string, string | undefined>>();
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();
  #failed: string | undefined;

  constructor(options: CopiesOptions) {
    this.#options = options;
  }

  /** A row has changed; without a text it was deleted. */
  note(table: string, id: string, row?: string): void {
    let rows = this.#changes.get(table);
    if (!rows) {
      rows = new Map();
      this.#changes.set(table, rows);
    }
    rows.set(id, row);
    this.#plan(GATHER_MS);
  }

  /**
   * Makes the files agree with the rows of a table: after a start, when a killed daemon has not written its last
   * changes.
   */
  async sync(table: string, rows: Iterable<StoredRow>): Promise<void> {
    await this.#attempt(() => {
      const copies = [...rows].map(({ id, row }) => ({ name: nameOf(id), text: this.#encode(row) }));
      return this.#options.writer.syncCopies({ folder: this.#folder(table), copies });
    });
  }

  /** Writes what waits. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer);
    await this.#writing;
    await this.#flush();
    clearTimeout(this.#timer);
  }

  #folder(table: string): string {
    const folder = this.#options.folders[table];
    if (folder === undefined) throw new Error(`no folder for copies of ${table}`);
    return folder;
  }

  #encode(row: string): string {
    return `{"version":${this.#options.version},"row":${row}}`;
  }

  #plan(ms: number): void {
    this.#timer ??= setTimeout(() => {
      this.#writing = this.#flush();
    }, ms).unref();
  }

  async #flush(): Promise<void> {
    const changes = [...this.#changes].flatMap(([table, rows]) => [...rows].map(([id, row]) => ({ table, id, row })));
    this.#changes.clear();
    if (changes.length > 0) {
      const written = await this.#attempt(() => {
        const files = changes.map(({ table, id, row }) => this.#file(table, id, row));
        return this.#options.writer.writeCopies({ changes: files });
      });
      // What has changed again meanwhile is newer.
      const newer = ({ table, id }: { table: string; id: string }) => this.#changes.get(table)?.has(id);
      if (!written) for (const change of changes) if (!newer(change)) this.note(change.table, change.id, change.row);
    }
    // Unset only now, so that one call at a time is under way and a slow disk has no more than one batch on its way to
    // it.
    this.#timer = undefined;
    if (this.#changes.size > 0) this.#plan(this.#failed === undefined ? GATHER_MS : PAUSE_MS);
  }

  #file(table: string, id: string, row: string | undefined): CopyChange {
    const path = join(this.#folder(table), nameOf(id));
    return row === undefined ? { path } : { path, text: this.#encode(row) };
  }

  async #attempt(write: () => Promise<void>): Promise<boolean> {
    const { log } = this.#options;
    try {
      await write();
      if (this.#failed !== undefined) log?.info('copies of the store’s rows can be written again');
      this.#failed = undefined;
      return true;
    } catch (error) {
      const reason = explain(error);
      if (reason !== this.#failed) log?.warn({ reason }, 'copies of the store’s rows cannot be written; trying on');
      this.#failed = reason;
      return false;
    }
  }
}

/** The rows of which there are copies, by version. Files that cannot be read are named by `onProblem` and left out. */
export function readCopies(
  folder: string,
  onProblem: (path: string, reason: string) => void,
): Map<number, StoredRow[]> {
  const rows = new Map<number, StoredRow[]>();
  for (const name of namesInSync(folder)) {
    if (name.endsWith('.new')) continue; // a killed daemon was writing it; the one before is there
    const path = join(folder, name);
    try {
      const { version, row } = JSON.parse(readFileSync(path, 'utf8')) as { version: number; row: { id: string } };
      if (nameOf(row.id) !== name) throw new Error(`it has the row ${row.id}`);
      const sameVersion = rows.get(version) ?? [];
      rows.set(version, sameVersion);
      sameVersion.push({ id: row.id, row: JSON.stringify(row) });
    } catch (error) {
      onProblem(path, explain(error));
    }
  }
  return rows;
}

/** Ids are digests, hexadecimal numbers and short names; whatever else they may have is escaped. */
const nameOf = (id: string) => encodeURIComponent(id);

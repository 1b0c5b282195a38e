import { ContainerConfig, PodSandboxConfig } from '../../../proto/gen/cri.ts';
import type { ImageRow, LayerRow } from '../images/rows.ts';
import { criCodec } from './codec.ts';
import type { ContainerRow } from './container.ts';
import { Database } from './database.ts';
import type { SandboxRow } from './sandbox.ts';
import type { Table } from './table.ts';

/** Everything that survives the daemon, by kind. */
export class Store implements Disposable {
  readonly sandboxes: Table<SandboxRow>;
  readonly containers: Table<ContainerRow>;
  readonly images: Table<ImageRow>;
  readonly layers: Table<LayerRow>;
  readonly #database: Database;

  constructor(path: string, onWrite?: (seconds: number) => void) {
    this.#database = new Database(path, onWrite);
    this.sandboxes = this.#database.table('sandboxes', criCodec(PodSandboxConfig, ['createdAt']));
    this.containers = this.#database.table(
      'containers',
      criCodec(ContainerConfig, ['createdAt', 'startedAt', 'finishedAt']),
    );
    this.images = this.#database.table('images');
    this.layers = this.#database.table('layers');
  }

  get path(): string {
    return this.#database.path;
  }

  /** See {@link Database.restoreBallast}. */
  restoreBallast(): void {
    this.#database.restoreBallast();
  }

  /** The containers of a pod. */
  containersOf(sandbox: string): ContainerRow[] {
    return [...this.containers.values()].filter((container) => container.sandbox === sandbox);
  }

  [Symbol.dispose](): void {
    this.#database[Symbol.dispose]();
  }
}

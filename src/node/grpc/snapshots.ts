/** A proxy snapshotter of containerd's kind (stargz, nydus, SOCI, or containerd itself), asked over its socket. */
import { Kind, SnapshotsDefinition } from '../../../proto/gen/snapshots.ts';
import type { Mount } from '../../../proto/gen/types.ts';
import { explain, GRPC, SluiceError } from '../../errors.ts';
import { connectService, type ServiceClient } from './client.ts';
import { grpcService } from './service.ts';

const methods = grpcService(SnapshotsDefinition);

/** Where a proxy snapshotter is found. */
export interface SnapshotsAddress {
  /** Path of the unix socket. */
  socket: string;
  /** Name by which a daemon with several snapshotters (containerd) knows it; others ignore it. */
  name: string;
}

export interface SnapshotInfo {
  name: string;
  parent: string;
  committed: boolean;
  labels: Record<string, string>;
}

/** containerd keeps what each of its clients has in a namespace of its own. */
const HEADERS = { 'containerd-namespace': 'sluice' };
/** A snapshotter that fetches lazily reads the index of a layer over the network before it answers. */
const TIMEOUT_MS = 120_000;
const options = { timeoutMs: TIMEOUT_MS };

/**
 * The calls that are needed of it. They throw SNAPSHOTTER_FAILED; what a call can also mean (there already, not there)
 * is in its result.
 */
export class Snapshots implements Disposable {
  readonly address: SnapshotsAddress;
  readonly #client: ServiceClient<typeof methods>;

  constructor(address: SnapshotsAddress) {
    this.address = address;
    this.#client = connectService(address.socket, methods, HEADERS);
  }

  /**
   * Makes a writable snapshot and returns its mounts; 'exists' when the key is taken, or when the snapshotter has the
   * committed layer that the label containerd.io/snapshot.ref names.
   */
  async prepare(key: string, parent: string, labels: Record<string, string>): Promise<Mount[] | 'exists'> {
    const { name: snapshotter } = this.address;
    const made = await this.#ask('Prepare', GRPC.ALREADY_EXISTS, () =>
      this.#client.prepare({ snapshotter, key, parent, labels }, options),
    );
    return made?.mounts ?? 'exists';
  }

  /** Makes a read-only snapshot; one that is there already is fine. */
  async view(key: string, parent: string, labels: Record<string, string>): Promise<Mount[]> {
    const { name: snapshotter } = this.address;
    const made = await this.#ask('View', GRPC.ALREADY_EXISTS, () =>
      this.#client.view({ snapshotter, key, parent, labels }, options),
    );
    return made ? made.mounts : await this.mounts(key);
  }

  async mounts(key: string): Promise<Mount[]> {
    const { name: snapshotter } = this.address;
    const found = await this.#ask('Mounts', undefined, () => this.#client.mounts({ snapshotter, key }, options));
    return found?.mounts ?? [];
  }

  /** Makes a layer of a writable snapshot; one that is there under the name already is fine. */
  async commit(name: string, key: string, labels: Record<string, string>): Promise<'committed' | 'exists'> {
    const { name: snapshotter } = this.address;
    const done = await this.#ask('Commit', GRPC.ALREADY_EXISTS, () =>
      this.#client.commit({ snapshotter, name, key, labels }, options),
    );
    return done ? 'committed' : 'exists';
  }

  /** Removes a snapshot; 'used' while another one stands on it. One that is not there is removed already. */
  async remove(key: string): Promise<'removed' | 'used'> {
    const { name: snapshotter } = this.address;
    try {
      await this.#ask('Remove', GRPC.NOT_FOUND, () => this.#client.remove({ snapshotter, key }, options));
      return 'removed';
    } catch (error) {
      const { code } = ((error as SluiceError).cause ?? {}) as { code?: number };
      if (code === GRPC.FAILED_PRECONDITION) return 'used';
      throw error;
    }
  }

  /** What was removed goes from the disk now: some snapshotters (stargz) leave that to this call, others lack it. */
  async cleanup(): Promise<void> {
    const { name: snapshotter } = this.address;
    await this.#ask('Cleanup', GRPC.UNIMPLEMENTED, () => this.#client.cleanup({ snapshotter }, options));
  }

  async stat(key: string): Promise<SnapshotInfo | undefined> {
    const { name: snapshotter } = this.address;
    const found = await this.#ask('Stat', GRPC.NOT_FOUND, () => this.#client.stat({ snapshotter, key }, options));
    return found?.info && infoOf(found.info);
  }

  /** Bytes and inodes that a snapshot adds to its parent. */
  async usage(key: string): Promise<{ bytes: number; inodes: number }> {
    const { name: snapshotter } = this.address;
    const found = await this.#ask('Usage', GRPC.NOT_FOUND, () => this.#client.usage({ snapshotter, key }, options));
    return { bytes: Number(found?.size ?? 0n), inodes: Number(found?.inodes ?? 0n) };
  }

  /** All snapshots. */
  async list(): Promise<SnapshotInfo[]> {
    const { name: snapshotter } = this.address;
    const all: SnapshotInfo[] = [];
    await this.#ask('List', undefined, async () => {
      try {
        for await (const { info } of this.#client.list({ snapshotter }, options)) all.push(...info.map(infoOf));
      } catch (error) {
        // containerd's library for snapshotters, which stargz uses, says so of a store that has had no snapshot yet.
        if (!/bucket does not exist/.test((error as { details?: string }).details ?? '')) throw error;
      }
    });
    return all;
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }

  /** Undefined when the call fails with the code that is `expected`. */
  async #ask<T>(what: string, expected: number | undefined, call: () => Promise<T>): Promise<T | undefined> {
    try {
      return await call();
    } catch (cause) {
      const { code, details } = cause as { code?: number; details?: string };
      if (expected !== undefined && code === expected) return undefined;
      const words = `the snapshotter at ${this.address.socket}: ${what}: ${details || explain(cause)}`;
      throw new SluiceError('SNAPSHOTTER_FAILED', words, { cause });
    }
  }
}

const infoOf = ({
  name,
  parent,
  kind,
  labels,
}: {
  name: string;
  parent: string;
  kind: Kind;
  labels: Record<string, string>;
}) => ({
  name,
  parent,
  committed: kind === Kind.COMMITTED,
  labels,
});

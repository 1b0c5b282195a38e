import { setTimeout as sleep } from 'node:timers/promises';
import PQueue from 'p-queue';
import { explain } from '../../errors.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { JobServices } from './context.ts';
import { UNKNOWN_EXIT } from './exits.ts';
import { cleanUpContainer } from './pod-shim.ts';
import { ioOf } from './stages/start-container.ts';

/** Containers that are cleaned at once: each runs the shim's `delete` and the runtime's. */
const AT_ONCE = 4;
/** Containers that are reported within so many milliseconds share one scan of /proc: a restart reports hundreds. */
const GATHER_MS = 50;
/** The end of output that is left in the FIFOs comes at once, since its writers are dead; milliseconds. */
const DRAIN_MS = { quietMs: 0, maxMs: 1000 };

/**
 * Containers whose shims died while no daemon watched. They are cleaned up in the background, a few at a time, so that
 * a restart serves before hundreds of them are done; their end is recorded after that, with an unknown exit code.
 */
export class DeadContainers {
  readonly #services: JobServices;
  readonly #cleaning = new PQueue({ concurrency: AT_ONCE });
  readonly #waiting = new Set<string>();
  #gathered: ContainerRow[] = [];
  #sweeping: Promise<void> | undefined;

  constructor(services: JobServices) {
    this.#services = services;
  }

  /** Takes a container that its row has as running. A stop or removal of it waits until it is clean. */
  add(row: ContainerRow): void {
    const { ctx, retries } = this.#services;
    if (this.#waiting.has(row.id)) return;
    this.#waiting.add(row.id);
    const swept = this.#sweep(row);
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    ctx.exits.watchEnd(row.id, ended);
    const clean = async () => {
      await swept;
      await this.#cleaning.add(() => this.#clean(row));
      this.#waiting.delete(row.id);
      resolve();
    };
    const onFailure = (reason: string, attempts: number) =>
      ctx.log.error(
        { container: row.id, attempts, reason },
        'the clean-up after a dead shim failed; it is tried again',
      );
    retries.add(`end of ${row.id}`, clean, onFailure, 0);
  }

  async #clean(row: ContainerRow): Promise<void> {
    const { ctx } = this.#services;
    if (row.state !== 'running') return;
    const sandbox = ctx.store.sandboxes.get(row.sandbox);
    if (sandbox && !sandbox.shimEnded) await cleanUpContainer(row, sandbox, ctx, { swept: true });
    await this.#drain(row);
    await ctx.stdio.removeIo({ id: row.id, fifos: row.io });
    const message = 'the shim died while no daemon watched';
    ctx.exits.recordEnd(
      row,
      row.finishedAt === 0n ? { exitCode: UNKNOWN_EXIT, reason: 'Unknown', message } : undefined,
    );
  }

  /** Brings the last output into the log. A failure is logged: a lost log must not keep the end from being recorded. */
  async #drain(row: ContainerRow): Promise<void> {
    const { ctx } = this.#services;
    try {
      await ctx.stdio.openIo(ioOf(row, ctx));
      await ctx.stdio.drain(row.id, DRAIN_MS);
    } catch (error) {
      ctx.log.warn({ container: row.id, reason: explain(error) }, 'the last output of a container could not be read');
    }
  }

  /**
   * Resolves when the processes that a dead shim has left of this container are killed, as far as one scan of /proc
   * finds them.
   */
  #sweep(row: ContainerRow): Promise<void> {
    this.#gathered.push(row);
    this.#sweeping ??= sleep(GATHER_MS).then(async () => {
      const owners = this.#gathered.map(({ bundle, id }) => ({ bundle, id }));
      this.#gathered = [];
      this.#sweeping = undefined;
      const { ctx } = this.#services;
      try {
        const killed = await ctx.pools.shim.call('killLeftovers', { owners });
        if (killed.length > 0) ctx.log.warn({ pids: killed }, 'killed what dead shims had left running');
      } catch (error) {
        ctx.log.error({ reason: explain(error) }, 'looking for what dead shims left running failed');
      }
    });
    return this.#sweeping;
  }
}

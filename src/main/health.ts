import { explain } from '../errors.ts';
import type { Config } from '../node/config/config.ts';
import type { Log } from '../node/observe/log.ts';
import type { Store } from '../node/store/store.ts';
import type { Stdio } from '../node/streaming/stdio.ts';
import type { Pools } from '../node/threads/pools.ts';
import { withTimeLimit } from '../time-limit.ts';

const INTERVAL_MS = 5000;
/** A pool that is merely busy answers later than at once, but not as late as this. */
const ANSWER_MS = 30_000;

interface HealthOptions {
  config: Pick<Config, 'root' | 'state' | 'default_runtime' | 'runtimes'> & {
    images: Pick<Config['images'], 'snapshotter'>;
  };
  pools: { net: Pick<Pools['net'], 'call'>; shim: Pick<Pools['shim'], 'call'> };
  stdio: Pick<Stdio, 'stats'>;
  store: Pick<Store, 'trouble'>;
  log: Pick<Log, 'error' | 'info'>;
  intervalMs?: number;
  answerMs?: number;
}

/**
 * Whether the daemon can run pods: its worker threads answer, its folders are writable, the programs of the default
 * runtime are there, and the disk takes overlays where containers need them. Looked at in the background, so that
 * Status and /healthz answer at once. Whether pods get a network is NetworkReady's matter.
 */
export class Health implements Disposable {
  readonly #options: Required<HealthOptions>;
  readonly #timer: NodeJS.Timeout;
  #reasons: string[] = [];
  #looking = false;
  /** An overlay was mounted, or none is needed: that is not tried again. */
  #overlays: boolean;

  constructor(options: HealthOptions) {
    this.#options = { intervalMs: INTERVAL_MS, answerMs: ANSWER_MS, ...options };
    this.#overlays = options.config.images.snapshotter !== 'overlayfs';
    this.#timer = setInterval(() => void this.#look(), this.#options.intervalMs).unref();
    void this.#look();
  }

  /** Why the daemon cannot run pods; empty when it can. */
  get reasons(): readonly string[] {
    return this.#reasons;
  }

  /**
   * The same, and what keeps the store from being written. That alone does not make the runtime not ready: on a full
   * disk stops go on, and a kubelet whose runtime is not ready would not make room.
   */
  get problems(): readonly string[] {
    const { trouble } = this.#options.store;
    return trouble === undefined ? this.#reasons : [`the store cannot be written: ${trouble}`, ...this.#reasons];
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  /** Never rejects: what fails is a reason. A look that waits for an answer is not repeated meanwhile. */
  async #look(): Promise<void> {
    if (this.#looking) return;
    this.#looking = true;
    const { config, pools, stdio } = this.#options;
    const { root, state, default_runtime: name, runtimes } = config;
    const runtime = runtimes[name];
    const programs: Record<string, string> = runtime ? { 'the runtime': runtime.binary, 'the shim': runtime.shim } : {};
    const found = await Promise.all([
      this.#answer('the shim workers', pools.shim.call('checkNode', { folders: [root, state], programs })),
      this.#answer('the network workers', pools.net.call('ping', null)),
      this.#answer('the stdio worker', stdio.stats()),
      this.#overlays ? [] : this.#answer('the shim workers', this.#tryOverlay(root)),
    ]);
    this.#tell([...new Set(found.flat())]);
    this.#looking = false;
  }

  async #tryOverlay(root: string): Promise<string[]> {
    const reasons = await this.#options.pools.shim.call('tryOverlay', { root });
    this.#overlays = reasons?.length === 0;
    return reasons ?? [];
  }

  #tell(reasons: string[]): void {
    const { log } = this.#options;
    if (reasons.join('\n') !== this.#reasons.join('\n')) {
      if (reasons.length > 0) log.error({ reasons }, 'the node cannot run pods');
      else log.info('the node can run pods again');
    }
    this.#reasons = reasons;
  }

  async #answer(who: string, call: Promise<unknown>): Promise<string[]> {
    const { answerMs } = this.#options;
    const late = [`${who} have not answered for ${answerMs / 1000} s`];
    try {
      // After the whole process stood still (SIGSTOP, a suspended machine) the timer is late and the answer is there:
      // it gets a moment.
      const answer = await withTimeLimit<unknown, unknown>(call, answerMs, () =>
        withTimeLimit<unknown, string[]>(call, answerMs / 10, () => late),
      );
      return Array.isArray(answer) ? (answer as string[]) : [];
    } catch (error) {
      return [`${who}: ${explain(error)}`];
    }
  }
}

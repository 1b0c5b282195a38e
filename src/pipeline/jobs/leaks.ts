/**
 * Looks for resources of this daemon that no row owns: what another version, a restored backup of the store or a bug left. Rows are
 * written before what they name and deleted after it, so there should be none. Nothing is removed here.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { explain } from '../../errors.ts';
import type { Config } from '../../node/config/config.ts';
import type { Strays } from '../../node/network/strays.ts';
import type { LabelsOf } from '../../node/observe/table.ts';
import { cgroupsPath } from '../../node/oci/cgroups-path.ts';
import type { Store } from '../../node/store/store.ts';
import type { Leftover, LeftoverPlaces } from '../../workers/leftovers.ts';
import { usernsBundles } from './bundle-path.ts';
import type { JobContext } from './context.ts';

/** A resource without a row. */
export interface Leak {
  kind: LabelsOf<'leaks'>['kind'];
  /** Id of the pod or container whose it was, where the resource names one; else "". */
  id: string;
  /** Path; for a shim the pid, for an address the network and the id that has it. */
  what: string;
}

/** What the search looks at; the daemon's own, or that of a command which reads the store of a daemon that does not run. */
export interface LeakSources {
  store: Pick<Store, 'sandboxes' | 'containers'>;
  config: Pick<Config, 'root' | 'state' | 'socket'>;
  /** linux.cgroupsPath by id, of pods and containers that the daemon has or has had: a cgroup shows by nothing else whose it is. */
  cgroups: ReadonlyMap<string, string>;
  /** scanLeftovers (src/workers/leftovers.ts), in a worker or not. */
  scan(places: LeftoverPlaces): Promise<Leftover[]>;
  /** Network namespaces and addresses without a row (Network.strays). */
  strays(): Promise<Strays>;
}

/** Milliseconds between the two looks: a shim takes a moment to end after its row is gone. */
const SECOND_LOOK_MS = 5000;

/**
 * All leaks of all seven kinds. A resource counts when it is there without a row in two looks: between the scan and the look at the
 * rows a removal may have deleted the row, whose resource was gone by then.
 */
export async function findLeaks(sources: LeakSources, secondLookMs = SECOND_LOOK_MS): Promise<Leak[]> {
  const first = await lookOnce(sources);
  if (first.length === 0) return [];
  await sleep(secondLookMs, undefined, { ref: false });
  const again = new Set((await lookOnce(sources)).map(keyOf));
  return first.filter((leak) => again.has(keyOf(leak)));
}

export const keyOf = ({ kind, what }: Leak): string => `${kind} ${what}`;

async function lookOnce({ store, config, cgroups, scan, strays }: LeakSources): Promise<Leak[]> {
  const places = { ...config, usernsBundles: usernsBundles(config.state), cgroups: Object.fromEntries(cgroups) };
  const [there, network] = await Promise.all([scan(places), strays()]);
  const owned = (id: string) => store.sandboxes.get(id) !== undefined || store.containers.get(id) !== undefined;
  return [
    ...there.filter(({ id }) => !owned(id)),
    ...network.netns.map((path): Leak => ({ kind: 'netns', id: '', what: path })),
    ...network.attachments.map(
      ({ containerId, network: { name }, ifName }): Leak => ({
        kind: 'address',
        id: containerId,
        what: `${name} ${containerId} ${ifName}`,
      }),
    ),
  ];
}

const FIRST_SWEEP_MS = 60_000;
const SWEEP_MS = 300_000;
/** So often the rows are looked at for their cgroups; those of a pod that lives shorter are not found when they are left. */
const REMEMBER_MS = 10_000;
/** Pods and containers whose cgroups are remembered, the latest ones. */
const REMEMBERED = 20_000;

/** Sweeps while the daemon runs: each leak counts once in `sluice_leaks_total` and is logged once, for as long as it is there. */
export class LeakSweep implements Disposable {
  readonly #ctx: JobContext;
  readonly #cgroups = new Map<string, string>();
  readonly #timers: NodeJS.Timeout[];
  #known = new Set<string>();
  #running: Promise<Leak[]> | undefined;

  constructor(ctx: JobContext) {
    this.#ctx = ctx;
    this.#remember();
    const sweep = () =>
      this.run().catch((error: unknown) => ctx.log.error({ reason: explain(error) }, 'the search for leaks failed'));
    this.#timers = [
      setInterval(() => this.#remember(), REMEMBER_MS),
      setTimeout(sweep, FIRST_SWEEP_MS),
      setInterval(sweep, SWEEP_MS),
    ];
    for (const timer of this.#timers) timer.unref();
  }

  /** Sweeps now; calls during a sweep get its result. Resolves to all leaks that are there, counted before or not. */
  run(): Promise<Leak[]> {
    this.#running ??= this.#sweep().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) clearTimeout(timer);
  }

  async #sweep(): Promise<Leak[]> {
    const { config, log, metrics, network, pools, store } = this.#ctx;
    this.#remember();
    const rows = () => [...store.sandboxes.values()];
    const leaks = await findLeaks({
      store,
      config,
      cgroups: this.#cgroups,
      scan: (places) => pools.shim.call('scanLeftovers', places),
      strays: () =>
        network.strays({
          hasSandbox: (id) => store.sandboxes.get(id) !== undefined,
          hasNetns: (path) => rows().some((row) => row.netns === path || row.userns === path),
        }),
    });
    for (const leak of leaks) {
      if (this.#known.has(keyOf(leak))) continue;
      metrics.inc('leaks', { kind: leak.kind });
      log.warn({ leak: leak.kind, id: leak.id, what: leak.what }, 'found a resource that no record owns');
    }
    this.#known = new Set(leaks.map(keyOf));
    return leaks;
  }

  #remember(): void {
    const { host, store } = this.#ctx;
    for (const { id, config } of store.sandboxes.values()) {
      this.#cgroups.set(id, cgroupsPath(config.linux?.cgroupParent ?? '', id, host.cgroupDriver));
    }
    for (const row of store.containers.values()) this.#cgroups.set(row.id, row.cgroupsPath);
    for (const id of this.#cgroups.keys()) {
      if (this.#cgroups.size <= REMEMBERED) break;
      this.#cgroups.delete(id);
    }
  }
}

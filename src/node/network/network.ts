/** The pod network of this node: its configuration, its status, and attaching pods to it and detaching them. */
import type { PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { explain, SluiceError } from '../../errors.ts';
import { withTimeLimit } from '../../time-limit.ts';
import type { HostFiles } from '../../workers/host-paths/read-file.ts';
import type { CniAttachment, CniCall, CniResult, NetworkConf, PluginRun } from '../../workers/net/types.ts';
import type { NetHandlers } from '../../workers/net.ts';
import type { Config } from '../config/config.ts';
import type { Pool } from '../threads/pool.ts';
import { BUILT_IN, type Builtin, builtinNetwork, forPod } from './builtin.ts';
import { capabilityArgs } from './capabilities.ts';
import { type FolderConf, loadFolder } from './conf.ts';
import { daemonId, netnsPath } from './daemon-id.ts';
import { FolderWatch } from './folder-watch.ts';
import { Releases } from './releases.ts';
import { findStrays, type StrayOptions, type Strays } from './strays.ts';

/** The part of the `net` pool that this class uses; tests pass a smaller implementation. */
export type NetPool = Pick<Pool<NetHandlers>, 'call'>;

export interface NetworkOptions {
  cni: Config['cni'];
  /** The daemon's root folder; the daemon's id is derived from it. */
  root: string;
  pool: NetPool;
  /** Reads the configuration folder. */
  files: HostFiles;
  /** Called after each run of a plugin, failed or not. */
  onPlugin?: (run: PluginRun) => void;
  /** Called with each distinct note of the workers about a network, for the log. */
  onNote?: (note: string) => void;
  /** Called when the configuration in use has changed, also to none. */
  onChange?: (loaded: Loaded) => void;
}

/** The configuration in use. */
export interface Loaded {
  /** Absent when there is none; `problems` has the reasons. */
  network?: NetworkConf;
  /** Why files were skipped, or which features the built-in network lacks. */
  problems: string[];
}

/** The NetworkReady condition of CRI's Status. */
export interface NetworkStatus {
  ready: boolean;
  reason: string;
  message: string;
}

const IF_NAME = 'eth0';
/** host-local's message when all addresses of a range are taken. */
const EXHAUSTED = /no IP addresses available in range set/;
/** Time limit of STATUS. The caller of status() waits for ANSWER_MS at most and then gets the last result. */
const STATUS_LIMIT_MS = 10_000;
const ANSWER_MS = 1000;

/** Of one plugin during GC, while launches wait. */
const GC_LIMIT_MS = 10_000;
/** libcni's own, which all runtimes have. */
const COMMON_CACHE = '/var/lib/cni';

/**
 * Is it known whose everything in this network is? The built-in network has nobody else; in another one, other runtimes
 * may have pods, whose records are in libcni's own cache folder.
 */
export const gcIsSafe = ({ source }: NetworkConf, cacheDir: string): boolean =>
  source === BUILT_IN || cacheDir === COMMON_CACHE;

const LOOPBACK: NetworkConf = {
  name: 'cni-loopback',
  cniVersion: '0.3.1',
  plugins: [{ type: 'loopback' }],
  source: BUILT_IN,
};

export class Network implements AsyncDisposable {
  readonly #options: NetworkOptions;
  readonly #daemon: string;
  #folderWatch: FolderWatch;
  #watchedFolder: string;
  #loaded: Loaded = { problems: ['the configuration has not been read yet'] };
  #builtin: Builtin | undefined;
  /**
   * True once the folder has had a configuration: while that is being replaced, the built-in network must not take
   * over.
   */
  #sawFiles = false;
  #loading: Promise<void> = Promise.resolve();
  readonly #noted = new Set<string>();
  readonly #releases: Releases;
  readonly #adds = new Set<Promise<unknown>>();
  /** While a GC calls programs, which are told of the attachments that there are at its beginning. */
  #quiet: Promise<void> | undefined;
  /** The STATUS call in progress and the last result, both of the present configuration. */
  #statusCall: Promise<NetworkStatus> | undefined;
  #lastStatus: NetworkStatus | undefined;
  #statusRun: Promise<void> = Promise.resolve();

  /** Reads the configuration, sets up the built-in network when there is none, and watches the folder from then on. */
  static async start(options: NetworkOptions): Promise<Network> {
    const network = new Network(options);
    await network.#load();
    return network;
  }

  private constructor(options: NetworkOptions) {
    this.#options = options;
    this.#daemon = daemonId(options.root);
    this.#releases = new Releases({
      release: (releases) => this.#reportRuns(options.pool.call('cniRelease', { releases })),
      onFailure: (error) => this.#note(`an address could not be given back yet: ${explain(error)}`),
    });
    this.#watchedFolder = options.cni.conf_dir;
    this.#folderWatch = this.#watch(this.#watchedFolder);
  }

  #watch(folder: string): FolderWatch {
    return new FolderWatch(folder, () => void this.#load());
  }

  /**
   * Works from now on by the keys of `cni` as they are now: another folder of configurations, other folders of plugins,
   * another built-in network. Pods keep what they have; their DEL uses the network that their rows name. Never rejects.
   */
  async reconfigure(): Promise<void> {
    const folder = this.#options.cni.conf_dir;
    if (folder !== this.#watchedFolder) {
      this.#folderWatch[Symbol.dispose]();
      this.#watchedFolder = folder;
      this.#folderWatch = this.#watch(folder);
      this.#sawFiles = false;
    }
    // After a read in progress, which may yet set up the built-in network by the old keys.
    this.#loading = this.#loading.then(() => {
      this.#builtin = undefined;
    });
    await this.#load();
  }

  /** The network to which the next pod is attached. */
  current(): NetworkConf | undefined {
    return this.#loaded.network;
  }

  get loaded(): Loaded {
    return this.#loaded;
  }

  /**
   * Whether pods can be launched. Resolves within about a second, with the last result if the plugins take longer.
   * Never rejects.
   */
  async status(): Promise<NetworkStatus> {
    this.#folderWatch.verify();
    if (!this.#loaded.network) return notReady(this.#whyNone());
    this.#statusCall ??= this.#runStatus(this.#loaded.network);
    return withTimeLimit(
      this.#statusCall,
      ANSWER_MS,
      () => this.#lastStatus ?? notReady(`the plugins have not answered STATUS within ${ANSWER_MS / 1000} s`),
    );
  }

  /** A new path for a pod's network namespace. */
  netnsPath(): string {
    return netnsPath(this.#options.cni.netns_dir, this.#daemon);
  }

  /**
   * Everything that ADD and DEL of a pod need; the caller stores it before ADD. Throws NETWORK_NOT_READY when there is
   * no configuration and INVALID_REQUEST for invalid annotations.
   */
  attachment({ id, netns, config }: { id: string; netns: string; config: PodSandboxConfig }): CniAttachment {
    const network = this.#loaded.network;
    if (!network) throw new SluiceError('NETWORK_NOT_READY', `the pod network is not ready: ${this.#whyNone()}`);
    const args = capabilityArgs(config, network, { ipRangesAllowed: this.#options.cni.ip_ranges_annotation });
    return {
      network: forPod(network, args),
      containerId: id,
      netns,
      ifName: IF_NAME,
      args: [
        ['IgnoreUnknown', '1'],
        ['K8S_POD_NAMESPACE', config.metadata?.namespace ?? ''],
        ['K8S_POD_NAME', config.metadata?.name ?? ''],
        ['K8S_POD_INFRA_CONTAINER_ID', id],
        ['K8S_POD_UID', config.metadata?.uid ?? ''],
      ],
      capabilityArgs: args,
    };
  }

  /**
   * Runs CNI ADD, after the loopback plugin where the configuration has `loopback = "plugin"`. Throws CNI_FAILED or
   * TIMED_OUT; {@link del} undoes it, also after a failure.
   */
  async add(attachment: CniAttachment): Promise<CniResult> {
    while (this.#quiet) await this.#quiet;
    const add = this.#add(attachment);
    this.#adds.add(add);
    try {
      return await add;
    } finally {
      this.#adds.delete(add);
    }
  }

  async #add(attachment: CniAttachment): Promise<CniResult> {
    if (this.#options.cni.loopback === 'plugin') {
      // `lo` ends with the namespace, so this ADD needs neither a record nor a DEL.
      const loopback = { ...attachment, network: LOOPBACK, ifName: 'lo', capabilityArgs: {} };
      await this.#reportRuns(this.#options.pool.call('cniAdd', { ...this.#call(loopback), cacheDir: '' }));
    }
    const { result, notes } = await this.#addOrWait(attachment);
    for (const note of notes) this.#note(note);
    return result;
  }

  /** Runs ADD. When the range is exhausted while addresses wait for their release, runs it again after that. */
  async #addOrWait(attachment: CniAttachment): Promise<Awaited<ReturnType<NetHandlers['cniAdd']>>> {
    const { pool } = this.#options;
    const add = () => this.#reportRuns(pool.call('cniAdd', this.#call(attachment)));
    try {
      return await add();
    } catch (error) {
      if (!this.#releases.pending || !EXHAUSTED.test(explain(error))) throw error;
      await this.#releases.settled();
      await this.#reportRuns(pool.call('cniDel', this.#call(attachment)));
      return add();
    }
  }

  #note(note: string): void {
    if (this.#noted.has(note)) return;
    this.#noted.add(note);
    this.#options.onNote?.(note);
  }

  /**
   * Runs CNI DEL; idempotent. The caller drops the pod's namespace next: addresses are given back when its links are
   * gone (releases.ts). Throws CNI_FAILED or TIMED_OUT, after which the caller tries again.
   */
  async del(attachment: CniAttachment): Promise<void> {
    const call = this.#call(attachment);
    const { deferred } = await this.#reportRuns(this.#options.pool.call('cniDel', { ...call, lazy: true }));
    if (deferred) this.#releases.add(call, deferred);
  }

  /** Resolves once everything that {@link del} has left for the end of the namespaces is released. */
  settled(): Promise<void> {
    return this.#releases.settled();
  }

  /** Namespaces and attachments of this daemon without a pod in the store. Throws when the folders cannot be read. */
  strays(store: Pick<StrayOptions, 'hasSandbox' | 'hasNetns'>): Promise<Strays> {
    const { netns_dir: netnsDir, cache_dir: cacheDir } = this.#options.cni;
    return findStrays({ netnsDir, cacheDir, daemon: this.#daemon, ...store });
  }

  /** Runs CNI CHECK: whether what ADD made is still there. Throws CNI_FAILED or TIMED_OUT with the plugin's message. */
  async check(attachment: CniAttachment): Promise<void> {
    await this.#reportRuns(this.#options.pool.call('cniCheck', this.#call(attachment)));
  }

  /**
   * Runs CNI GC on the network in use, where that is safe ({@link gcIsSafe}): what belongs to no attachment is
   * released, and what that was is returned in words. Valid are `attachments` and all that have a record in the cache
   * folder. With `programs` plugins that are processes are called too (since 1.1.0), while no ADD of this daemon runs.
   * Throws CNI_FAILED or TIMED_OUT.
   */
  async gc(attachments: () => CniAttachment[], { programs }: { programs: boolean }): Promise<string[]> {
    const { cni, pool } = this.#options;
    const network = this.#loaded.network;
    if (!network || !gcIsSafe(network, cni.cache_dir)) return [];
    const call = () => {
      const { bin_dirs: binDirs, cache_dir: cacheDir, in_process: inProcess, timeout_seconds: seconds } = cni;
      const timeoutMs = programs ? Math.min(GC_LIMIT_MS, seconds * 1000) : seconds * 1000;
      const valid = attachments().map(({ containerId, ifName }) => ({ containerId, ifName }));
      return this.#reportRuns(
        pool.call('cniGc', { network, binDirs, cacheDir, valid, timeoutMs, inProcess, programs }),
      );
    };
    return (await (programs ? this.#withoutAdds(call) : call())).released;
  }

  /** Waits for the ADDs under way, and lets those that come wait until `work` is done. */
  async #withoutAdds<T>(work: () => Promise<T>): Promise<T> {
    while (this.#quiet) await this.#quiet;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#quiet = promise;
    try {
      await Promise.allSettled(this.#adds);
      return await work();
    } finally {
      this.#quiet = undefined;
      resolve();
    }
  }

  /** Stops watching and waits for a reload in progress. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#folderWatch[Symbol.dispose]();
    await this.#loading;
    await this.#releases[Symbol.asyncDispose]();
  }

  #call(attachment: CniAttachment): CniCall {
    const { cni } = this.#options;
    return {
      attachment,
      binDirs: cni.bin_dirs,
      cacheDir: cni.cache_dir,
      timeoutMs: cni.timeout_seconds * 1000,
      inProcess: cni.in_process,
    };
  }

  /** Passes the plugin runs of a call, from its answer or from its error, to `onPlugin`. */
  async #reportRuns<T extends { plugins: PluginRun[] }>(call: Promise<T>): Promise<T> {
    const report = (runs: PluginRun[]) => {
      for (const run of runs) this.#options.onPlugin?.(run);
    };
    try {
      const answer = await call;
      report(answer.plugins);
      return answer;
    } catch (error) {
      if (error instanceof SluiceError) report((error.details as { plugins?: PluginRun[] } | undefined)?.plugins ?? []);
      throw error;
    }
  }

  /** Reads the configuration after any read in progress; never rejects. */
  #load(): Promise<void> {
    this.#loading = this.#loading.then(async () => {
      const loaded = await this.#read().catch((error: unknown) => ({ ...this.#loaded, problems: [explain(error)] }));
      if (JSON.stringify(loaded) === JSON.stringify(this.#loaded)) return;
      this.#loaded = loaded;
      this.#lastStatus = undefined;
      this.#statusCall = undefined;
      this.#options.onChange?.(loaded);
    });
    return this.#loading;
  }

  async #read(): Promise<Loaded> {
    const { cni, files: host } = this.#options;
    let folder: FolderConf;
    try {
      folder = await loadFolder(cni.conf_dir, host);
    } catch (error) {
      // The folder's mount hangs: what was read before still holds.
      return { network: this.#loaded.network, problems: [`${cni.conf_dir} cannot be read: ${explain(error)}`] };
    }
    const { network, files, problems } = folder;
    if (files > 0) this.#sawFiles = true;
    if (network) return { network, problems };
    if (files > 0) return { problems };
    if (cni.builtin_subnet === '' || this.#sawFiles) return { problems: [`no CNI configuration in ${cni.conf_dir}`] };
    return this.#useBuiltin();
  }

  async #useBuiltin(): Promise<Loaded> {
    const { cni, root, pool } = this.#options;
    if (this.#builtin) return { network: this.#builtin.network, problems: this.#builtin.lacks };
    let builtin: Builtin;
    try {
      builtin = await builtinNetwork({
        root,
        subnet: cni.builtin_subnet,
        binDirs: cni.bin_dirs,
        inProcess: cni.in_process,
      });
    } catch (error) {
      return { problems: [`no CNI configuration in ${cni.conf_dir}, and ${explain(error)}`] };
    }
    try {
      if (builtin.uplink) await pool.call('openUplink', builtin.uplink);
    } catch (error) {
      builtin.lacks.push(`a way out of the node (${explain(error)})`);
    }
    this.#builtin = builtin;
    return { network: builtin.network, problems: builtin.lacks };
  }

  #whyNone(): string {
    return this.#loaded.problems.join('; ');
  }

  /** Runs STATUS, after a run that may still be in progress for a replaced configuration. */
  async #runStatus(network: NetworkConf): Promise<NetworkStatus> {
    const before = this.#statusRun;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#statusRun = promise;
    await before;
    const { pool, cni } = this.#options;
    const timeoutMs = Math.min(STATUS_LIMIT_MS, cni.timeout_seconds * 1000);
    let status: NetworkStatus;
    try {
      await this.#reportRuns(
        pool.call('cniStatus', { network, binDirs: cni.bin_dirs, timeoutMs, inProcess: cni.in_process }),
      );
      status = { ready: true, reason: '', message: '' };
    } catch (error) {
      status = notReady(explain(error));
    } finally {
      resolve();
    }
    if (this.#loaded.network === network) {
      this.#lastStatus = status;
      this.#statusCall = undefined;
    }
    return status;
  }
}

/** Reason and message have the wording of other runtimes, which users and tools search for. */
function notReady(message: string): NetworkStatus {
  return { ready: false, reason: 'NetworkPluginNotReady', message: `Network plugin returns error: ${message}` };
}

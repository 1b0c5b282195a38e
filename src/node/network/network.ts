/** The pod network of this node: which one it is, whether it works, and attaching pods to it and detaching them. */
import type { PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { explain, SluiceError } from '../../errors.ts';
import type { CniAttachment, CniCall, CniResult, NetworkConf, PluginRun } from '../../workers/net/types.ts';
import type { NetHandlers } from '../../workers/net.ts';
import type { Config } from '../config/config.ts';
import type { Pool } from '../threads/pool.ts';
import { BUILT_IN, type Builtin, builtinNetwork, forPod } from './builtin.ts';
import { capabilityArgs } from './capabilities.ts';
import { loadFolder } from './conf.ts';
import { daemonId, netnsPath } from './daemon-id.ts';
import { FolderWatch } from './folder-watch.ts';
import { findStrays, type StrayOptions, type Strays } from './strays.ts';

/** The part of the `net` pool that this class uses; tests pass a smaller implementation. */
export type NetPool = Pick<Pool<NetHandlers>, 'call'>;

export interface NetworkOptions {
  cni: Config['cni'];
  /** The daemon's root folder, which also tells it from other daemons on the machine. */
  root: string;
  pool: NetPool;
  /** Hears of every run of a plugin, failed ones included. */
  onPlugin?: (run: PluginRun) => void;
  /** Hears when another configuration has come into use, or none is usable any more. */
  onChange?: (loaded: Loaded) => void;
}

/** The configuration in use, to be logged. */
export interface Loaded {
  /** Absent when there is none: `problems` says why. */
  network?: NetworkConf;
  /** What is wrong with files that were passed over, or what the built-in network lacks. */
  problems: string[];
}

/** The answer to "is the network ready", as CRI's Status has it. */
export interface NetworkStatus {
  ready: boolean;
  reason: string;
  message: string;
}

const IF_NAME = 'eth0';
/** STATUS may take so long; kubelet does not wait for it beyond ANSWER_MS and gets what was last known. */
const STATUS_LIMIT_MS = 10_000;
const ANSWER_MS = 1000;

const LOOPBACK: NetworkConf = {
  name: 'cni-loopback',
  cniVersion: '0.3.1',
  plugins: [{ type: 'loopback' }],
  source: BUILT_IN,
};

export class Network implements AsyncDisposable {
  readonly #options: NetworkOptions;
  readonly #daemon: string;
  readonly #folderWatch: FolderWatch;
  #loaded: Loaded = { problems: ['the configuration was not read yet'] };
  #builtin: Builtin | undefined;
  /** A folder that once held a configuration is a cluster's: while it is being replaced, nothing else is put in its place. */
  #sawFiles = false;
  #loading: Promise<void> = Promise.resolve();
  /** STATUS under way, and what the last one said; both belong to one configuration. */
  #asking: Promise<NetworkStatus> | undefined;
  #lastStatus: NetworkStatus | undefined;
  #statusRun: Promise<void> = Promise.resolve();

  /** Reads the configuration, prepares the built-in network where that is the one, and watches the folder from then on. */
  static async start(options: NetworkOptions): Promise<Network> {
    const network = new Network(options);
    await network.#load();
    return network;
  }

  private constructor(options: NetworkOptions) {
    this.#options = options;
    this.#daemon = daemonId(options.root);
    this.#folderWatch = new FolderWatch(options.cni.conf_dir, () => void this.#load());
  }

  /** The network that the next pod is attached to. */
  current(): NetworkConf | undefined {
    return this.#loaded.network;
  }

  get loaded(): Loaded {
    return this.#loaded;
  }

  /** Can pods be launched? Answers within about a second, with what was last known if the plugins take longer. Never throws. */
  async status(): Promise<NetworkStatus> {
    this.#folderWatch.verify();
    if (!this.#loaded.network) return notReady(this.#whyNone());
    this.#asking ??= this.#ask(this.#loaded.network);
    return Promise.race([this.#asking, this.#lastKnown()]);
  }

  /** A path for a new pod's namespace. */
  netnsPath(): string {
    return netnsPath(this.#options.cni.netns_dir, this.#daemon);
  }

  /**
   * All that ADD, and later DEL, of a pod need; it is stored before either. Throws NETWORK_NOT_READY when there is no
   * configuration, INVALID_REQUEST for annotations that make no sense.
   */
  attachment({ id, netns, config }: { id: string; netns: string; config: PodSandboxConfig }): CniAttachment {
    const network = this.#loaded.network;
    if (!network) throw new SluiceError('NETWORK_NOT_READY', `the pod network is not ready: ${this.#whyNone()}`);
    const args = capabilityArgs(config, network);
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
   * CNI ADD, with the loopback plugin before it where the configuration wants that. Throws CNI_FAILED or TIMED_OUT; then (and
   * later) {@link del} takes back what was done.
   */
  async add(attachment: CniAttachment): Promise<CniResult> {
    if (this.#options.cni.loopback === 'plugin') {
      // Its undo is the end of the namespace, so neither a record nor a DEL is needed.
      const loopback = { ...attachment, network: LOOPBACK, ifName: 'lo', capabilityArgs: {} };
      await this.#told(this.#options.pool.call('cniAdd', { ...this.#call(loopback), cacheDir: '' }));
    }
    const { result } = await this.#told(this.#options.pool.call('cniAdd', this.#call(attachment)));
    return result;
  }

  /** CNI DEL; idempotent. Throws CNI_FAILED or TIMED_OUT, to be tried again. */
  async del(attachment: CniAttachment): Promise<void> {
    await this.#told(this.#options.pool.call('cniDel', this.#call(attachment)));
  }

  /** Namespaces and attachments of this daemon that no pod of its store owns. Throws when the folders can't be read. */
  strays(known: Pick<StrayOptions, 'knowsSandbox' | 'knowsNetns'>): Promise<Strays> {
    const { netns_dir: netnsDir, cache_dir: cacheDir } = this.#options.cni;
    return findStrays({ netnsDir, cacheDir, daemon: this.#daemon, ...known });
  }

  /** Stops watching; waits for a reload under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#folderWatch[Symbol.dispose]();
    await this.#loading;
  }

  #call(attachment: CniAttachment): CniCall {
    const { cni } = this.#options;
    return { attachment, binDirs: cni.bin_dirs, cacheDir: cni.cache_dir, timeoutMs: cni.timeout_seconds * 1000 };
  }

  /** Hands the plugin runs of a call on, whether they stand in its answer or in its error. */
  async #told<T extends { plugins: PluginRun[] }>(call: Promise<T>): Promise<T> {
    const tell = (runs: PluginRun[]) => {
      for (const run of runs) this.#options.onPlugin?.(run);
    };
    try {
      const answer = await call;
      tell(answer.plugins);
      return answer;
    } catch (error) {
      if (error instanceof SluiceError) tell((error.details as { plugins?: PluginRun[] } | undefined)?.plugins ?? []);
      throw error;
    }
  }

  /** Loads one after the other; never rejects. */
  #load(): Promise<void> {
    this.#loading = this.#loading.then(async () => {
      const loaded = await this.#read();
      if (JSON.stringify(loaded) === JSON.stringify(this.#loaded)) return;
      this.#loaded = loaded;
      this.#lastStatus = undefined;
      this.#asking = undefined;
      this.#options.onChange?.(loaded);
    });
    return this.#loading;
  }

  async #read(): Promise<Loaded> {
    const { cni } = this.#options;
    const { network, files, problems } = await loadFolder(cni.conf_dir);
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
      builtin = builtinNetwork({ root, subnet: cni.builtin_subnet, binDirs: cni.bin_dirs });
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

  /** Runs STATUS, after the one that may still run for a configuration that has been replaced. */
  async #ask(network: NetworkConf): Promise<NetworkStatus> {
    const before = this.#statusRun;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#statusRun = promise;
    await before;
    const { pool, cni } = this.#options;
    const timeoutMs = Math.min(STATUS_LIMIT_MS, cni.timeout_seconds * 1000);
    let status: NetworkStatus;
    try {
      await this.#told(pool.call('cniStatus', { network, binDirs: cni.bin_dirs, timeoutMs }));
      status = { ready: true, reason: '', message: '' };
    } catch (error) {
      status = notReady(explain(error));
    } finally {
      resolve();
    }
    if (this.#loaded.network === network) {
      this.#lastStatus = status;
      this.#asking = undefined;
    }
    return status;
  }

  #lastKnown(): Promise<NetworkStatus> {
    return new Promise((resolve) => {
      setTimeout(
        () =>
          resolve(this.#lastStatus ?? notReady(`the plugins have not answered STATUS within ${ANSWER_MS / 1000} s`)),
        ANSWER_MS,
      ).unref();
    });
  }
}

/** kubelet and its users know this reason from every other runtime. */
function notReady(message: string): NetworkStatus {
  return { ready: false, reason: 'NetworkPluginNotReady', message: `Network plugin returns error: ${message}` };
}

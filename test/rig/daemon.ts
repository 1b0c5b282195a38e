/**
 * A Sluice of the test's own: private folders, socket, network and registry; started, stopped and looked over for
 * leftovers.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'smol-toml';
import { type RigNetwork, rigNetwork } from './cni.ts';
import { type Cri, connectCri, removePods } from './cri.ts';
import { assertNoTraces, sweep, type Traces } from './leftovers.ts';
import { cgroupParent, privateFolder, ROOT, stateFolder } from './paths.ts';
import { freePort, GivenUp, type Started, start, waitFor } from './proc.ts';
import type { Registry } from './registry.ts';
import { tidyAtSignal } from './tidy.ts';

/** Both daemons of the rig, as tests and benchmarks see them. */
export interface RigDaemon extends AsyncDisposable {
  readonly kind: 'sluice' | 'containerd';
  readonly folder: string;
  readonly socket: string;
  readonly cri: Cri;
  readonly network: RigNetwork;
  readonly netnsDir: string;
  /** For podConfig's cgroupParent, so that processes of the rig's pods can be told from all others. */
  readonly cgroupParent: string;
  /** Of the daemon itself. */
  pid(): number;
  /** All its output since it was first started. */
  log(): string;
  /** Throws when namespaces, mounts, shims, addresses, links, rules or cgroups of pods are still there. */
  assertNothingLeft(graceMs?: number): Promise<void>;
  /** Ends the daemon alone with SIGTERM, or a signal of choice; pods stay. Resolves with its status or signal. */
  stop(signal?: NodeJS.Signals): Promise<number | string>;
  /** Starts it again on the same folders. */
  start(): Promise<void>;
}

export interface SluiceOptions {
  /** Merged over the rig's own configuration, table by table. Key names as in the TOML file. */
  config?: Record<string, unknown>;
  registry?: Registry;
  /** Several networks of one process need different numbers. */
  index?: number;
  ipMasq?: boolean;
  /** False: pods without IPv6 addresses of their own. */
  linkLocal?: boolean;
  /** Read at each start, so a test may change it in between; undefined takes a variable away. */
  env?: NodeJS.ProcessEnv;
  /** Another sluiced than the tree's: a release's. */
  program?: string;
  /** A descriptor that the daemon gets as its number 3: a socket that listens for it. */
  inherit?: number;
  /** Its socket, where that is not in the daemon's private folder. */
  socket?: string;
  /** Use this folder, which the caller has made (a small tmpfs, say), for the daemon's root. */
  root?: string;
  /** Called before the first start, to write scripts and the like; its result is merged over `config`. */
  prepare?: (folder: string, network: RigNetwork) => Promise<Record<string, unknown>>;
  /** [runtimes.runc] sandbox_mode; left out: the daemon's default, which pins where it can. */
  sandboxMode?: 'pause' | 'pinned';
  /** Run-time state on a tmpfs. */
  stateInMemory?: boolean;
  /** No CNI configuration at all: the daemon's built-in network is used. */
  builtinNetwork?: boolean;
}

export interface SluiceDaemon extends RigDaemon {
  readonly kind: 'sluice';
  readonly configFile: string;
  /** host:port of the Prometheus endpoint. */
  readonly metrics: string;
  readonly root: string;
  readonly state: string;
  /** The text of /metrics. */
  scrape(): Promise<string>;
  /** Resolves with the status or signal of the present process when it has ended. */
  ended(): Promise<number | string>;
  /** Rewrites the configuration (merged as in the options); takes effect at the next start. */
  configure(config: Record<string, unknown>): void;
}

/**
 * Starts a daemon and waits until it answers. At disposal its pods are removed, it is ended, and everything private
 * goes.
 */
export async function startSluice(options: SluiceOptions = {}): Promise<SluiceDaemon> {
  const folder = privateFolder('sluice-rig');
  const root = options.root ?? join(folder, 'root');
  const { index, ipMasq, linkLocal } = options;
  const builtinOf = options.builtinNetwork ? root : undefined;
  const network = await rigNetwork(folder, { index, ipMasq, linkLocal, builtinOf });
  const state = await stateFolder(folder, options.stateInMemory);
  // Beside the rest of what a reboot ends, as /var/run/netns is.
  const netnsDir = join(options.stateInMemory ? state : folder, 'netns');
  const socket = options.socket ?? join(folder, 'sluice.sock');
  const configFile = join(folder, 'config.toml');
  const metrics = `127.0.0.1:${await freePort()}`;
  const cgroup = cgroupParent('rig', options.index ?? 0);
  mkdirSync(root, { recursive: true });

  const base: Record<string, unknown> = {
    socket,
    root,
    state,
    cni: {
      conf_dir: network.confDir,
      bin_dirs: network.binDirs,
      cache_dir: network.cacheDir,
      netns_dir: netnsDir,
      builtin_subnet: network.subnet,
    },
    images: options.registry ? { registry_config: options.registry.certsDir } : {},
    streaming: { listen: '127.0.0.1:0' },
    metrics: { listen: metrics },
    log: { level: 'debug' },
    runtimes: options.sandboxMode ? { runc: { sandbox_mode: options.sandboxMode } } : {},
  };
  const own = merge(options.config ?? {}, (await options.prepare?.(folder, network)) ?? {});
  const configure = (config: Record<string, unknown>) =>
    writeFileSync(configFile, stringify(merge(merge(base, own), config)));
  configure({});

  const traces: Traces = { folder, netnsDir, cgroup: cgroup.name, network };
  const logFile = join(folder, 'log');
  const cri = connectCri(socket);
  let daemon: Started;
  const begin = async () => {
    const args = [options.program ?? join(ROOT, 'bin/sluiced'), '--config', configFile];
    daemon = start('/bin/sh', args, logFile, { ...process.env, ...options.env }, options.inherit);
    await waitFor('sluiced to answer Version', 120_000, async () => {
      if (!daemon.running()) throw new GivenUp(`sluiced ended (${await daemon.ended}): ${tail(logFile)}`);
      return cri.version({}, { timeoutMs: 2000 });
    }).catch(async (error: unknown) => {
      await daemon.stop(1000);
      throw error;
    });
  };
  const untidy = tidyAtSignal(async () => {
    await daemon?.stop(5000);
    await sweep(traces);
  });
  try {
    await begin();
  } catch (error) {
    cri.close();
    await sweep(traces);
    untidy();
    throw error;
  }

  return {
    kind: 'sluice',
    folder,
    socket,
    cri,
    network,
    netnsDir,
    cgroupParent: cgroup.parent,
    configFile,
    metrics,
    root,
    state,
    pid: () => daemon.pid,
    log: () => readFileSync(logFile, 'utf8'),
    ended: () => daemon.ended,
    scrape: async () => (await fetch(`http://${metrics}/metrics`)).text(),
    configure,
    assertNothingLeft: (graceMs) => assertNoTraces(traces, graceMs),
    async stop(signal = 'SIGTERM') {
      if (signal !== 'SIGTERM' && daemon.running()) process.kill(daemon.pid, signal);
      return daemon.stop();
    },
    start: begin,
    async [Symbol.asyncDispose]() {
      try {
        if (daemon.running()) await removePods(cri);
      } catch (error) {
        // The sweep below takes what it left; the test that made it fail has said so, or asserts it itself.
        console.error(`rig: pods could not be removed: ${error instanceof Error ? error.message : error}`);
      } finally {
        cri.close();
        await daemon.stop();
        await sweep(traces);
        untidy();
      }
    },
  };
}

export function tail(file: string, lines = 30): string {
  return readFileSync(file, 'utf8').split('\n').slice(-lines).join('\n');
}

/** `over` laid on `base`, tables merged, everything else replaced. */
export function merge(base: Record<string, unknown>, over: Record<string, unknown>): Record<string, unknown> {
  const isTable = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  const merged = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const old = merged[key];
    merged[key] = isTable(old) && isTable(value) ? merge(old, value) : value;
  }
  return merged;
}

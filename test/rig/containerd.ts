/**
 * A containerd of the rig's own on private folders, to compare with: same shim, runc, CNI network and images as Sluice.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'smol-toml';
import { rigNetwork } from './cni.ts';
import { connectCri, removePods } from './cri.ts';
import type { RigDaemon } from './daemon.ts';
import { tail } from './daemon.ts';
import { assertNoTraces, sweep, type Traces } from './leftovers.ts';
import { cgroupParent, privateFolder, SYSTEMD, stateFolder } from './paths.ts';
import { GivenUp, run, type Started, start, waitFor } from './proc.ts';
import type { Registry } from './registry.ts';
import { tidyAtSignal } from './tidy.ts';

export interface ContainerdOptions {
  /** Without one, images are imported. */
  registry?: Registry;
  /** Absolute paths. */
  containerd: string;
  shim: string;
  runc: string;
  /** A second runtime handler, "crun". */
  crun?: string;
  index?: number;
  ipMasq?: boolean;
  /** Run-time state on a tmpfs. */
  stateInMemory?: boolean;
  sandboxImage?: string;
}

export async function startContainerd(options: ContainerdOptions): Promise<RigDaemon> {
  const version = (await run(options.containerd, ['--version'])).stdout; // one that does not run leaves no folder
  const folder = privateFolder('sluice-ctd');
  const network = await rigNetwork(folder, { index: options.index ?? 1, ipMasq: options.ipMasq });
  const socket = join(folder, 'containerd.sock');
  const state = await stateFolder(folder, options.stateInMemory);
  const netnsDir = join(state, 'io.containerd.grpc.v1.cri/netns');
  const cgroup = cgroupParent('ctd', options.index ?? 1);
  const configFile = join(folder, 'config.toml');
  const plugins = / v?1\./.test(version) ? pluginsOf1(options, network, state) : pluginsOf2(options, network, state);
  mkdirSync(join(folder, 'opt'));
  writeFileSync(
    configFile,
    stringify({
      version: / v?1\./.test(version) ? 2 : 3,
      root: join(folder, 'root'),
      state,
      grpc: { address: socket, max_recv_message_size: 16 << 20, max_send_message_size: 16 << 20 },
      ttrpc: { address: `${socket}.ttrpc` },
      disabled_plugins: [
        'io.containerd.snapshotter.v1.blockfile',
        'io.containerd.snapshotter.v1.btrfs',
        'io.containerd.snapshotter.v1.devmapper',
        'io.containerd.snapshotter.v1.erofs',
        'io.containerd.snapshotter.v1.zfs',
      ],
      plugins,
    }),
  );

  const traces: Traces = { folder, netnsDir, cgroup: cgroup.name, network };
  const logFile = join(folder, 'log');
  const cri = connectCri(socket);
  let daemon: Started;
  const begin = async () => {
    daemon = start(options.containerd, ['--config', configFile], logFile, process.env);
    await waitFor('containerd to answer Status', 120_000, async () => {
      if (!daemon.running()) throw new GivenUp(`containerd ended (${await daemon.ended}): ${tail(logFile)}`);
      const { status } = await cri.status({}, { timeoutMs: 2000 });
      const bad = status?.conditions.find((condition) => condition.type !== '' && !condition.status);
      if (bad?.type === 'RuntimeReady' || bad?.type === 'NetworkReady') throw new Error(bad.message);
      return true;
    }).catch(async (error: unknown) => {
      await daemon.stop(1000);
      throw new Error(`${error instanceof Error ? error.message : error}: ${tail(logFile)}`, { cause: error });
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
    kind: 'containerd',
    folder,
    socket,
    cri,
    network,
    netnsDir,
    cgroupParent: cgroup.parent,
    pid: () => daemon.pid,
    log: () => readFileSync(logFile, 'utf8'),
    assertNothingLeft: (graceMs) => assertNoTraces(traces, graceMs),
    async stop(signal = 'SIGTERM') {
      if (signal !== 'SIGTERM' && daemon.running()) process.kill(daemon.pid, signal);
      return daemon.stop();
    },
    start: begin,
    async [Symbol.asyncDispose]() {
      try {
        if (daemon.running()) await removePods(cri);
      } finally {
        cri.close();
        await daemon.stop();
        await sweep(traces);
        untidy();
      }
    },
  };
}

type Network = Awaited<ReturnType<typeof rigNetwork>>;

/** Configuration version 3: the CRI plugin's halves. */
function pluginsOf2(options: ContainerdOptions, network: Network, state: string): object {
  return {
    'io.containerd.cri.v1.images': {
      snapshotter: 'overlayfs',
      pinned_images: { sandbox: options.sandboxImage ?? 'registry.k8s.io/pause:3.10' },
      ...(options.registry ? { registry: { config_path: options.registry.certsDir } } : {}),
    },
    'io.containerd.cri.v1.runtime': {
      ...runtime(options, state),
      cni: { bin_dirs: network.binDirs, conf_dir: network.confDir },
      netns_mounts_under_state_dir: true,
    },
    'io.containerd.grpc.v1.cri': { stream_server_address: '127.0.0.1', stream_server_port: '0' },
    'io.containerd.nri.v1.nri': { disable: true },
    'io.containerd.internal.v1.opt': { path: join(network.confDir, '../opt') },
  };
}

/** Configuration version 2, for Debian's containerd 1.6. */
function pluginsOf1(options: ContainerdOptions, network: Network, state: string): object {
  return {
    'io.containerd.grpc.v1.cri': {
      ...runtime(options, state),
      sandbox_image: options.sandboxImage ?? 'registry.k8s.io/pause:3.10',
      stream_server_address: '127.0.0.1',
      stream_server_port: '0',
      netns_mounts_under_state_dir: true,
      ...(options.registry ? { registry: { config_path: options.registry.certsDir } } : {}),
      cni: { bin_dir: network.binDirs[0], conf_dir: network.confDir },
    },
    'io.containerd.internal.v1.opt': { path: join(network.confDir, '../opt') },
  };
}

function runtime(options: ContainerdOptions, state: string): object {
  const handler = (name: string, binary: string) => ({
    runtime_type: 'io.containerd.runc.v2',
    runtime_path: options.shim,
    options: { BinaryName: binary, SystemdCgroup: SYSTEMD, Root: join(state, name) },
  });
  return {
    restrict_oom_score_adj: !mayLowerOomScore(),
    containerd: {
      default_runtime_name: 'runc',
      runtimes: {
        runc: handler('runc', options.runc),
        ...(options.crun ? { crun: handler('crun', options.crun) } : {}),
      },
    },
  };
}

/** Without CAP_SYS_RESOURCE a pod's oom_score_adj cannot be set below our own, and containerd has to be told. */
export function mayLowerOomScore(): boolean {
  const match = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'));
  return ((BigInt(`0x${match?.[1] ?? '0'}`) >> 24n) & 1n) === 1n;
}

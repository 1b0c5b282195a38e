/**
 * The table of configuration keys: type, default, explanation and check of each. The loader, the printed default file
 * and docs/operate/config.md are made from it. A key of {@link Config} that is missing here is a type error.
 */
import { availableParallelism } from 'node:os';
import { STAGE_NAMES, STAGES, type StageName } from '../../stages.ts';
import * as check from './checks.ts';
import type { Config, RuntimeConfig } from './config.ts';
import { stageLimit } from './limits.ts';

/** Every key as a dotted path; NAME is a placeholder for a name that the user chooses. */
export type KeyPath = Leaves<Omit<Config, 'runtimes'>> | `runtimes.NAME.${keyof RuntimeConfig}`;

type Leaf = string | number | boolean | readonly string[];
type Leaves<T, P extends string = ''> = {
  [K in keyof T & string]: T[K] extends Leaf ? `${P}${K}` : Leaves<T[K], `${P}${K}.`>;
}[keyof T & string];

type KeyType = 'string' | 'integer' | 'number' | 'boolean' | 'strings' | 'switch';
export type KeyValue = string | number | boolean | string[];

export interface Key {
  type: KeyType;
  /** The default; a function when it depends on the machine or on NAME. */
  default: KeyValue | ((facts: Facts) => KeyValue);
  /** Description of the default, for the printed file and the docs, when its value would mislead. */
  defaultText?: string;
  /** Explanation for the printed file and the docs: one or more sentences, with the unit. */
  comment: string;
  /** Check of a value of the right type (see checks.ts). */
  check?: (value: never) => string | undefined;
  /** The default depends on the machine, so the printed file contains the key as a comment. */
  machine?: boolean;
  /** A reload (SIGHUP) applies a new value; without this the daemon has to be restarted. */
  live?: boolean;
}

/** Values that defaults may depend on. */
export interface Facts {
  cores: number;
  /** The NAME in `runtimes.NAME`. */
  name: string;
}

export const facts = (): Facts => ({ cores: availableParallelism(), name: 'runc' });

/** The tables of the file, in order, each with the comment above it. */
export const SECTIONS: Record<string, string> = {
  '': 'Sluice: its socket, its folders and its defaults.',
  'runtimes.NAME':
    'Runtimes, by the name that RuntimeClass handlers use. "runc" is always defined; a table with another name adds a runtime.',
  cni: 'Pod networks.',
  images: 'Images and registries.',
  streaming: 'The server behind exec, attach and port-forward.',
  metrics: 'Prometheus.',
  tracing: 'OpenTelemetry.',
  pipeline: 'How much runs at once. Everything beyond that waits in order; nothing that has started is cancelled.',
  'pipeline.limits':
    'How many of each stage run at once, over all jobs. The limits of stages that need CPU (shim, create, start) are near the number of cores, those of stages that wait for locks or other processes (network) a little above; the others are high enough not to matter.',
  log: 'The daemon’s log, and the containers’.',
};

const runtime: Record<keyof RuntimeConfig, Key> = {
  binary: {
    type: 'string',
    default: ({ name }) => name,
    defaultText: 'the runtime’s name',
    comment: 'OCI runtime: a name to look up in PATH, or an absolute path.',
    check: check.program,
  },
  shim: {
    type: 'string',
    default: 'containerd-shim-runc-v2',
    comment: 'containerd shim for this runtime: a name to look up in PATH, or an absolute path.',
    check: check.program,
  },
  shim_start: {
    type: 'string',
    default: 'auto',
    comment:
      '"auto": the first pod runs the start command of containerd-shim-runc-v2; once that has worked, further pods start the long-lived shim process directly, which saves one process per pod. "command": every pod runs the start command, which other shims need.',
    check: check.oneOf('auto', 'command'),
  },
  sandbox_mode: {
    type: 'string',
    default: 'auto',
    comment:
      '"pinned": bind mounts hold the namespaces of a pod, which has no process of its own; its shim starts with its first container. "pause": a pause process holds them. Pods that share a PID namespace, have a user namespace, or use another shim than containerd-shim-runc-v2 have a pause process in any mode. "auto": pinned.',
    check: check.oneOf('auto', 'pause', 'pinned'),
  },
  pods_per_shim: {
    type: 'integer',
    default: 1,
    comment:
      'Pods without a pause process that share one shim process, at most. A shim takes 3 MiB; when it dies, the containers of all its pods end. Only for containerd-shim-runc-v2.',
    check: check.atLeast(1),
  },
  runtime_root: {
    type: 'string',
    default: '',
    defaultText: '"" (`<state>/runc`)',
    comment: 'Folder in which the OCI runtime keeps its state (runc --root); empty is <state>/runc.',
    check: check.optional(check.absolute),
  },
  privileged_without_host_devices: {
    type: 'boolean',
    default: false,
    comment: 'If true, privileged containers do not get the devices of the host.',
  },
  pod_annotations: {
    type: 'strings',
    default: [],
    comment: 'Pod annotations that are copied into the OCI spec, as patterns with *.',
    check: check.each(check.pattern),
  },
  container_annotations: {
    type: 'strings',
    default: [],
    comment: 'Container annotations that are copied into the OCI spec, as patterns with *.',
    check: check.each(check.pattern),
  },
};

const limits = Object.fromEntries(
  STAGE_NAMES.map((stage): [string, Key] => [
    `pipeline.limits.${stage}`,
    {
      type: 'integer',
      default: ({ cores }) => stageLimit(stage, cores).limit,
      defaultText: stageLimit(stage, 1).text,
      comment: STAGES[stage].meaning,
      check: check.atLeast(1),
      machine: true,
      live: true,
    },
  ]),
) as Record<`pipeline.limits.${StageName}`, Key>;

const runtimes = Object.fromEntries(
  Object.entries(runtime).map(([name, key]) => [`runtimes.NAME.${name}`, { ...key, live: true }]),
) as Record<`runtimes.NAME.${keyof RuntimeConfig}`, Key>;

export const SCHEMA: Record<KeyPath, Key> = {
  socket: {
    type: 'string',
    default: '/run/sluice/sluice.sock',
    comment: 'Unix socket of the CRI API, mode 0600. At most 107 bytes, the limit of the kernel.',
    check: check.socketPath,
  },
  root: {
    type: 'string',
    default: '/var/lib/sluice',
    comment: 'Folder for data that survives a reboot: the database, images, snapshots. Two daemons must not share one.',
    check: check.absolute,
  },
  state: {
    type: 'string',
    default: '/run/sluice',
    comment: 'Folder for run-time state: bundles, FIFOs, shm. Best on a tmpfs. Two daemons must not share one.',
    check: check.namespaceFolder,
  },
  default_runtime: {
    type: 'string',
    default: 'runc',
    comment: 'Runtime of pods without a runtime handler; one of [runtimes].',
    check: check.notEmpty,
    live: true,
  },
  cgroup_driver: {
    type: 'string',
    default: 'auto',
    comment:
      '"cgroupfs", "systemd", or "auto": systemd where systemd is PID 1. The kubelet reads it with RuntimeConfig and uses the same.',
    check: check.oneOf('auto', 'cgroupfs', 'systemd'),
  },
  refuse_missing_host_paths: {
    type: 'strings',
    default: [],
    comment:
      'A hostPath that does not exist is made, as a folder with mode 0755, unless it is one of these paths or below one: then the container fails. For mount points whose disk may be absent at boot.',
    check: check.each(check.absolute),
    live: true,
  },
  ...runtimes,
  'cni.conf_dir': {
    type: 'string',
    default: '/etc/cni/net.d',
    comment: 'Folder of CNI configurations, watched for changes. The first file by name is used.',
    check: check.absolute,
    live: true,
  },
  'cni.bin_dirs': {
    type: 'strings',
    default: ['/opt/cni/bin', '/usr/lib/cni'],
    comment: 'Folders of CNI plugins, searched in order.',
    check: check.someOf(check.absolute),
    live: true,
  },
  'cni.cache_dir': {
    type: 'string',
    default: '/var/lib/cni',
    comment:
      'Folder of libcni’s cache: results are stored under <cache_dir>/results. File names contain ids, so daemons may share it.',
    check: check.absolute,
  },
  'cni.netns_dir': {
    type: 'string',
    default: '/var/run/netns',
    comment:
      'Folder in which network namespaces are pinned, each under a random name. `ip netns` reads /var/run/netns.',
    check: check.namespaceFolder,
    live: true,
  },
  'cni.timeout_seconds': {
    type: 'number',
    default: 60,
    comment: 'Seconds that one run of a plugin may take.',
    check: check.positive,
    live: true,
  },
  'cni.loopback': {
    type: 'string',
    default: 'builtin',
    comment:
      '"builtin" brings lo up without a process; "plugin" runs the CNI loopback plugin, for set-ups that need it.',
    check: check.oneOf('builtin', 'plugin'),
  },
  'cni.in_process': {
    type: 'switch',
    default: 'auto',
    comment:
      'Whether the plugins bridge, ptp, host-local, portmap, loopback, tuning and flannel run inside the daemon instead of as processes. "auto": in the built-in network, and where the programs in bin_dirs are the reference plugins. true: always. false: never.',
    live: true,
  },
  'cni.builtin_subnet': {
    type: 'string',
    default: 'auto',
    comment:
      'IPv4 subnet of the built-in bridge network, which is used while conf_dir contains no configuration. "auto": a free one of 10.192.0.0/16 to 10.243.0.0/16, stored under root. Empty: no built-in network; the node is not ready until conf_dir contains a configuration.',
    check: check.optional(check.either('auto', check.subnet)),
    live: true,
  },
  'cni.ip_ranges_annotation': {
    type: 'boolean',
    default: false,
    comment:
      'If true, the pod annotation sluice/ip-ranges chooses the ranges of the pod’s addresses, where the CNI configuration declares the capability ipRanges. Whoever may create pods then chooses any address.',
    live: true,
  },
  'cni.gc': {
    type: 'boolean',
    default: true,
    comment:
      'Whether addresses, masquerading and host ports that belong to no attachment are given back, when the daemon starts and every hour: in the built-in network, and in others if cache_dir is /var/lib/cni, where all runtimes that share the network have their records.',
    live: true,
  },
  'images.sandbox_image': {
    type: 'string',
    default: '',
    comment: 'Image of the pause process. Empty: the built-in image, which needs no registry.',
    check: check.optional(check.imageRef),
  },
  'images.registry_config': {
    type: 'string',
    default: '/etc/containerd/certs.d:/etc/docker/certs.d',
    comment:
      'Folders of <registry host>/hosts.toml, in containerd’s layout, separated by ":". The first one with the host is used.',
    check: check.pathList,
    live: true,
  },
  'images.max_downloads': {
    type: 'integer',
    default: 4,
    comment: 'Layers that are downloaded and unpacked at the same time, over all pulls.',
    check: check.atLeast(1),
    live: true,
  },
  'images.progress_timeout_seconds': {
    type: 'number',
    default: 300,
    comment:
      'Seconds without a new byte, or with less than 1 KiB for each of them, after which the download of a layer fails.',
    check: check.positive,
    live: true,
  },
  'images.snapshotter': {
    type: 'string',
    default: 'overlayfs',
    comment:
      'How containers get a file system of their image’s layers: "overlayfs"; "native" copies, for file systems without overlays; "proxy" asks a daemon that speaks containerd’s snapshots protocol (stargz, nydus, SOCI).',
    check: check.oneOf('overlayfs', 'native', 'proxy'),
  },
  'images.snapshotter_socket': {
    type: 'string',
    default: '',
    comment:
      'The unix socket of the proxy snapshotter, such as /run/containerd-stargz-grpc/containerd-stargz-grpc.sock.',
    check: check.optional(check.socketPath),
  },
  'images.snapshotter_name': {
    type: 'string',
    default: 'overlayfs',
    comment: 'The name of the snapshotter there, where the daemon has several (containerd has); others ignore it.',
    check: check.notEmpty,
  },
  'images.volatile': {
    type: 'boolean',
    default: true,
    comment:
      'Syncs of containers to their own writable layer do nothing (overlayfs option volatile, Linux 5.10): they end faster. A container’s layer does not outlive a power cut in any case; volumes are not concerned.',
  },
  'images.keep_blobs': {
    type: 'boolean',
    default: false,
    comment:
      'Keep the blobs of images besides their unpacked layers, under <root>/blobs: `sluice image export` then gives the digests of the registry. Costs the size of the compressed images.',
  },
  'images.quota': {
    type: 'string',
    default: '',
    comment:
      'What images may take on the disk ("50Gi"): beyond it, images that nobody uses are removed, those first whose last use lies furthest back. Empty: no limit. The kubelet’s own garbage collection knows nothing of it.',
    check: check.optional(check.quantity),
    live: true,
  },
  'images.gc_high_percent': {
    type: 'integer',
    default: 0,
    comment:
      'Fullness in percent of the file system of root at which unused images are removed, for nodes without a kubelet that does it. 0: never.',
    check: check.between(0, 100),
    live: true,
  },
  'images.gc_low_percent': {
    type: 'integer',
    default: 80,
    comment: 'Fullness at which no more of them are removed.',
    check: check.between(0, 100),
    live: true,
  },
  'images.import_folder': {
    type: 'string',
    default: '',
    comment:
      'Folder whose image archives (*.tar, *.tar.gz, *.tar.zst) are imported at each start, for nodes without a registry.',
    check: check.optional(check.absolute),
  },
  'images.signature_policy': {
    type: 'string',
    default: '',
    comment:
      'TOML file that says which registries’ images must be signed, with cosign’s public keys or by an external verifier. Read anew at each pull.',
    check: check.optional(check.absolute),
    live: true,
  },
  'images.credentials': {
    type: 'string',
    default: '',
    comment:
      'File with logins in docker’s config.json format (auths, credHelpers, credsStore), for the sandbox image and `sluice image pull`. The kubelet sends its own.',
    check: check.optional(check.absolute),
    live: true,
  },
  'streaming.listen': {
    type: 'string',
    default: '127.0.0.1:0',
    comment:
      'host:port; port 0 means any free port. The kubelet connects to it, so the default is for a kubelet on this node.',
    check: check.listen,
  },
  'streaming.tls_cert': {
    type: 'string',
    default: '',
    comment: 'PEM file of the certificate. "self-signed": a certificate that is made at each start. Empty: plain HTTP.',
    check: check.optional(check.either('self-signed', check.absolute)),
  },
  'streaming.tls_key': {
    type: 'string',
    default: '',
    comment: 'PEM file of the key of tls_cert; needed with a certificate file.',
    check: check.optional(check.absolute),
  },
  'streaming.idle_timeout_seconds': {
    type: 'number',
    default: 14_400,
    comment: 'Seconds without traffic after which a stream is closed.',
    check: check.positive,
  },
  'metrics.listen': {
    type: 'string',
    default: '127.0.0.1:9477',
    comment:
      'host:port of the Prometheus endpoint /metrics and of the page; empty turns it off. A second daemon on the machine needs another port.',
    check: check.optional(check.listen),
    live: true,
  },
  'metrics.containerd_names': {
    type: 'boolean',
    default: false,
    comment: 'Also export the metrics under containerd’s names, for dashboards that use those.',
  },
  'tracing.endpoint': {
    type: 'string',
    default: '',
    comment: 'OTLP/HTTP endpoint, for example "http://127.0.0.1:4318"; empty turns tracing off.',
    check: check.optional(check.httpUrl),
  },
  'pipeline.max_running': {
    type: 'integer',
    default: ({ cores }) => Math.max(16, 8 * cores),
    defaultText: '8 × cores, at least 16',
    comment:
      'Launches (RunPodSandbox, CreateContainer, StartContainer) that run at the same time, and separately the image pulls that do. High enough to keep every stage busy, low enough that the first of a thousand pods is ready long before the last one starts.',
    check: check.atLeast(1),
    machine: true,
    live: true,
  },
  'pipeline.max_teardowns': {
    type: 'integer',
    default: 512,
    comment:
      'Stops and removes that run at the same time. Far above max_running, because a stop mostly waits for the grace period of its container, and a drained node stops all its pods together.',
    check: check.atLeast(1),
    live: true,
  },
  'pipeline.max_queued': {
    type: 'integer',
    default: 2048,
    comment: 'Jobs of each kind that may wait; a further one is refused at once with RESOURCE_EXHAUSTED.',
    check: check.atLeast(0),
    live: true,
  },
  'pipeline.claim_ttl_seconds': {
    type: 'number',
    default: 60,
    comment: 'Seconds that a finished launch whose callers have disconnected waits for the retry before it is undone.',
    check: check.positive,
    live: true,
  },
  'pipeline.realtime': {
    type: 'boolean',
    default: true,
    comment:
      'Makes the main thread, which answers all calls, a real-time thread (SCHED_RR, priority 1), so that lists and stops need not wait for a processor while pods are launched. One that runs for 3 s without a pause is a normal thread until it has one. Where it is refused (a kernel with real-time groups) the log says so.',
  },
  ...limits,
  'log.level': {
    type: 'string',
    default: 'info',
    comment: '"trace", "debug", "info", "warn" or "error".',
    check: check.oneOf('trace', 'debug', 'info', 'warn', 'error'),
    live: true,
  },
  'log.max_container_line': {
    type: 'integer',
    default: 16_384,
    comment: 'Bytes of content in one line of a container’s log; a longer line is split into parts with the tag P.',
    check: check.between(256, 1 << 20),
    live: true,
  },
};

/** A key's default on this machine. */
export function defaultOf(key: Key, facts: Facts): KeyValue {
  return typeof key.default === 'function' ? key.default(facts) : structuredClone(key.default);
}

/**
 * The one table of configuration keys: what each one is, its default, and what a good value looks like. The loader, the printed
 * default file and docs/operate/config.md all come from it, and the compiler refuses a key of {@link Config} that is missing here.
 */
import { availableParallelism } from 'node:os';
import { STAGE_NAMES, STAGES, type StageName } from '../../stages.ts';
import * as check from './checks.ts';
import type { Config, RuntimeConfig } from './config.ts';
import { stageLimit } from './limits.ts';

/** Every key as a dotted path; NAME stands for a name that the user chooses. */
export type KeyPath = Leaves<Omit<Config, 'runtimes'>> | `runtimes.NAME.${keyof RuntimeConfig}`;

type Leaf = string | number | boolean | readonly string[];
type Leaves<T, P extends string = ''> = {
  [K in keyof T & string]: T[K] extends Leaf ? `${P}${K}` : Leaves<T[K], `${P}${K}.`>;
}[keyof T & string];

export type KeyType = 'string' | 'integer' | 'number' | 'boolean' | 'strings';
export type KeyValue = string | number | boolean | string[];

export interface Key {
  type: KeyType;
  /** The default; a function where it depends on the machine or on the name it stands under. */
  default: KeyValue | ((facts: Facts) => KeyValue);
  /** What the printed file and the docs say of the default when the plain value would mislead. */
  defaultText?: string;
  /** One or more sentences, with the unit. */
  comment: string;
  /** Says what is wrong with a value of the right type, to follow its key: "must be positive". */
  check?: (value: never) => string | undefined;
  /** Not written as a live line in the default file, since the value is the machine's. */
  machine?: boolean;
}

/** What a default may depend on. */
export interface Facts {
  cores: number;
  /** The NAME in `runtimes.NAME`. */
  name: string;
}

export const facts = (): Facts => ({ cores: availableParallelism(), name: 'runc' });

/** Tables, in the order of the file, with what the file says above each. */
export const SECTIONS: Record<string, string> = {
  '': 'Sluice: where it listens and keeps its things.',
  'runtimes.NAME':
    'Runtimes, by the name that RuntimeClass handlers use. "runc" is there without being written; a table of another name adds one.',
  cni: 'Pod networks.',
  images: 'Images and registries.',
  streaming: 'The server behind exec, attach and port-forward.',
  metrics: 'Prometheus.',
  tracing: 'OpenTelemetry.',
  pipeline: 'How much happens at once. Everything beyond waits in order; nothing is started to be cancelled.',
  'pipeline.limits':
    'How many of each stage run at once, over all jobs. Stages that burn CPU (shim, create, start) are held near the number of cores, those that wait for locks or for others (network) a little above; the rest is out of the way.',
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
    comment: 'containerd shim that drives it, likewise.',
    check: check.program,
  },
  shim_start: {
    type: 'string',
    default: 'auto',
    comment:
      '"auto": once the start command of containerd-shim-runc-v2 has answered, further pods start the long-lived process without it, which saves a process a pod. "command": every pod calls it, as other shims need.',
    check: check.oneOf('auto', 'command'),
  },
  sandbox_mode: {
    type: 'string',
    default: 'pause',
    comment: '"pause": a pause process holds the namespaces of a pod.',
    check: check.oneOf('pause'),
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
    comment: 'Privileged containers do not get the devices of the host.',
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
    },
  ]),
) as Record<`pipeline.limits.${StageName}`, Key>;

const runtimes = Object.fromEntries(
  Object.entries(runtime).map(([name, key]) => [`runtimes.NAME.${name}`, key]),
) as Record<`runtimes.NAME.${keyof RuntimeConfig}`, Key>;

export const SCHEMA: Record<KeyPath, Key> = {
  socket: {
    type: 'string',
    default: '/run/sluice/sluice.sock',
    comment: 'Unix socket of the CRI API, mode 0600. At most 107 bytes, which is what the kernel takes.',
    check: check.socketPath,
  },
  root: {
    type: 'string',
    default: '/var/lib/sluice',
    comment: 'Folder for what survives a reboot: the database, images, snapshots. A daemon needs one of its own.',
    check: check.absolute,
  },
  state: {
    type: 'string',
    default: '/run/sluice',
    comment: 'Folder for run-time state: bundles, FIFOs, shm. Best on a tmpfs; a daemon needs one of its own.',
    check: check.absolute,
  },
  default_runtime: {
    type: 'string',
    default: 'runc',
    comment: 'Runtime of pods that name no handler; one of [runtimes].',
    check: check.notEmpty,
  },
  cgroup_driver: {
    type: 'string',
    default: 'auto',
    comment:
      '"cgroupfs", "systemd", or "auto": systemd where it is PID 1. The kubelet asks for it (RuntimeConfig) and follows.',
    check: check.oneOf('auto', 'cgroupfs', 'systemd'),
  },
  ...runtimes,
  'cni.conf_dir': {
    type: 'string',
    default: '/etc/cni/net.d',
    comment: 'Folder of CNI configurations, watched; the first one by name counts.',
    check: check.absolute,
  },
  'cni.bin_dirs': {
    type: 'strings',
    default: ['/opt/cni/bin', '/usr/lib/cni'],
    comment: 'Folders of CNI plugins, looked through in order.',
    check: check.someOf(check.absolute),
  },
  'cni.cache_dir': {
    type: 'string',
    default: '/var/lib/cni',
    comment: 'libcni’s folder: results are kept under <cache_dir>/results. Entries carry ids, so daemons may share it.',
    check: check.absolute,
  },
  'cni.netns_dir': {
    type: 'string',
    default: '/var/run/netns',
    comment: 'Folder in which network namespaces are pinned, each under a random name, where `ip netns` finds them.',
    check: check.absolute,
  },
  'cni.timeout_seconds': {
    type: 'number',
    default: 60,
    comment: 'Seconds that one run of a plugin may take.',
    check: check.positive,
  },
  'cni.loopback': {
    type: 'string',
    default: 'builtin',
    comment: '"builtin" brings lo up without a process; "plugin" calls the loopback plugin, for set-ups that insist.',
    check: check.oneOf('builtin', 'plugin'),
  },
  'cni.builtin_subnet': {
    type: 'string',
    default: 'auto',
    comment:
      'IPv4 subnet of the built-in bridge network, which is used while conf_dir holds no configuration. "auto": a free one of 10.192.0.0/16 to 10.243.0.0/16, kept under root. Empty: none, and the node is not ready until there is one.',
    check: check.optional(check.either('auto', check.subnet)),
  },
  'images.sandbox_image': {
    type: 'string',
    default: '',
    comment: 'Image of the pause process; empty is the one built in, which needs no registry.',
    check: check.optional(check.imageRef),
  },
  'images.registry_config': {
    type: 'string',
    default: '/etc/containerd/certs.d:/etc/docker/certs.d',
    comment:
      'Folders of <registry host>/hosts.toml, in containerd’s layout, separated by ":"; the first that has the host counts.',
    check: check.pathList,
  },
  'images.max_downloads': {
    type: 'integer',
    default: 4,
    comment: 'Layers that are downloaded and unpacked at once, over all pulls.',
    check: check.atLeast(1),
  },
  'images.progress_timeout_seconds': {
    type: 'number',
    default: 300,
    comment: 'Seconds without a new byte after which a pull is given up.',
    check: check.positive,
  },
  'streaming.listen': {
    type: 'string',
    default: '127.0.0.1:0',
    comment:
      'host:port; port 0 takes any free one. The kubelet connects to it, so the default is for a kubelet on this node.',
    check: check.listen,
  },
  'streaming.tls_cert': {
    type: 'string',
    default: '',
    comment: 'PEM file of the certificate; "self-signed": one made at start; empty: plain HTTP.',
    check: check.optional(check.either('self-signed', check.absolute)),
  },
  'streaming.tls_key': {
    type: 'string',
    default: '',
    comment: 'PEM file of its key; needed with tls_cert.',
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
      'host:port of the Prometheus endpoint /metrics; empty turns it off. A second daemon on the machine needs another port.',
    check: check.optional(check.listen),
  },
  'metrics.containerd_names': {
    type: 'boolean',
    default: false,
    comment: 'Also export containerd’s names for the same things, for dashboards that have them.',
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
      'Launches (RunPodSandbox, CreateContainer, StartContainer) at work at once, and image pulls likewise. Enough to keep every stage busy, few enough that the first of a thousand pods is up long before the last is begun.',
    check: check.atLeast(1),
    machine: true,
  },
  'pipeline.max_teardowns': {
    type: 'integer',
    default: 512,
    comment:
      'Stops and removes at work at once. Far above max_running, since a stop mostly waits out its container’s grace period: a drained node stops all its pods together.',
    check: check.atLeast(1),
  },
  'pipeline.max_queued': {
    type: 'integer',
    default: 2048,
    comment: 'Jobs that may wait for a place, of each kind; one more is refused at once with RESOURCE_EXHAUSTED.',
    check: check.atLeast(0),
  },
  'pipeline.claim_ttl_seconds': {
    type: 'number',
    default: 60,
    comment: 'Seconds that a finished launch whose callers are gone waits for the retry before it is undone.',
    check: check.positive,
  },
  ...limits,
  'log.level': {
    type: 'string',
    default: 'info',
    comment: '"trace", "debug", "info", "warn" or "error".',
    check: check.oneOf('trace', 'debug', 'info', 'warn', 'error'),
  },
  'log.max_container_line': {
    type: 'integer',
    default: 16_384,
    comment: 'Bytes of content in one line of a container’s log; a longer one is split and tagged P.',
    check: check.between(256, 1 << 20),
  },
};

/** A key's default on this machine. */
export function defaultOf(key: Key, facts: Facts): KeyValue {
  return typeof key.default === 'function' ? key.default(facts) : structuredClone(key.default);
}

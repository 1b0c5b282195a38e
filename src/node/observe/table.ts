/**
 * The table of all metrics. The prom-client objects (metrics.ts), docs/operate/metrics.md and the Grafana dashboards
 * (grafana/) are made from it. Conventions: base units, the unit at the end of the name, `_total` for counters, closed
 * sets of label values. All series exist from the start, so that `rate()` counts the first event and alerts on absence
 * work.
 */
import { ImageServiceDefinition, RuntimeServiceDefinition } from '../../../proto/gen/cri.ts';
import { ADMIT, JOB_NAMES, LANES, LOCKS, POOLS, STAGE_NAMES, VERDICTS } from '../../stages.ts';
import { CONTAINER_STATES } from '../store/container.ts';
import { SANDBOX_STATES } from '../store/sandbox.ts';

/** Up to kubelet's time limit for RunPodSandbox: twice its runtimeRequestTimeout of two minutes. */
export const LATENCY_BUCKETS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 240,
];
const SPAWN_BUCKETS = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1];
const WRITE_BUCKETS = [0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 1];
const LOOP_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
const RPC_BUCKETS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 240];

const OUTCOMES = ['ok', 'error'] as const;
const WORKER_POOLS = POOLS.filter((pool) => pool !== 'main');

/** Plugins with their own label value; all others count as "other". */
export const CNI_PLUGINS = [
  'bridge',
  'ptp',
  'macvlan',
  'ipvlan',
  'vlan',
  'host-device',
  'dummy',
  'tap',
  'loopback',
  'portmap',
  'bandwidth',
  'firewall',
  'tuning',
  'sbr',
  'vrf',
  'flannel',
  'calico',
  'cilium-cni',
  'multus',
  'multus-shim',
  'aws-cni',
  'azure-vnet',
  'istio-cni',
  'kindnet',
  'antrea',
  'ovn-k8s-cni-overlay',
  'other',
] as const;

/** Names of the gRPC codes with which a CRI call may end, by number. */
export const GRPC_CODES = {
  0: 'OK',
  1: 'Canceled',
  2: 'Unknown',
  3: 'InvalidArgument',
  4: 'DeadlineExceeded',
  5: 'NotFound',
  6: 'AlreadyExists',
  8: 'ResourceExhausted',
  9: 'FailedPrecondition',
  12: 'Unimplemented',
  13: 'Internal',
  14: 'Unavailable',
} as const satisfies Record<number, string>;

/** The full name of the service of each RPC: runtime.v1.RuntimeService or runtime.v1.ImageService. */
export const RPC_SERVICES: ReadonlyMap<string, string> = new Map(
  [RuntimeServiceDefinition, ImageServiceDefinition].flatMap(({ fullName, methods }) =>
    Object.values(methods).map(({ name }) => [name, fullName] as const),
  ),
);
const RPCS: readonly string[] = [...RPC_SERVICES.keys()];

export interface MetricDefinition {
  name: string;
  type: 'counter' | 'gauge' | 'histogram';
  help: string;
  /** Section of docs/operate/metrics.md. */
  group:
    | 'jobs'
    | 'admission'
    | 'stages'
    | 'network'
    | 'shims'
    | 'images'
    | 'containers'
    | 'reliability'
    | 'daemon'
    | 'process';
  /**
   * Label names, each with all its values; an empty list means a value that is determined at the start of the daemon.
   */
  labels: Record<string, readonly string[]>;
  buckets?: readonly number[];
  /** The metric has trace ids as OpenMetrics exemplars while tracing is on. */
  exemplars?: true;
  /**
   * Which series exist from the start: all combinations of label values (by default), those of the job tables
   * ("stages", "waits"), those of the plugins in the loaded CNI configurations, or none, for info metrics, whose labels
   * are set once.
   */
  init?: 'stages' | 'waits' | 'plugins' | 'none';
  /** A conventional name that all exporters use, without Sluice's prefix. */
  common?: true;
}

export const METRICS = {
  jobDuration: {
    name: 'sluice_job_duration_seconds',
    type: 'histogram',
    help: 'A job from the arrival of its call to its end, waiting for admission and undos included.',
    group: 'jobs',
    labels: { job: JOB_NAMES, outcome: OUTCOMES },
    buckets: LATENCY_BUCKETS,
    exemplars: true,
  },
  pods: {
    name: 'sluice_pods',
    type: 'gauge',
    help: 'Pods by state of their record.',
    group: 'jobs',
    labels: { state: SANDBOX_STATES },
  },
  containers: {
    name: 'sluice_containers',
    type: 'gauge',
    help: 'Containers by state of their record.',
    group: 'jobs',
    labels: { state: CONTAINER_STATES },
  },

  admission: {
    name: 'sluice_admission_total',
    type: 'counter',
    help: 'Jobs by what admission did: admitted to run; joined to the same launch in flight; queued first; refused because the queue was full; expired or gone while queued (deadline passed, caller disconnected).',
    group: 'admission',
    labels: { lane: LANES, verdict: [...VERDICTS, 'joined'] },
  },
  laneRunning: {
    name: 'sluice_lane_running',
    type: 'gauge',
    help: 'Jobs running, by lane of admission.',
    group: 'admission',
    labels: { lane: LANES },
  },
  laneQueued: {
    name: 'sluice_lane_queued',
    type: 'gauge',
    help: 'Jobs waiting for admission, by lane.',
    group: 'admission',
    labels: { lane: LANES },
  },
  laneLimit: {
    name: 'sluice_lane_limit',
    type: 'gauge',
    help: 'Jobs that may run at once, by lane.',
    group: 'admission',
    labels: { lane: LANES },
  },
  laneQueueLimit: {
    name: 'sluice_lane_queue_limit',
    type: 'gauge',
    help: 'Jobs that may wait for admission, by lane; one more is refused.',
    group: 'admission',
    labels: { lane: LANES },
  },

  lockWait: {
    name: 'sluice_lock_wait_seconds',
    type: 'histogram',
    help: 'Waiting of one job for the lock of its pod or container, held by other jobs, after admission and before its stages. Jobs of containers share the lock of their pod, a stop or removal of the pod has it alone.',
    group: 'admission',
    labels: { lock: LOCKS, mode: ['shared', 'exclusive'] },
    buckets: LATENCY_BUCKETS,
  },
  lockWaiting: {
    name: 'sluice_lock_waiting',
    type: 'gauge',
    help: 'Jobs that wait for the lock of their pod or container.',
    group: 'admission',
    labels: { lock: LOCKS },
  },

  stageDuration: {
    name: 'sluice_stage_duration_seconds',
    type: 'histogram',
    help: 'The work of one stage of one job, without any waiting, failures included.',
    group: 'stages',
    labels: { job: JOB_NAMES, stage: STAGE_NAMES, outcome: OUTCOMES },
    buckets: LATENCY_BUCKETS,
    exemplars: true,
    init: 'stages',
  },
  stageQueue: {
    name: 'sluice_stage_queue_seconds',
    type: 'histogram',
    help: 'Waiting of one stage of one job, from the end of what it needs to its start; stage "admit" is the wait for admission.',
    group: 'stages',
    labels: { job: JOB_NAMES, stage: [ADMIT.name, ...STAGE_NAMES] },
    buckets: LATENCY_BUCKETS,
    init: 'waits',
  },
  stageRunning: {
    name: 'sluice_stage_running',
    type: 'gauge',
    help: 'Stages at work, over all jobs.',
    group: 'stages',
    labels: { stage: STAGE_NAMES },
  },
  stageQueued: {
    name: 'sluice_stage_queued',
    type: 'gauge',
    help: 'Stages whose needs are met and that wait for the limit of their stage.',
    group: 'stages',
    labels: { stage: STAGE_NAMES },
  },
  stageLimit: {
    name: 'sluice_stage_limit',
    type: 'gauge',
    help: 'How many of a stage may run at once ([pipeline.limits] in the configuration).',
    group: 'stages',
    labels: { stage: STAGE_NAMES },
  },
  undoDuration: {
    name: 'sluice_undo_duration_seconds',
    type: 'histogram',
    help: 'Undo of a stage, for a failed launch, a removal or a recovery.',
    group: 'stages',
    labels: { stage: STAGE_NAMES, outcome: OUTCOMES },
    buckets: RPC_BUCKETS,
  },

  cniDuration: {
    name: 'sluice_cni_duration_seconds',
    type: 'histogram',
    help: 'One call of one CNI plugin, process start included. Plugins without a label value of their own count as "other".',
    group: 'network',
    labels: {
      plugin: CNI_PLUGINS,
      command: ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'],
      outcome: ['ok', 'error', 'timeout'],
    },
    buckets: LATENCY_BUCKETS,
    init: 'plugins',
  },
  networkReady: {
    name: 'sluice_network_ready',
    type: 'gauge',
    help: '1 while there is a usable CNI configuration.',
    group: 'network',
    labels: {},
  },

  shims: {
    name: 'sluice_shims',
    type: 'gauge',
    help: 'Shims by state: starting, ready, unknown (did not answer in time; never killed for it), dead (ended by itself, to be cleaned up).',
    group: 'shims',
    labels: { state: ['starting', 'ready', 'unknown', 'dead'] },
  },
  spawn: {
    name: 'sluice_spawn_seconds',
    type: 'histogram',
    help: 'Time that posix_spawn blocks the calling thread, by kind of process.',
    group: 'shims',
    labels: { kind: ['cni', 'shim', 'runtime', 'other'] },
    buckets: SPAWN_BUCKETS,
  },
  shimCall: {
    name: 'sluice_shim_call_duration_seconds',
    type: 'histogram',
    help: 'One ttrpc call to a shim, by method of the task service.',
    group: 'shims',
    labels: {
      method: ['Create', 'Start', 'Kill', 'Delete', 'State', 'Stats', 'Update', 'Exec', 'Connect', 'Shutdown', 'other'],
    },
    buckets: RPC_BUCKETS,
  },

  imagePull: {
    name: 'sluice_image_pull_duration_seconds',
    type: 'histogram',
    help: 'One image pulled, whoever asked for it (PullImage, or a launch whose image was absent); joined pulls count once.',
    group: 'images',
    labels: { outcome: OUTCOMES },
    buckets: LATENCY_BUCKETS,
  },
  imagePhase: {
    name: 'sluice_image_phase_duration_seconds',
    type: 'histogram',
    help: 'A phase of a pull: resolve (manifest and config), layer (one layer downloaded, verified and unpacked in one pass; of it download, the waiting for the registry, pause, standing still for late launches, and unpack, the rest), sync (syncfs of the layers), commit (records).',
    group: 'images',
    labels: { phase: ['resolve', 'layer', 'download', 'pause', 'unpack', 'sync', 'commit'], outcome: OUTCOMES },
    buckets: LATENCY_BUCKETS,
  },
  imageBytes: {
    name: 'sluice_image_bytes_total',
    type: 'counter',
    help: 'Bytes of layers: downloaded (as the registry sent them), unpacked (uncompressed), and collected (freed because images took more than they may).',
    group: 'images',
    labels: { kind: ['downloaded', 'unpacked', 'collected'] },
  },
  imageLayers: {
    name: 'sluice_image_layers_total',
    type: 'counter',
    help: 'Layers that pulls needed: pulled, present on the node already, or joined to the same layer in flight.',
    group: 'images',
    labels: { result: ['pulled', 'present', 'joined'] },
  },
  imageJoined: {
    name: 'sluice_image_pulls_joined_total',
    type: 'counter',
    help: 'Pulls that waited for the same image in flight instead of downloading it again.',
    group: 'images',
    labels: {},
  },
  imageCancelled: {
    name: 'sluice_image_pulls_cancelled_total',
    type: 'counter',
    help: 'Pulls that were dropped because their last caller had left.',
    group: 'images',
    labels: {},
  },
  imageFailures: {
    name: 'sluice_image_pull_failures_total',
    type: 'counter',
    help: 'Pulls that failed, by the code of the error (docs/errors).',
    group: 'images',
    labels: {
      cause: [
        'INVALID_REQUEST',
        'IMAGE_NOT_FOUND',
        'IMAGE_INVALID',
        'REGISTRY_DENIED',
        'REGISTRY_UNAVAILABLE',
        'SIGNATURE_INVALID',
        'CONFIG_INVALID',
        'DISK_FULL',
        'TIMED_OUT',
        'other',
      ],
    },
  },
  imageRetries: {
    name: 'sluice_image_retries_total',
    type: 'counter',
    help: 'Requests to registries that were tried again, on the same host or the next.',
    group: 'images',
    labels: {},
  },
  imagePulling: {
    name: 'sluice_image_pulls_running',
    type: 'gauge',
    help: 'Pulls in flight.',
    group: 'images',
    labels: {},
  },
  images: {
    name: 'sluice_images',
    type: 'gauge',
    help: 'Images on the node.',
    group: 'images',
    labels: {},
  },

  logBytes: {
    name: 'sluice_container_log_bytes_total',
    type: 'counter',
    help: 'Bytes that containers wrote to their output.',
    group: 'containers',
    labels: {},
  },
  logEntries: {
    name: 'sluice_container_log_entries_total',
    type: 'counter',
    help: 'Lines in the logs of containers, the parts of a split line each.',
    group: 'containers',
    labels: {},
  },
  execs: {
    name: 'sluice_execs_total',
    type: 'counter',
    help: 'Processes started in containers by kubelet or crictl: sync (ExecSync, probes) and stream (kubectl exec).',
    group: 'containers',
    labels: { kind: ['sync', 'stream'], outcome: ['ok', 'error', 'timeout'] },
  },
  streams: {
    name: 'sluice_streaming_sessions',
    type: 'gauge',
    help: 'Open streaming sessions by kind.',
    group: 'containers',
    labels: { kind: ['exec', 'attach', 'portforward'] },
  },
  exits: {
    name: 'sluice_container_exits_total',
    type: 'counter',
    help: 'Containers that ended: zero or nonzero status, killed by a signal (status above 128), or out of memory.',
    group: 'containers',
    labels: { result: ['zero', 'nonzero', 'signal', 'oom'] },
  },
  eventsDropped: {
    name: 'sluice_events_dropped_total',
    type: 'counter',
    help: 'Container events that a slow subscriber of GetContainerEvents did not get.',
    group: 'containers',
    labels: {},
  },
  eventSubscribers: {
    name: 'sluice_event_subscribers',
    type: 'gauge',
    help: 'Open GetContainerEvents streams.',
    group: 'containers',
    labels: {},
  },

  restoreDuration: {
    name: 'sluice_restore_duration_seconds',
    type: 'gauge',
    help: 'Duration of the recovery of pods at the start of this daemon.',
    group: 'reliability',
    labels: {},
  },
  restored: {
    name: 'sluice_restored_pods',
    type: 'gauge',
    help: 'Pods that this daemon found at its start: alive, dead, unknown (shim did not answer), undone (a launch or removal the last daemon left half-way).',
    group: 'reliability',
    labels: { state: ['alive', 'dead', 'unknown', 'undone'] },
  },
  cleanupsPending: {
    name: 'sluice_cleanups_pending',
    type: 'gauge',
    help: 'Clean-ups that failed and are being retried.',
    group: 'reliability',
    labels: {},
  },
  cleanups: {
    name: 'sluice_cleanup_retries_total',
    type: 'counter',
    help: 'Retries of failed clean-ups.',
    group: 'reliability',
    labels: { outcome: OUTCOMES },
  },
  leaks: {
    name: 'sluice_leaks_total',
    type: 'counter',
    help: 'Resources found without a record that owns them, by kind.',
    group: 'reliability',
    labels: { kind: ['netns', 'address', 'mount', 'shim', 'snapshot', 'cgroup', 'bundle'] },
  },
  storeWrite: {
    name: 'sluice_store_write_seconds',
    type: 'histogram',
    help: 'One write to the store, on the main thread.',
    group: 'reliability',
    labels: {},
    buckets: WRITE_BUCKETS,
  },
  storePending: {
    name: 'sluice_store_writes_pending',
    type: 'gauge',
    help: 'Changes that could not be written to the store and are in memory alone until a retry succeeds.',
    group: 'reliability',
    labels: {},
  },

  grpcHandled: {
    name: 'sluice_grpc_handled_total',
    type: 'counter',
    help: 'CRI calls that ended, by method and gRPC code.',
    group: 'daemon',
    labels: { method: RPCS, code: Object.values(GRPC_CODES) },
  },
  grpcDuration: {
    name: 'sluice_grpc_duration_seconds',
    type: 'histogram',
    help: 'CRI calls from their arrival to their answer, by method, whatever the code.',
    group: 'daemon',
    labels: { method: RPCS },
    buckets: RPC_BUCKETS,
  },
  loopDelay: {
    name: 'sluice_event_loop_delay_seconds',
    type: 'histogram',
    help: 'How late a timer of the main thread fires, measured ten times a second.',
    group: 'daemon',
    labels: {},
    buckets: LOOP_BUCKETS,
  },
  loopDelayStat: {
    name: 'sluice_event_loop_delay_recent_seconds',
    type: 'gauge',
    help: 'The same over the last 20 s: p50, p99 and max.',
    group: 'daemon',
    labels: { stat: ['p50', 'p99', 'max'] },
  },
  loopBusy: {
    name: 'sluice_event_loop_busy_seconds_total',
    type: 'counter',
    help: 'Time that the main thread was not idle; its rate is the utilisation of the event loop.',
    group: 'daemon',
    labels: {},
  },
  poolThreads: {
    name: 'sluice_pool_threads',
    type: 'gauge',
    help: 'Worker threads, by pool.',
    group: 'daemon',
    labels: { pool: WORKER_POOLS },
  },
  poolRunning: {
    name: 'sluice_pool_running',
    type: 'gauge',
    help: 'Calls that worker threads work on, by pool.',
    group: 'daemon',
    labels: { pool: WORKER_POOLS },
  },
  poolQueued: {
    name: 'sluice_pool_queued',
    type: 'gauge',
    help: 'Calls that wait for a worker thread, by pool.',
    group: 'daemon',
    labels: { pool: WORKER_POOLS },
  },
  poolRestarts: {
    name: 'sluice_pool_restarts_total',
    type: 'counter',
    help: 'Worker threads that had to be replaced, by pool.',
    group: 'daemon',
    labels: { pool: WORKER_POOLS },
  },
  gc: {
    name: 'sluice_gc_duration_seconds',
    type: 'histogram',
    help: 'Pauses of the main thread for garbage collection, by kind.',
    group: 'daemon',
    labels: { kind: ['minor', 'major', 'incremental', 'weakcb'] },
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5],
  },
  heap: {
    name: 'sluice_heap_bytes',
    type: 'gauge',
    help: 'JavaScript heap of the main thread (used, total), and memory outside of it that objects hold (external).',
    group: 'daemon',
    labels: { kind: ['used', 'total', 'external'] },
  },
  spans: {
    name: 'sluice_trace_spans_total',
    type: 'counter',
    help: 'Spans exported to the collector, or dropped because it did not accept them.',
    group: 'daemon',
    labels: { outcome: ['exported', 'dropped'] },
  },
  buildInfo: {
    name: 'sluice_build_info',
    type: 'gauge',
    help: '1, with the versions of Sluice and Node as labels.',
    group: 'daemon',
    labels: { version: [], node: [] },
    init: 'none',
  },

  processCpu: {
    name: 'process_cpu_seconds_total',
    type: 'counter',
    help: 'User and system CPU time of all threads of the daemon.',
    group: 'process',
    labels: {},
    common: true,
  },
  processMemory: {
    name: 'process_resident_memory_bytes',
    type: 'gauge',
    help: 'Resident memory of the daemon; /debug/memory has the proportional size (PSS), which costs too much to read at each scrape.',
    group: 'process',
    labels: {},
    common: true,
  },
  processFds: {
    name: 'process_open_fds',
    type: 'gauge',
    help: 'Open file descriptors of the daemon.',
    group: 'process',
    labels: {},
    common: true,
  },
  processMaxFds: {
    name: 'process_max_fds',
    type: 'gauge',
    help: 'Limit of open file descriptors.',
    group: 'process',
    labels: {},
    common: true,
  },
  processStart: {
    name: 'process_start_time_seconds',
    type: 'gauge',
    help: 'Start of the daemon, in seconds since the epoch.',
    group: 'process',
    labels: {},
    common: true,
  },
} as const satisfies Record<string, MetricDefinition>;

export type MetricKey = keyof typeof METRICS;
export type KeyOf<T extends MetricDefinition['type']> = {
  [K in MetricKey]: (typeof METRICS)[K]['type'] extends T ? K : never;
}[MetricKey];
export type LabelsOf<K extends MetricKey> = {
  [L in keyof (typeof METRICS)[K]['labels']]: (typeof METRICS)[K]['labels'][L] extends readonly (infer V)[] ? V : never;
};

/**
 * The tables of stages, jobs, lanes and worker pools: one row each. A stage's name is the metric label, the log field,
 * the trace span and the error detail at once. Metrics and configuration are made from these rows, which is why the
 * tables stand beside errors.ts: every layer may import them, and they import nothing.
 */

/**
 * Where the work of a stage is done. `main` is the main thread, `stdio` the thread that reads containers' output, the
 * others are pools of threads.
 */
export const POOLS = ['main', 'net', 'shim', 'image', 'registry', 'store', 'stdio'] as const;
export type PoolName = (typeof POOLS)[number];

/**
 * How many of a stage run at once by default. `free`: only admission bounds it, because the stage does next to nothing
 * or merely waits for others (a pull in flight, a container's grace period). `cores`: that many times the number of
 * cores, but at least `least`.
 */
export type DefaultLimit = 'free' | { fixed: number } | { cores: number; least: number };

interface StageKind {
  meaning: string;
  pool: PoolName;
  limit: DefaultLimit;
  /**
   * Time limit in seconds: then the job fails with TIMED_OUT. Above every limit inside the stage (of a plugin run, a
   * call of the shim, a copy), whose own words say more, so that it ends only what none of them ends.
   */
  seconds: number;
}

/**
 * Work in the kernel and CNI plugins: some more than cores, so that a lock of file, xtables or rtnl is never idle, but
 * not so many that all queue on it.
 */
const KERNEL = { cores: 4, least: 8 } as const;
/** runc and shims compete for the CPU: more at once only makes each one slower. */
const PROCESS = { cores: 2, least: 4 } as const;

export const STAGES = {
  reserve: {
    meaning: 'Taking the name and writing the record that every later undo works from.',
    pool: 'main',
    limit: 'free',
    seconds: 30,
  },
  netns: { meaning: 'Making (or removing) the pod’s network namespace.', pool: 'net', limit: KERNEL, seconds: 60 },
  network: { meaning: 'CNI ADD, or DEL on the way down.', pool: 'net', limit: KERNEL, seconds: 300 },
  image: {
    meaning: 'Finding the image on the node, pulling it when absent.',
    pool: 'main',
    limit: 'free',
    seconds: 21600,
  },
  rootfs: {
    meaning: 'Preparing the writable snapshot and the mounts on top of the image’s layers.',
    pool: 'shim',
    limit: KERNEL,
    seconds: 120,
  },
  files: {
    meaning:
      'The pod’s folders, hostname, hosts, resolv.conf and shm; those of a pinned sandbox with its first container.',
    pool: 'shim',
    limit: KERNEL,
    seconds: 120,
  },
  bundle: {
    meaning: 'Writing the bundle of a container.',
    pool: 'shim',
    limit: KERNEL,
    seconds: 120,
  },
  spec: { meaning: 'Building the OCI runtime spec.', pool: 'main', limit: KERNEL, seconds: 60 },
  shim: {
    meaning: 'Writing the bundle and starting the shim, or ending it.',
    pool: 'shim',
    limit: PROCESS,
    seconds: 120,
  },
  create: { meaning: 'Task.Create: the shim runs `runc create`.', pool: 'main', limit: PROCESS, seconds: 180 },
  start: { meaning: 'Task.Start: the shim runs `runc start`.', pool: 'main', limit: PROCESS, seconds: 180 },
  ready: { meaning: 'Recording the new state and publishing the event.', pool: 'main', limit: 'free', seconds: 30 },
  user: {
    meaning: 'Looking the user and groups up in the image’s own passwd and group files.',
    pool: 'shim',
    limit: KERNEL,
    seconds: 60,
  },
  paths: {
    meaning: 'Looking at the paths of the host that the container names: mounts, devices, seccomp profile.',
    pool: 'shim',
    limit: 'free',
    seconds: 60,
  },
  volumes: { meaning: 'Image volumes and volumes the image declares.', pool: 'shim', limit: KERNEL, seconds: 900 },
  io: { meaning: 'FIFOs and the log file.', pool: 'stdio', limit: KERNEL, seconds: 60 },
  kill: { meaning: 'Signalling, and waiting for the end.', pool: 'main', limit: 'free', seconds: 300 },
  forget: { meaning: 'Deleting the record, which gives the name back.', pool: 'main', limit: 'free', seconds: 30 },
  resolve: {
    meaning: 'Asking the registry for the manifest and the config.',
    pool: 'registry',
    limit: { fixed: 16 },
    seconds: 900,
  },
  layers: {
    meaning: 'Downloading, verifying and unpacking layers.',
    pool: 'image',
    limit: PROCESS,
    seconds: 21600,
  },
  commit: { meaning: 'Recording the image under its names.', pool: 'main', limit: { fixed: 16 }, seconds: 60 },
} as const satisfies Record<string, StageKind>;

export type StageName = keyof typeof STAGES;
export const STAGE_NAMES = Object.keys(STAGES) as StageName[];

/** The wait for admission, measured like the queue of a stage and shown before the first one. */
export const ADMIT = { name: 'admit', meaning: 'Waiting for a place among the running jobs.' } as const;
/** What a queue wait is measured for: admission, or a stage. */
export type QueueName = StageName | typeof ADMIT.name;

/** What jobs lock: containers' jobs share their pod's lock, and hold that of their container alone. */
export const LOCKS = ['pod', 'container'] as const;
export type LockKind = (typeof LOCKS)[number];

/**
 * Lanes of admission. Each has its own limit and its own queue: teardowns never wait behind launches (their finishing
 * is what makes room for launches, and most of them only wait out a grace period), and a pull of minutes takes no
 * launch's place.
 */
export const LANES = ['launch', 'teardown', 'image'] as const;
export type Lane = (typeof LANES)[number];

/** What admission does with a job that asks for a place. */
export const VERDICTS = ['admitted', 'queued', 'refused', 'expired', 'gone'] as const;
export type Verdict = (typeof VERDICTS)[number];

/**
 * Jobs: the CRI calls that change something, each with its lane. Their tables of stages are in
 * src/pipeline/jobs/tables.
 */
export const JOBS = {
  RunPodSandbox: { lane: 'launch' },
  StopPodSandbox: { lane: 'teardown' },
  RemovePodSandbox: { lane: 'teardown' },
  CreateContainer: { lane: 'launch' },
  StartContainer: { lane: 'launch' },
  StopContainer: { lane: 'teardown' },
  RemoveContainer: { lane: 'teardown' },
  PullImage: { lane: 'image' },
} as const satisfies Record<string, { lane: Lane }>;

export type JobName = keyof typeof JOBS;
export const JOB_NAMES = Object.keys(JOBS) as JobName[];

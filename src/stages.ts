/**
 * The names of all stages and jobs, each once. A name is the metric label, the log field, the trace span and the error detail
 * at the same time; docs/stages.md is checked against the meanings here.
 */
export const STAGES = {
  admit: 'Waiting for a place among the running jobs.',
  reserve: 'Taking the name and writing the record that every later undo works from.',
  netns: 'Making (or removing) the pod’s network namespace.',
  network: 'CNI ADD, or DEL on the way down.',
  image: 'Finding the image on the node, pulling it when absent.',
  rootfs: 'Preparing the writable snapshot and the mounts on top of the image’s layers.',
  files: 'The pod’s folders, hostname, hosts, resolv.conf and shm.',
  spec: 'Building the OCI runtime spec.',
  shim: 'Writing the bundle and starting the shim, or ending it.',
  create: 'Task.Create: the shim runs `runc create`.',
  start: 'Task.Start: the shim runs `runc start`.',
  ready: 'Marking the pod or container ready and telling the world.',
  user: 'Looking the user and groups up in the image’s own passwd and group files.',
  volumes: 'Image volumes and volumes the image declares.',
  io: 'FIFOs and the log file.',
  kill: 'Signalling, and waiting for the end.',
  task: 'Deleting the task from the shim.',
  forget: 'Deleting the record, which gives the name back.',
  resolve: 'Asking the registry for the manifest and the config.',
  layers: 'Downloading, verifying and unpacking layers.',
  commit: 'Recording the image under its names.',
} as const;

export type StageName = keyof typeof STAGES;

/** Jobs: the CRI calls that change something. */
export const JOBS = [
  'RunPodSandbox',
  'StopPodSandbox',
  'RemovePodSandbox',
  'CreateContainer',
  'StartContainer',
  'StopContainer',
  'RemoveContainer',
  'PullImage',
] as const;

export type JobName = (typeof JOBS)[number];

/** Where a stage's work is done. */
export const POOLS = ['main', 'net', 'shim', 'image', 'registry', 'stdio'] as const;
export type PoolName = (typeof POOLS)[number];

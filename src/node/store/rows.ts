/**
 * What survives the daemon. A row is written before the resources it names exist and holds everything their undo needs; the
 * undo takes the row, never memory of the launch.
 */
import type { ContainerConfig, PodSandboxConfig } from '../../../proto/gen/cri.ts';
import type { CniAttachment, CniResult } from '../../workers/net/types.ts';
import type { Row } from './table.ts';

/**
 * creating → ready → (notready →) stopped → removing. `notready`: the pause process is gone, network and the rest are still held.
 * `creating` and `removing` rows are undone by the next start of the daemon.
 */
export type SandboxState = 'creating' | 'ready' | 'notready' | 'stopped' | 'removing';

export interface SandboxRow extends Row {
  /** 64 hex digits. */
  id: string;
  /** name_namespace_uid_attempt: the key of a launch, unique among all rows. */
  name: string;
  state: SandboxState;
  /** Nanoseconds since the epoch; 0 until ready. */
  createdAt: bigint;
  config: PodSandboxConfig;
  /** As the caller gave it; "" is the default. */
  runtimeHandler: string;
  /** The name in [runtimes] that the handler led to. */
  runtime: string;
  /** Path of the pinned network namespace; "" on the host network. */
  netns: string;
  /** Everything CNI DEL needs, written before ADD; absent on the host network, and again once DEL has succeeded. */
  network?: CniAttachment;
  /** What ADD answered. */
  result?: CniResult;
  /** Primary address first. */
  addresses: string[];
  /** Id of the sandbox image; "" until known. */
  image: string;
  /** Key of the writable snapshot. */
  snapshot: string;
  /** Folder of the bundle, under the state folder. */
  bundle: string;
  /** Folder with hostname, hosts and resolv.conf, under the root folder. */
  rootDir: string;
  /** Folder with shm, under the state folder. */
  stateDir: string;
  shim?: ShimRow;
  /** The shim has been seen to end, and nothing of it is left. */
  shimEnded?: boolean;
  /** Pid of the pause process, in the host's pid namespace; 0 until started. */
  pid: number;
  /** Pinned user namespace, for pods that have one of their own. */
  userns?: string;
  /** Clean-up that failed and is being retried, with the reason. */
  cleanup?: { failed: string; attempts: number };
}

/** How to reach a running shim. */
export interface ShimRow {
  /** Absolute path of the shim's program, for its `delete` action. */
  binary: string;
  /** Socket path, without a scheme. */
  address: string;
  /** Version of the task service it speaks. */
  version: 2 | 3;
}

/** `starting`: between the first word to the shim and `running`; CRI shows it as created. */
export type ContainerState = 'creating' | 'created' | 'starting' | 'running' | 'exited' | 'removing';

export interface ContainerRow extends Row {
  id: string;
  /** container_pod_namespace_uid_attempt. */
  name: string;
  sandbox: string;
  state: ContainerState;
  config: ContainerConfig;
  /** Id of the image (config digest). */
  image: string;
  /** Nanoseconds since the epoch, 0 for what has not happened. */
  createdAt: bigint;
  startedAt: bigint;
  finishedAt: bigint;
  exitCode: number;
  reason: string;
  message: string;
  pid: number;
  snapshot: string;
  bundle: string;
  rootDir: string;
  stateDir: string;
  /** Absolute path of the log; "" when the output is not kept. */
  logPath: string;
  /** FIFOs; a path is "" where the stream is not there. */
  io: { stdin: string; stdout: string; stderr: string };
  /** Who the first process is, as it was resolved. */
  user?: { uid: number; gid: number; groups: number[] };
  /** Mounts as ContainerStatus shows them, when they differ from the config's (image volumes with their digest). */
  imageMounts?: { containerPath: string; imageRef: string }[];
  /** Folders that image VOLUMEs were copied to, by path in the container. */
  volumes: Record<string, string>;
  cgroupsPath: string;
  /** The end is known, but the shim could not delete the task: why. Until it is gone the shim will not end either. */
  taskKept?: string;
  /** Name of the signal that StopContainer sends, of the request or the image. */
  stopSignal: string;
  cleanup?: { failed: string; attempts: number };
}

/** What stats are wanted of, in plain values from the rows: the verbs fill these in, nothing below them knows the store. */
import type { ContainerAttributes, PodSandboxAttributes } from '../../../proto/gen/cri.ts';

export interface ContainerSubject {
  id: string;
  attributes: ContainerAttributes;
  /** Name of the image as the user wrote it, a metric label. */
  image: string;
  /** First process; 0 when there is none. */
  pid: number;
  /** linux.cgroupsPath of its OCI spec. */
  cgroupsPath: string;
  /** Folder of the writable layer (overlay's upperdir); "" when there is none. */
  upperDir: string;
  /** What ImageFsInfo calls the file system of the snapshots: the kubelet joins the two by it. */
  fsMountpoint: string;
  /** Nanoseconds since the epoch. */
  startedAt: bigint;
  /** CPU shares that were asked for; v2 can only compute them back. */
  cpuShares?: bigint;
}

export interface PodSubject {
  id: string;
  attributes: PodSandboxAttributes;
  /** The CRI's linux.cgroup_parent; "" when the pod has no cgroup of its own. */
  cgroupParent: string;
  /** linux.cgroupsPath of the pause container's OCI spec. */
  cgroupsPath: string;
  /** The pause process. */
  pid: number;
  /** Path of the pinned network namespace; "" on the host network. */
  netns: string;
  /** Those that run. */
  containers: ContainerSubject[];
}

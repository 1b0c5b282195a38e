/**
 * Inputs of stats, as plain values: the CRI verbs fill them in from the store's rows, so that stats do not depend on
 * the store.
 */
import type { ContainerAttributes, PodSandboxAttributes } from '../../../proto/gen/cri.ts';

export interface ContainerSubject {
  id: string;
  attributes: ContainerAttributes;
  /** Name of the image as in the request; a metric label. */
  image: string;
  /** Pid of the first process; 0 when there is none. */
  pid: number;
  /** linux.cgroupsPath of the container's OCI spec. */
  cgroupsPath: string;
  /** Folder of the writable layer (overlay's upperdir); "" when there is none. */
  upperDir: string;
  /** Mount point of the snapshots' file system as in ImageFsInfo; the kubelet matches the two by it. */
  fsMountpoint: string;
  /** Nanoseconds since the epoch. */
  startedAt: bigint;
  /** CPU shares of the request, because cgroup v2 has only a weight, which is rounded. */
  cpuShares?: bigint;
}

export interface PodSubject {
  id: string;
  attributes: PodSandboxAttributes;
  /** linux.cgroup_parent of the CRI request; "" when the pod has no cgroup of its own. */
  cgroupParent: string;
  /** linux.cgroupsPath of the pause container's OCI spec. */
  cgroupsPath: string;
  /** Pid of the pause process. */
  pid: number;
  /** Path of the pinned network namespace; "" on the host network. */
  netns: string;
  /** The running containers. */
  containers: ContainerSubject[];
}

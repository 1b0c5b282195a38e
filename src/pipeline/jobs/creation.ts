import type { ImageRow } from '../../node/images/rows.ts';
import type { User } from '../../node/oci/types.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { ContainerRow, SandboxRow } from '../../node/store/rows.ts';
import type { JobState } from '../engine/stage.ts';

/** What a container's creation knows while it runs. */
export interface ContainerCreation extends JobState<ContainerRow> {
  sandbox: SandboxRow;
  image?: ImageRow;
  user?: User;
  /** Image volumes: the folder on the host, by path in the container. */
  imageVolumes?: Record<string, string>;
  /** config.json, as text. */
  spec?: string;
}

export interface ContainerStart extends JobState<ContainerRow> {
  sandbox: SandboxRow;
  shim: Shim;
}

export interface ContainerStop extends JobState<ContainerRow> {
  /** Undefined when the pod's shim is dead, and the container with it. */
  shim: Shim | undefined;
  /** Seconds between the stop signal and SIGKILL; 0: SIGKILL at once. */
  graceSeconds: number;
}

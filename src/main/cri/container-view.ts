import {
  type Container,
  ContainerState,
  type ContainerStatus,
  type ImageSpec,
  type Mount,
} from '../../../proto/gen/cri.ts';
import { criSignal } from '../../node/oci/signals.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { CriServices as Node } from './services.ts';

const STATES = {
  creating: ContainerState.CONTAINER_UNKNOWN,
  created: ContainerState.CONTAINER_CREATED,
  starting: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_EXITED,
  removing: ContainerState.CONTAINER_UNKNOWN,
} as const satisfies Record<ContainerRow['state'], ContainerState>;

/** Is the container there for clients? Not before its id is known to anyone, and not while a failed creation is cleaned up. */
export function visibleContainer(row: ContainerRow): boolean {
  return row.state !== 'creating' && row.cleanup === undefined;
}

/** A container that is being removed is what it was before: it ended, or never ran. */
export function containerState(row: ContainerRow): ContainerState {
  if (row.state !== 'removing') return STATES[row.state];
  return row.finishedAt === 0n && row.startedAt === 0n
    ? ContainerState.CONTAINER_CREATED
    : ContainerState.CONTAINER_EXITED;
}

/** All ids of an image are the digest of its config: critest compares them with what PullImage answered. */
export function toContainer(row: ContainerRow): Container {
  return {
    id: row.id,
    podSandboxId: row.sandbox,
    metadata: row.config.metadata,
    image: row.config.image,
    imageRef: row.image,
    imageId: row.image,
    state: containerState(row),
    createdAt: row.createdAt,
    labels: row.config.labels,
    annotations: row.config.annotations,
  };
}

export function toContainerStatus(node: Node, row: ContainerRow): ContainerStatus {
  const exited = row.state === 'exited' || row.state === 'removing';
  return {
    id: row.id,
    metadata: row.config.metadata,
    state: containerState(row),
    createdAt: row.createdAt,
    startedAt: row.startedAt,
    finishedAt: exited ? row.finishedAt : 0n,
    exitCode: exited ? row.exitCode : 0,
    image: imageSpec(node, row),
    imageRef: imageRef(node, row),
    imageId: row.image,
    reason: exited ? row.reason : '',
    message: exited ? row.message : '',
    labels: row.config.labels,
    annotations: row.config.annotations,
    mounts: row.config.mounts.map((mount) => mountView(row, mount)),
    logPath: row.logPath,
    resources: { linux: row.config.linux?.resources, windows: undefined },
    user: row.user && {
      linux: {
        uid: BigInt(row.user.uid),
        gid: BigInt(row.user.gid),
        supplementalGroups: row.user.groups.map(BigInt),
      },
    },
    stopSignal: row.stopSignal === '' ? 0 : criSignal(row.stopSignal),
  };
}

/** The image under its first tag, as people know it. */
function imageSpec(node: Node, row: ContainerRow): ImageSpec | undefined {
  const asked = row.config.image;
  const tag = node.images.find(row.image)?.names.find((name) => !name.includes('@'));
  return asked && { ...asked, image: tag ?? asked.image };
}

/** The digest by which the image was pulled, or its id when it has none (the built-in image, an image whose names are gone). */
function imageRef(node: Node, row: ContainerRow): string {
  return node.images.find(row.image)?.names.find((name) => name.includes('@')) ?? row.image;
}

/** An image volume names the image it really is. */
function mountView(row: ContainerRow, mount: Mount): Mount {
  const volume = row.imageMounts?.find(({ containerPath }) => containerPath === mount.containerPath);
  return volume && mount.image ? { ...mount, image: { ...mount.image, imageRef: volume.imageRef } } : mount;
}

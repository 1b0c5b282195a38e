/** Pods, containers and images as CRI shows them, from their rows; and which of them clients see at all. */
import {
  type Container,
  ContainerState,
  type ContainerStatus,
  type Image,
  type ImageSpec,
  type Mount,
  type PodSandbox,
  PodSandboxState,
  type PodSandboxStatus,
} from '../../../proto/gen/cri.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import { criSignal } from '../../node/oci/signals.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { type Fields, itemOf } from './encoded-items.ts';
import type { CriServices } from './services.ts';

type Images = Pick<CriServices['images'], 'find' | 'isPinned'>;

/**
 * Do clients see the pod? Not while it is being launched, when nobody has its id, and not while a failed launch is
 * being cleaned up. A removal that kubelet asked for stays listed until it has succeeded.
 */
export function visibleSandbox(row: SandboxRow): boolean {
  return row.state !== 'creating' && row.cleanup === undefined;
}

export function sandboxState(row: SandboxRow): PodSandboxState {
  return row.state === 'ready' ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
}

/** A pod in lists. */
export const POD_FIELDS: Fields<SandboxRow, PodSandbox> = {
  id: (row) => row.id,
  metadata: (row) => row.config.metadata,
  state: sandboxState,
  createdAt: (row) => row.createdAt,
  labels: (row) => row.config.labels,
  annotations: (row) => row.config.annotations,
  runtimeHandler: (row) => row.runtimeHandler,
};

/** Pods on the host network have `network` too, with an empty ip: kubelet fills in the node's. */
export function toPodSandboxStatus(row: SandboxRow): PodSandboxStatus {
  const [ip = '', ...others] = row.state === 'stopped' ? [] : row.addresses;
  return {
    ...itemOf(POD_FIELDS, row),
    network: { ip, additionalIps: others.map((address) => ({ ip: address })) },
    linux: { namespaces: { options: row.config.linux?.securityContext?.namespaceOptions } },
  };
}

const CONTAINER_STATES = {
  creating: ContainerState.CONTAINER_UNKNOWN,
  created: ContainerState.CONTAINER_CREATED,
  starting: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_EXITED,
  removing: ContainerState.CONTAINER_UNKNOWN,
} as const satisfies Record<ContainerRow['state'], ContainerState>;

/** Do clients see the container? Not before its id is out, and not while a failed creation is being cleaned up. */
export function visibleContainer(row: ContainerRow): boolean {
  return row.state !== 'creating' && row.cleanup === undefined;
}

/** A container that is being removed keeps the state it had: exited, or created when it never ran. */
export function containerState(row: ContainerRow): ContainerState {
  if (row.state !== 'removing') return CONTAINER_STATES[row.state];
  return row.finishedAt === 0n && row.startedAt === 0n
    ? ContainerState.CONTAINER_CREATED
    : ContainerState.CONTAINER_EXITED;
}

/** A container in lists. All ids of an image are the digest of its config: critest compares them with PullImage's. */
export const CONTAINER_FIELDS: Fields<ContainerRow, Container> = {
  id: (row) => row.id,
  podSandboxId: (row) => row.sandbox,
  metadata: (row) => row.config.metadata,
  image: (row) => row.config.image,
  imageRef: (row) => row.image,
  imageId: (row) => row.image,
  state: containerState,
  createdAt: (row) => row.createdAt,
  labels: (row) => row.config.labels,
  annotations: (row) => row.config.annotations,
};

export function toContainerStatus(images: Images, row: ContainerRow): ContainerStatus {
  const exited = row.state === 'exited' || row.state === 'removing';
  return {
    id: row.id,
    metadata: row.config.metadata,
    state: containerState(row),
    createdAt: row.createdAt,
    startedAt: row.startedAt,
    finishedAt: exited ? row.finishedAt : 0n,
    exitCode: exited ? row.exitCode : 0,
    image: imageSpec(images, row),
    imageRef: imageRef(images, row),
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

/** The image under its first tag, which is the name that people use. */
function imageSpec(images: Images, row: ContainerRow): ImageSpec | undefined {
  const asked = row.config.image;
  const tag = images.find(row.image)?.names.find((name) => !isDigest(name));
  return asked && { ...asked, image: tag ?? asked.image };
}

/**
 * The digest by which the image was pulled; its id when it has none (the built-in image, an image whose names were
 * removed).
 */
function imageRef(images: Images, row: ContainerRow): string {
  return images.find(row.image)?.names.find(isDigest) ?? row.image;
}

/** An image volume shows the id of the image that is mounted, not the name it was asked for by. */
function mountView(row: ContainerRow, mount: Mount): Mount {
  const volume = row.imageMounts?.find(({ containerPath }) => containerPath === mount.containerPath);
  return volume && mount.image ? { ...mount, image: { ...mount.image, imageRef: volume.imageRef } } : mount;
}

export function toImage(images: Images, row: ImageRow): Image {
  return {
    id: row.id,
    repoTags: row.names.filter((name) => !isDigest(name)),
    repoDigests: row.names.filter(isDigest),
    size: BigInt(row.size),
    ...userOf(row.config.User ?? ''),
    spec: { image: '', annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' },
    pinned: images.isPinned(row),
  };
}

const isDigest = (name: string) => name.includes('@');

/**
 * The user in the image's config without its group: a number or a name, root when empty. kubelet's runAsNonRoot reads
 * it.
 */
function userOf(user: string): Pick<Image, 'uid' | 'username'> {
  const [name = ''] = user.split(':');
  if (name === '') return { uid: { value: 0n }, username: '' };
  return /^\d+$/.test(name) ? { uid: { value: BigInt(name) }, username: '' } : { uid: undefined, username: name };
}

import { posix } from 'node:path';
import { type ContainerConfig, type Mount as CriMount, MountPropagation } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { isUnder, type MountPoint, mountOf } from '../../sys/mountinfo.ts';
import type { RuntimeFeatures } from './host.ts';
import type { IdMapping, Linux, Mount } from './types.ts';
import { idMappings } from './userns.ts';

/** Paths on the host of the pod's own files. An undefined file is not mounted. */
export interface PodFiles {
  hostname?: string;
  hosts?: string;
  resolvConf?: string;
  /** The pod's shm mount, or /dev/shm for pods in the host's IPC namespace. */
  shm?: string;
}

export interface MountInput {
  config: Pick<ContainerConfig, 'mounts'>;
  /** The default mounts (/proc, /dev, ...), in mount order. */
  defaults: readonly Mount[];
  files: PodFiles;
  /** Folders on the host for the image's VOLUMEs, by path in the container. */
  volumes: Readonly<Record<string, string>>;
  /** Paths of image volumes on the host, image_sub_path included, by container_path. */
  imageVolumes: Readonly<Record<string, string>>;
  /** Real paths by host_path, for every host_path that is or contains a symlink. */
  realPaths: Readonly<Record<string, string>>;
  /** The mounts that contain the real paths of host_path, which mounts with propagation are checked against. */
  mountTable: readonly MountPoint[];
  readonlyRootfs: boolean;
  features: RuntimeFeatures;
  /** Mappings of the pod's own user namespace; undefined in the host's. */
  userns: { uids: IdMapping[]; gids: IdMapping[] } | undefined;
}

/**
 * All mounts of a container, in mount order: the defaults, then the pod's files, the image's VOLUMEs and the mounts of
 * the request, these three sorted so that an outer mount precedes those below it. A mount of the request replaces any
 * other at its path and all defaults below it, so that a request which brings its own /dev or /sys gets nothing else
 * there.
 *
 * Throws INVALID_REQUEST for combinations that the node cannot offer, with the kubelet reason RROUnsupported where that
 * is the cause.
 */
export function containerMounts(input: MountInput): Pick<Linux, 'rootfsPropagation'> & { mounts: Mount[] } {
  let rootfsPropagation: Linux['rootfsPropagation'];
  const asked = new Map<string, Mount>();
  for (const mount of input.config.mounts) {
    const built = criMount(mount, input);
    asked.set(built.destination, built); // of two mounts at one path the later would hide the earlier
    const propagation = mount.propagation;
    if (propagation === MountPropagation.PROPAGATION_BIDIRECTIONAL) rootfsPropagation = 'rshared';
    else if (propagation === MountPropagation.PROPAGATION_HOST_TO_CONTAINER) rootfsPropagation ??= 'rslave';
  }
  const own = new Map<string, Mount>();
  // The pod's files replace an image's VOLUME at the same path (some images declare /dev/shm as one).
  for (const mount of [...volumes(input), ...podFiles(input)]) {
    if (!asked.has(mount.destination)) own.set(mount.destination, mount);
  }
  const added = outerFirst([...own.values(), ...asked.values()]);
  const taken = new Set(added.map(({ destination }) => destination));
  const kept = input.defaults.filter(
    ({ destination }) => !taken.has(destination) && !asked.keys().some((path) => isUnder(destination, path)),
  );
  return { mounts: [...kept, ...added], rootfsPropagation };
}

/** Stable sort by the number of path components, so that no mount hides another below it. */
export function outerFirst(mounts: readonly Mount[]): Mount[] {
  const depth = ({ destination }: Mount) => destination.split('/').filter(Boolean).length;
  return mounts.toSorted((a, b) => depth(a) - depth(b));
}

/**
 * Mount of the cgroup tree. `hostOptions` are those of the host's cgroup2 mount: all mounts of cgroup2 share one
 * superblock, so outside of a cgroup namespace a mount without them would remove them from the host.
 */
export function cgroupMount(writable: boolean, hostOptions: readonly string[]): Mount {
  const options = ['nosuid', 'noexec', 'nodev', 'relatime', writable ? 'rw' : 'ro', ...hostOptions];
  return { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options };
}

/**
 * ID mappings for files that root owns on the host: without them they would belong to nobody (65534) in the user
 * namespace. Empty when the runtime has no idmapped mounts; the files are then readable only.
 */
function mapped({ userns, features }: MountInput): Pick<Mount, 'uidMappings' | 'gidMappings'> {
  return userns !== undefined && features.idmap ? { uidMappings: userns.uids, gidMappings: userns.gids } : {};
}

function podFiles(input: MountInput): Mount[] {
  const { files, readonlyRootfs } = input;
  const mode = readonlyRootfs ? 'ro' : 'rw';
  const ids = mapped(input);
  const file = (destination: string, source: string | undefined): Mount[] =>
    source === undefined ? [] : [{ destination, type: 'bind', source, options: ['rbind', 'rprivate', mode], ...ids }];
  const mounts = [
    ...file('/etc/hostname', files.hostname),
    ...file('/etc/hosts', files.hosts),
    ...file('/etc/resolv.conf', files.resolvConf),
  ];
  if (files.shm !== undefined) {
    // No mapping: root of the pod's user namespace owns the files, and tmpfs has no idmapped mounts before Linux 6.3.
    mounts.push({ destination: '/dev/shm', type: 'bind', source: files.shm, options: ['rbind', 'rprivate', 'rw'] });
  }
  return mounts;
}

function volumes(input: MountInput): Mount[] {
  return Object.entries(input.volumes).map(([path, source]) => ({
    destination: destinationOf(path),
    type: 'bind',
    source,
    options: ['rbind', 'rprivate', 'rw'],
    ...mapped(input),
  }));
}

function criMount(mount: CriMount, input: MountInput): Mount {
  const destination = destinationOf(mount.containerPath);
  if (destination === '/') throw refused(mount, 'nothing can be mounted on the root');
  const isImage = mount.image !== undefined && mount.image.image !== '';
  const source = isImage
    ? input.imageVolumes[mount.containerPath]
    : (input.realPaths[mount.hostPath] ?? mount.hostPath);
  if (source === undefined) throw refused(mount, 'the image volume has not been mounted');
  const result: Mount = {
    destination,
    type: 'bind',
    source,
    options: [
      'rbind',
      propagationOption(mount, source, input.mountTable),
      readonlyOption(mount, input.features),
      ...extraOptions(mount),
    ],
  };
  // The layers of an image volume are already idmapped, and an overlay mount cannot be.
  if (!isImage && mount.uidMappings.length + mount.gidMappings.length > 0) {
    // A runtime without the feature ignores the fields; the volume's files would then belong to nobody (65534).
    if (!input.features.idmap)
      throw refused(
        mount,
        'the runtime has no idmapped mounts (they need runc 1.2 or newer and a shim of containerd 2.0 or newer)',
      );
    result.uidMappings = idMappings(mount.uidMappings);
    result.gidMappings = idMappings(mount.gidMappings);
  }
  return result;
}

/** The path in the container as an absolute, normalised path without a trailing slash. */
export function destinationOf(containerPath: string): string {
  const path = posix.join('/', containerPath);
  return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path;
}

/**
 * Throws INVALID_REQUEST when recursive_read_only is combined with a writable mount or with propagation. Independent of
 * the host, so validate.ts checks it before anything is reserved.
 */
export function checkReadonly(mount: CriMount): void {
  if (!mount.recursiveReadOnly) return;
  if (!mount.readonly) throw refused(mount, 'recursive_read_only needs readonly');
  if (mount.propagation !== MountPropagation.PROPAGATION_PRIVATE) {
    throw refused(mount, 'recursive_read_only needs private propagation');
  }
}

function readonlyOption(mount: CriMount, features: RuntimeFeatures): string {
  checkReadonly(mount);
  if (!mount.readonly) return 'rw';
  if (!mount.recursiveReadOnly) return 'ro';
  if (!features.recursiveReadOnly) {
    throw new SluiceError(
      'INVALID_REQUEST',
      `the runtime cannot make mounts recursively read-only (${mount.hostPath} on ${mount.containerPath})`,
      { kubeletReason: 'RROUnsupported' },
    );
  }
  return 'rro';
}

function propagationOption(mount: CriMount, source: string, table: readonly MountPoint[]): string {
  switch (mount.propagation) {
    case MountPropagation.PROPAGATION_BIDIRECTIONAL: {
      const on = mountOf(table, source);
      if (on?.shared !== true) throw notPropagated(mount, source, on, 'a shared');
      return 'rshared';
    }
    case MountPropagation.PROPAGATION_HOST_TO_CONTAINER: {
      const on = mountOf(table, source);
      if (on?.shared !== true && on?.slave !== true) throw notPropagated(mount, source, on, 'a shared or slave');
      return 'rslave';
    }
    default:
      return 'rprivate';
  }
}

const EXTRA_OPTIONS = new Set(['noexec', 'nosuid', 'nodev', 'noatime', 'nodiratime', 'relatime', 'nosymfollow']);

/** mount_options (CRI 1.37). Only options that restrict are accepted. */
function extraOptions(mount: CriMount): string[] {
  for (const option of mount.mountOptions) {
    if (!EXTRA_OPTIONS.has(option)) throw refused(mount, `mount_options: "${option}" is not supported`);
  }
  return mount.mountOptions;
}

function notPropagated(mount: CriMount, source: string, on: MountPoint | undefined, kind: string): SluiceError {
  return refused(mount, `path "${source}" is mounted on "${on?.mountPoint ?? '?'}" but it is not ${kind} mount`);
}

function refused(mount: CriMount, what: string): SluiceError {
  return new SluiceError('INVALID_REQUEST', `mounts: ${mount.containerPath}: ${what}`);
}

import { posix } from 'node:path';
import { type ContainerConfig, type Mount as CriMount, MountPropagation } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { MountPoint } from '../../sys/mountinfo.ts';
import type { RuntimeFeatures } from './host.ts';
import { isUnder, mountOf } from './mount-table.ts';
import type { IdMapping, Linux, Mount } from './types.ts';
import { idMappings } from './userns.ts';

/** The pod's own files, as paths on the host; one that is missing is left out. */
export interface PodFiles {
  hostname?: string;
  hosts?: string;
  resolvConf?: string;
  /** The pod's shm, or /dev/shm for pods on the host's IPC. */
  shm?: string;
}

export interface MountInput {
  config: Pick<ContainerConfig, 'mounts'>;
  /** /proc, /dev and so on, in the order in which they are mounted. */
  defaults: readonly Mount[];
  files: PodFiles;
  /** The image's VOLUMEs: folders on the host, by path in the container. */
  volumes: Readonly<Record<string, string>>;
  /** Image volumes: where the image is mounted on the host (sub path included), by path in the container. */
  imageVolumes: Readonly<Record<string, string>>;
  /** Real paths by host_path, for those that are or contain symlinks. */
  realPaths: Readonly<Record<string, string>>;
  /** Read afresh when {@link needsMountTable} says so. */
  mountTable: readonly MountPoint[];
  readonlyRootfs: boolean;
  features: RuntimeFeatures;
  /** The pod's user namespace, for its own files. */
  userns: { uids: IdMapping[]; gids: IdMapping[] } | undefined;
}

/** Must the mount table be read for this container? Only propagation looks at it. */
export function needsMountTable(config: Pick<ContainerConfig, 'mounts'>): boolean {
  return config.mounts.some(({ propagation }) => propagation !== MountPropagation.PROPAGATION_PRIVATE);
}

/**
 * All mounts of a container, in order: defaults, then the pod's files, the image's VOLUMEs and the request's mounts, outer before inner.
 * One of the request's takes the place of any other at its path, and of all defaults below it (a /dev or /sys of one's own comes whole).
 *
 * Throws INVALID_REQUEST for combinations that the node cannot offer, with the kubelet reason RROUnsupported where that is the cause.
 */
export function containerMounts(input: MountInput): Pick<Linux, 'rootfsPropagation'> & { mounts: Mount[] } {
  let rootfsPropagation: Linux['rootfsPropagation'];
  const asked = new Map<string, Mount>();
  for (const mount of input.config.mounts) {
    const built = criMount(mount, input);
    asked.set(built.destination, built); // the last of two at one path is the one that would have been seen
    const propagation = mount.propagation;
    if (propagation === MountPropagation.PROPAGATION_BIDIRECTIONAL) rootfsPropagation = 'rshared';
    else if (propagation === MountPropagation.PROPAGATION_HOST_TO_CONTAINER) rootfsPropagation ??= 'rslave';
  }
  const own = new Map<string, Mount>();
  // The pod's files stay visible even where an image declares a VOLUME at the same path (some do, for /dev/shm).
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

/** Sorts by the number of path components and otherwise leaves the order, so that no mount hides another below it. */
export function outerFirst(mounts: readonly Mount[]): Mount[] {
  const depth = ({ destination }: Mount) => destination.split('/').filter(Boolean).length;
  return mounts.toSorted((a, b) => depth(a) - depth(b));
}

/** The cgroup tree as the container sees it; `hostOptions` belong to the one superblock of cgroup2 and must be repeated without a cgroup namespace. */
export function cgroupMount(writable: boolean, hostOptions: readonly string[]): Mount {
  const options = ['nosuid', 'noexec', 'nodev', 'relatime', writable ? 'rw' : 'ro', ...hostOptions];
  return { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options };
}

/** What is on the disk as root's would belong to nobody in a user namespace. A runtime that cannot map leaves it readable. */
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
    // It was made for the pod's root: no mapping needed, and tmpfs takes none before Linux 6.3.
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
  // An image volume has its layers mapped already; the overlay over them takes no mapping.
  if (!isImage && mount.uidMappings.length + mount.gidMappings.length > 0) {
    // A runtime that does not know the fields ignores them, and the volume's files would belong to nobody.
    if (!input.features.idmap)
      throw refused(
        mount,
        'the runtime has no idmapped mounts (runc from 1.2 on has, with a shim of containerd 2.0 or newer)',
      );
    result.uidMappings = idMappings(mount.uidMappings);
    result.gidMappings = idMappings(mount.gidMappings);
  }
  return result;
}

/** Clean and absolute. */
export function destinationOf(containerPath: string): string {
  const path = posix.join('/', containerPath);
  return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path;
}

/** The rules of recursive read-only mounts need no state and are checked for every request (validate.ts uses this too). */
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

/** mount_options (CRI 1.37): only such as take something away. */
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

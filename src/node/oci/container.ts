import type { ContainerConfig, PodSandboxConfig } from '../../../proto/gen/cri.ts';
import type { MountPoint } from '../../sys/mountinfo.ts';
import { containerAnnotations, passedAnnotations } from './annotations.ts';
import { appArmorProfile } from './apparmor.ts';
import { processArgs, processEnv } from './args.ts';
import { baseSpec, hostSysfs, type OpenFiles, oomScoreAdj, openFilesLimit } from './base.ts';
import { containerCapabilities } from './capabilities.ts';
import { applyCdi, type CdiEdits } from './cdi.ts';
import { cgroupsPath } from './cgroups-path.ts';
import { ALL_DEVICES, allowRule, deviceNode, type GrantedDevice } from './devices.ts';
import type { HostFacts, RuntimeFeatures } from './host.ts';
import type { ImageConfig } from './image-config.ts';
import { cgroupMount, containerMounts, type PodFiles } from './mounts.ts';
import { containerNamespaces, onHostNetwork, ownCgroupNamespace, podNamespaceOptions } from './namespaces.ts';
import { toLinuxResources } from './resources.ts';
import { seccompProfile } from './seccomp.ts';
import type { SelinuxLabels } from './selinux.ts';
import type { Device, Mount, Seccomp, Spec, User } from './types.ts';
import { gidMapped, userNamespace } from './userns.ts';
import { validateContainer } from './validate.ts';

export interface ContainerSpecInput {
  id: string;
  config: ContainerConfig;
  image: { reference: string; config: ImageConfig };
  /** Result of containerUser and resolveUser (users.ts). */
  user: User;
  sandbox: {
    id: string;
    config: PodSandboxConfig;
    /** Pid of the pause process; 0 in a pinned sandbox. */
    pid: number;
    /** Paths of a pinned sandbox's namespaces. */
    pinned?: { ipc?: string; uts?: string };
    /** Path of the pinned network namespace; "" on the host network. */
    netns: string;
    /** Path of the pinned user namespace; undefined when there is none. */
    userns?: string;
    files: PodFiles;
  };
  /** Pid of the first process of the container target_id; undefined unless that container runs in this pod. */
  targetPid?: number;
  /** Folders on the host for the image's VOLUMEs, by path in the container. */
  volumes?: Readonly<Record<string, string>>;
  /** Paths of image volumes on the host, image_sub_path included, by container_path. */
  imageVolumes?: Readonly<Record<string, string>>;
  /** Real paths by host_path, for every host_path that is or contains a symlink. */
  realPaths?: Readonly<Record<string, string>>;
  /** The mounts that contain the real paths of host_path. */
  mountTable?: readonly MountPoint[];
  /** The devices of the request, with type and numbers read from the host. */
  devices?: readonly GrantedDevice[];
  /** All device nodes of the host at the moment; required when {@link needsHostDevices} returns true. */
  hostDevices?: readonly Device[];
  /** Required when cdiDeviceNames() returns any. */
  cdi?: CdiEdits;
  /** The parsed Localhost profile; required when seccompFile() returns a path. */
  seccomp?: Seccomp;
  /** Names of the loaded profiles; required when appArmorProfileToFind() returns a name. */
  appArmorProfiles?: readonly string[];
  selinux?: SelinuxLabels;
  openFiles?: OpenFiles;
  runtime: {
    podAnnotations: readonly string[];
    containerAnnotations: readonly string[];
    privilegedWithoutHostDevices: boolean;
    features: RuntimeFeatures;
  };
  host: HostFacts;
}

/**
 * Whether a container gets all devices of the host: a privileged one does, unless its runtime is configured otherwise.
 */
export function needsHostDevices(
  { linux }: Pick<ContainerConfig, 'linux'>,
  { privilegedWithoutHostDevices }: { privilegedWithoutHostDevices: boolean },
): boolean {
  return (linux?.securityContext?.privileged ?? false) && !privilegedWithoutHostDevices;
}

/**
 * Builds the spec of a container of a pod. Pure function: `input` contains everything that it needs of the host.
 * Throws INVALID_REQUEST, with the name of the field, for a request that is invalid or cannot be met.
 */
export function buildContainerSpec(input: ContainerSpecInput): Spec {
  const { id, config, image, sandbox, runtime, host } = input;
  const pod = sandbox.config;
  validateContainer(config, pod);
  const context = config.linux?.securityContext;
  const privileged = context?.privileged ?? false;
  const readonlyRootfs = context?.readonlyRootfs ?? false;
  const userns = userNamespace(podNamespaceOptions(pod));
  const spec = baseSpec(host, (gid) => gidMapped(userns, gid));
  const { process, linux } = spec;

  process.args = processArgs(config, image.config);
  process.env = processEnv(config, image.config, pod.hostname || host.hostname);
  process.cwd = config.workingDir || image.config.WorkingDir || '/';
  process.terminal = config.tty;
  process.user = input.user;
  process.noNewPrivileges = context?.noNewPrivs ?? false;
  process.capabilities = containerCapabilities({
    request: context?.capabilities,
    privileged,
    available: host.capabilities,
    userns: userns !== undefined,
  });
  const rlimits = openFilesLimit(input.openFiles);
  if (rlimits !== undefined) process.rlimits = rlimits;
  // 0 when the request has none: without the field the container would inherit the low value of the shim, which
  // protects from the OOM killer.
  process.oomScoreAdj = oomScoreAdj(Number(config.linux?.resources?.oomScoreAdj ?? 0n), host);
  const appArmor = appArmorProfile({
    profile: context?.apparmor,
    deprecated: context?.apparmorProfile ?? '',
    privileged,
    supported: host.apparmor,
    loaded: input.appArmorProfiles ?? [],
  });
  if (appArmor !== undefined) process.apparmorProfile = appArmor;

  spec.root.readonly = readonlyRootfs;
  const { mounts, rootfsPropagation } = containerMounts({
    config,
    defaults: containerDefaults(spec.mounts, input, privileged, userns !== undefined),
    files: sandbox.files,
    volumes: input.volumes ?? {},
    imageVolumes: input.imageVolumes ?? {},
    realPaths: input.realPaths ?? {},
    mountTable: input.mountTable ?? [],
    readonlyRootfs,
    features: runtime.features,
    userns,
  });
  spec.mounts = mounts;
  spec.annotations = {
    ...passedAnnotations(pod.annotations, runtime.podAnnotations),
    ...passedAnnotations(config.annotations, runtime.containerAnnotations),
    ...containerAnnotations(sandbox.id, pod, config.metadata.name, config.image?.userSpecifiedImage || image.reference),
  };

  if (rootfsPropagation !== undefined) linux.rootfsPropagation = rootfsPropagation;
  linux.namespaces = containerNamespaces({
    config: pod,
    options: context?.namespaceOptions,
    sandboxPid: sandbox.pid,
    pinned: sandbox.pinned,
    netns: sandbox.netns,
    userns: sandbox.userns,
    targetPid: input.targetPid,
    privileged,
    host,
  });
  if (userns !== undefined) {
    linux.uidMappings = userns.uids;
    linux.gidMappings = userns.gids;
  }
  if (!privileged) {
    // No default paths when the request has none: kubelet expresses procMount: Unmasked by empty lists.
    linux.maskedPaths = [...(context?.maskedPaths ?? [])];
    linux.readonlyPaths = [...(context?.readonlyPaths ?? [])];
  }
  linux.cgroupsPath = cgroupsPath(pod.linux?.cgroupParent ?? '', id, host.cgroupDriver);
  linux.resources = {
    ...linux.resources,
    ...toLinuxResources(config.linux?.resources, host),
  };
  addDevices(spec, input);
  const seccomp = seccompProfile({
    profile: context?.seccomp,
    deprecated: context?.seccompProfilePath ?? '',
    privileged,
    localhost: input.seccomp,
    capabilities: process.capabilities.bounding,
    host,
  });
  if (seccomp !== undefined) linux.seccomp = seccomp;
  if (host.selinux && input.selinux !== undefined && !privileged) {
    process.selinuxLabel = input.selinux.process;
    linux.mountLabel = input.selinux.mount;
  }
  if (input.cdi !== undefined) applyCdi(spec, input.cdi);
  return spec;
}

/** The default mounts of this container: `base` with /sys as its privileges allow, and the cgroup tree. */
function containerDefaults(
  base: readonly Mount[],
  { sandbox, runtime, host }: ContainerSpecInput,
  privileged: boolean,
  userns: boolean,
): Mount[] {
  const repeat = ownCgroupNamespace(host, privileged) ? [] : host.cgroupMountOptions;
  const mounts = base.map((mount) => {
    if (mount.destination !== '/sys') return mount;
    if (userns && onHostNetwork(sandbox.config)) return hostSysfs(runtime.features.recursiveReadOnly);
    if (!privileged) return mount;
    return { ...mount, options: mount.options.map((option) => (option === 'ro' ? 'rw' : option)) };
  });
  return [...mounts, cgroupMount(privileged, repeat)];
}

/**
 * Adds the devices of the request and, for privileged containers, all devices of the host; at one path the request's
 * wins.
 */
function addDevices(spec: Spec, input: ContainerSpecInput): void {
  const asked = input.devices ?? [];
  const { linux } = spec;
  const hostDevices = needsHostDevices(input.config, input.runtime);
  const nodes = new Map(hostDevices ? (input.hostDevices ?? []).map((device) => [device.path, device]) : []);
  for (const device of asked) nodes.set(device.path, deviceNode(device));
  if (nodes.size > 0) linux.devices = [...nodes.values()];
  linux.resources.devices = hostDevices
    ? [...ALL_DEVICES]
    : [...(linux.resources.devices ?? []), ...asked.map((device) => allowRule(device, device.permissions))];
}

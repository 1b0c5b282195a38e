import type { ContainerConfig, PodSandboxConfig } from '../../../proto/gen/cri.ts';
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
import type { MountPoint } from './mount-table.ts';
import { cgroupMount, containerMounts, type PodFiles } from './mounts.ts';
import { containerNamespaces, onHostNetwork, ownCgroupNamespace, podNamespaceOptions } from './namespaces.ts';
import { toLinuxResources } from './resources.ts';
import { seccompProfile } from './seccomp.ts';
import type { SelinuxLabels } from './selinux.ts';
import type { Mount, Seccomp, Spec, User } from './types.ts';
import { gidMapped, userNamespace } from './userns.ts';
import { validateContainer } from './validate.ts';

export interface ContainerSpecInput {
  id: string;
  config: ContainerConfig;
  image: { reference: string; config: ImageConfig };
  /** From users.ts (containerUser, resolveUser). */
  user: User;
  sandbox: {
    id: string;
    config: PodSandboxConfig;
    /** The pause process. */
    pid: number;
    /** Path of the pinned network namespace; "" on the host network. */
    netns: string;
    /** Path of the pinned user namespace, if there is one. */
    userns?: string;
    files: PodFiles;
  };
  /** First process of the container of target_id, when that one runs in this pod. */
  targetPid?: number;
  /** The image's VOLUMEs: folders on the host, by path in the container. */
  volumes?: Readonly<Record<string, string>>;
  /** Where image volumes (sub path included) are on the host, by container_path. */
  imageVolumes?: Readonly<Record<string, string>>;
  /** Real paths by host_path, for those that are or contain symlinks. */
  realPaths?: Readonly<Record<string, string>>;
  /** When needsMountTable() says so. */
  mountTable?: readonly MountPoint[];
  /** The request's devices, looked up on the host. */
  devices?: readonly GrantedDevice[];
  /** When cdiDeviceNames() names any. */
  cdi?: CdiEdits;
  /** The parsed Localhost profile, when seccompFile() names one. */
  seccomp?: Seccomp;
  /** The loaded profiles, when appArmorProfileToFind() names one. */
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
 * The spec of an ordinary container. Pure: whatever it needs of the host is in `input`.
 * Throws INVALID_REQUEST for what the request asks and cannot have; the text names the field.
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
  // Without a word 0: left out, it would be the shim's own, which the kernel hardly ever kills.
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
    // As sent, and nothing when nothing is sent: that is how kubelet says procMount: Unmasked.
    linux.maskedPaths = [...(context?.maskedPaths ?? [])];
    linux.readonlyPaths = [...(context?.readonlyPaths ?? [])];
  }
  linux.cgroupsPath = cgroupsPath(pod.linux?.cgroupParent ?? '', id, host.cgroupDriver);
  linux.resources = {
    ...linux.resources,
    ...toLinuxResources(config.linux?.resources, host),
  };
  addDevices(spec, input, privileged);
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

/** The default mounts as this container has them: the cgroup tree added, the pod's shm instead of one of its own, /sys by its rights. */
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

/** The request's devices, and for privileged containers the host's, which the request's override. */
function addDevices(spec: Spec, input: ContainerSpecInput, privileged: boolean): void {
  const asked = input.devices ?? [];
  const { linux } = spec;
  const hostDevices = privileged && !input.runtime.privilegedWithoutHostDevices;
  const nodes = new Map(hostDevices ? input.host.devices.map((device) => [device.path, device]) : []);
  for (const device of asked) nodes.set(device.path, deviceNode(device));
  if (nodes.size > 0) linux.devices = [...nodes.values()];
  linux.resources.devices = hostDevices
    ? [...ALL_DEVICES]
    : [...(linux.resources.devices ?? []), ...asked.map((device) => allowRule(device, device.permissions))];
}

import type { PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { passedAnnotations, sandboxAnnotations } from './annotations.ts';
import { envList, putEnv } from './args.ts';
import { baseSpec, hostSysfs, type OpenFiles, oomScoreAdj, openFilesLimit } from './base.ts';
import { cgroupsPath } from './cgroups-path.ts';
import type { HostFacts, RuntimeFeatures } from './host.ts';
import type { ImageConfig } from './image-config.ts';
import { ownNamespaces, podNamespaceOptions, sandboxNamespaces } from './namespaces.ts';
import { seccompProfile } from './seccomp.ts';
import type { SelinuxLabels } from './selinux.ts';
import { podSysctls } from './sysctls.ts';
import type { Mount, Seccomp, Spec, User } from './types.ts';
import { gidMapped, userNamespace } from './userns.ts';

export interface SandboxSpecInput {
  id: string;
  config: PodSandboxConfig;
  /** The sandbox image. */
  image: { reference: string; config: ImageConfig };
  /** Result of sandboxUser and resolveUser (users.ts). */
  user: User;
  /** Path of the pinned network namespace; "" on the host network, or when the runtime shall create one. */
  netns: string;
  /** Path of the pinned user namespace; undefined in the host's, or when the runtime shall create one. */
  userns?: string;
  /** Path on the host of the pod's shm mount; /dev/shm for pods in the host's IPC namespace. */
  shm: string;
  /** Path on the host of the pod's resolv.conf. */
  resolvConf: string;
  openFiles?: OpenFiles;
  /** Patterns of the pod annotations that are copied into the spec. */
  podAnnotations: readonly string[];
  /** The parsed Localhost profile; required when seccompFile() returns a path. */
  seccomp?: Seccomp;
  selinux?: SelinuxLabels;
  features: RuntimeFeatures;
  host: HostFacts;
}

/**
 * Makes the OOM killer prefer every other process of the pod to the pause process, which holds the pod's namespaces.
 */
const OOM_SCORE_ADJ = -998;
/** The kernel's minimum: the pause process only waits. */
const CPU_SHARES = 2;
/** Options of bind mounts. Inside a user namespace, a remount that drops nosuid, nodev or noexec fails with EPERM. */
const BIND = ['rbind', 'ro', 'nosuid', 'nodev', 'noexec'];

/**
 * Builds the spec of a pod's pause container. Pure function. Throws INVALID_REQUEST for a request that is invalid or
 * cannot be met, and IMAGE_INVALID when the sandbox image has no command.
 */
export function buildSandboxSpec(input: SandboxSpecInput): Spec {
  const { id, config, image, host, selinux } = input;
  const context = config.linux?.securityContext;
  const privileged = context?.privileged ?? false;
  const own = ownNamespaces(config);
  const userns = userNamespace(podNamespaceOptions(config));
  const spec = baseSpec(host, (gid) => gidMapped(userns, gid));
  const { process, linux } = spec;

  process.args = [...(image.config.Entrypoint ?? []), ...(image.config.Cmd ?? [])];
  if (process.args.length === 0) {
    throw new SluiceError('IMAGE_INVALID', `sandbox image ${image.reference} has neither entrypoint nor command`);
  }
  const env = new Map<string, string>();
  putEnv(env, image.config.Env ?? []);
  process.env = envList(env);
  process.cwd = image.config.WorkingDir || '/';
  process.user = input.user;
  process.noNewPrivileges = true;
  process.oomScoreAdj = oomScoreAdj(OOM_SCORE_ADJ, host);
  const rlimits = openFilesLimit(input.openFiles);
  if (rlimits !== undefined) process.rlimits = rlimits;

  spec.root.readonly = true;
  if (own.uts && config.hostname !== '') spec.hostname = config.hostname;
  spec.mounts = [
    ...sandboxSysfs(spec.mounts, privileged, userns !== undefined && !own.network, input.features),
    { destination: '/dev/shm', type: 'bind', source: input.shm, options: [...BIND] },
    // VM runtimes read the pod's DNS configuration from here.
    { destination: '/etc/resolv.conf', type: 'bind', source: input.resolvConf, options: [...BIND] },
  ];
  spec.annotations = {
    ...passedAnnotations(config.annotations, input.podAnnotations),
    ...sandboxAnnotations(id, config, image.reference),
  };

  linux.namespaces = sandboxNamespaces(config, input.netns, input.userns);
  if (userns !== undefined) {
    linux.uidMappings = userns.uids;
    linux.gidMappings = userns.gids;
  }
  linux.sysctl = podSysctls(config.linux?.sysctls ?? {}, own);
  linux.resources.cpu = { shares: CPU_SHARES };
  linux.cgroupsPath = cgroupsPath(config.linux?.cgroupParent ?? '', id, host.cgroupDriver);
  if (!privileged) {
    linux.maskedPaths = [...SANDBOX_MASKED];
    linux.readonlyPaths = [...SANDBOX_READONLY];
  }
  const seccomp = seccompProfile({
    profile: context?.seccomp,
    deprecated: context?.seccompProfilePath ?? '',
    privileged,
    localhost: input.seccomp,
    capabilities: process.capabilities.bounding,
    host,
  });
  if (seccomp !== undefined) linux.seccomp = seccomp;
  // A pod in the host's pid or IPC namespace could not access the host's processes or IPC objects with its own label.
  if (host.selinux && selinux !== undefined && !privileged && own.pid && own.ipc) {
    process.selinuxLabel = selinux.process;
    linux.mountLabel = selinux.mount;
  }
  return spec;
}

/** `mounts` with the /sys of this pod: a bind mount of the host's (see hostSysfs), writable, or as it is. */
function sandboxSysfs(mounts: Mount[], privileged: boolean, bindHost: boolean, features: RuntimeFeatures): Mount[] {
  return mounts.map((mount) => {
    if (mount.destination !== '/sys') return mount;
    if (bindHost) return hostSysfs(features.recursiveReadOnly);
    return privileged ? { ...mount, options: mount.options.map((option) => (option === 'ro' ? 'rw' : option)) } : mount;
  });
}

/** Masked paths of the pause container, for which CRI has no field: those that container engines mask by default. */
const SANDBOX_MASKED = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
];
const SANDBOX_READONLY = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

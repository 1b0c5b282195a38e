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
  /** The sandbox image: its reference, and what it says about itself. */
  image: { reference: string; config: ImageConfig };
  /** From users.ts (sandboxUser, resolveUser). */
  user: User;
  /** Path of the pinned network namespace; "" on the host network, or to let the runtime make one. */
  netns: string;
  /** Path of the pinned user namespace, when the pod has one of its own and it exists already. */
  userns?: string;
  /** On the host: the pod's shm (or /dev/shm with the host's IPC) and its resolv.conf. */
  shm: string;
  resolvConf: string;
  openFiles?: OpenFiles;
  /** Patterns of pod annotations that are passed on. */
  podAnnotations: readonly string[];
  /** The parsed Localhost profile, when seccompFile() names one. */
  seccomp?: Seccomp;
  selinux?: SelinuxLabels;
  features: RuntimeFeatures;
  host: HostFacts;
}

/** The kernel should kill every other process of a pod before the one that holds its namespaces. */
const OOM_SCORE_ADJ = -998;
/** The least that the kernel knows: the pause process only waits. */
const CPU_SHARES = 2;
/** Without these flags a remount in a user namespace fails with EPERM; nothing on those mounts needs them off. */
const BIND = ['rbind', 'ro', 'nosuid', 'nodev', 'noexec'];

/** The spec of a pod's pause container. Pure. Throws INVALID_REQUEST for what the request asks and cannot have. */
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
    // VM runtimes take the pod's DNS from here.
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
  // Labels keep pods apart; one that shares the host's processes or IPC could not work with them.
  if (host.selinux && selinux !== undefined && !privileged && own.pid && own.ipc) {
    process.selinuxLabel = selinux.process;
    linux.mountLabel = selinux.mount;
  }
  return spec;
}

function sandboxSysfs(mounts: Mount[], privileged: boolean, bound: boolean, features: RuntimeFeatures): Mount[] {
  return mounts.map((mount) => {
    if (mount.destination !== '/sys') return mount;
    if (bound) return hostSysfs(features.recursiveReadOnly);
    return privileged ? { ...mount, options: mount.options.map((option) => (option === 'ro' ? 'rw' : option)) } : mount;
  });
}

/** Nobody configures the pause process, so it always gets the usual covers. */
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

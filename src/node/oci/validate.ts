import { posix } from 'node:path';
import {
  type ContainerConfig,
  MountPropagation,
  NamespaceMode,
  type NamespaceOption,
  type PodSandboxConfig,
} from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { checkReadonly, destinationOf } from './mounts.ts';
import { ownNamespaces } from './namespaces.ts';
import { checkProfile, deprecatedProfile } from './security-profile.ts';
import { signalName } from './signals.ts';
import { podSysctls } from './sysctls.ts';
import { modeName, sameUserNamespace, userNamespace } from './userns.ts';
import { containerUser, sandboxUser } from './users.ts';

/** A pod's configuration whose required fields are present. */
type ValidSandboxConfig = PodSandboxConfig & { metadata: NonNullable<PodSandboxConfig['metadata']> };
type ValidContainerConfig = ContainerConfig & { metadata: NonNullable<ContainerConfig['metadata']> };

/**
 * Checks a pod's configuration, as far as that is possible without the state of the host and the daemon, before
 * anything is reserved.
 * Throws INVALID_REQUEST with the name of the field.
 */
export function validateSandbox(config: PodSandboxConfig | undefined): asserts config is ValidSandboxConfig {
  if (config === undefined) throw refused('config', 'is missing');
  const { metadata } = config;
  if (metadata === undefined) throw refused('metadata', 'is missing');
  if (metadata.name === '') throw refused('metadata.name', 'is empty');
  if (config.hostname.length > 64) throw refused('hostname', 'is longer than 64 bytes, the limit of Linux');
  if (/[\0\n]/.test(config.hostname)) throw refused('hostname', 'contains a NUL byte or a line break');
  const context = config.linux?.securityContext;
  const options = context?.namespaceOptions;
  userNamespace(options);
  checkModes(options, 'pod');
  podSysctls(config.linux?.sysctls ?? {}, ownNamespaces(config));
  sandboxUser(context, '');
  checkProfile(
    context?.seccomp ?? deprecatedProfile(context?.seccompProfilePath ?? '', 'seccomp_profile_path'),
    'seccomp',
  );
}

/** Checks the configuration of a container of `pod`; see {@link validateSandbox}. */
export function validateContainer(
  config: ContainerConfig | undefined,
  pod: PodSandboxConfig,
): asserts config is ValidContainerConfig {
  if (config === undefined) throw refused('config', 'is missing');
  const { metadata } = config;
  if (metadata === undefined) throw refused('metadata', 'is missing');
  if (metadata.name === '') throw refused('metadata.name', 'is empty');
  if (config.image === undefined || config.image.image === '') throw refused('image.image', 'is empty');
  logPathOf(pod.logDirectory, config.logPath);
  signalName(config.stopSignal);
  for (const mount of config.mounts) checkMount(mount);
  for (const device of config.devices) {
    if (!device.hostPath.startsWith('/')) throw refused('devices', `host_path "${device.hostPath}" is not absolute`);
    if (!device.containerPath.startsWith('/')) {
      throw refused('devices', `container_path "${device.containerPath}" is not absolute`);
    }
    if (!/^[rwm]+$/.test(device.permissions)) {
      throw refused('devices', `${device.containerPath}: permissions "${device.permissions}" are not of r, w and m`);
    }
  }
  const context = config.linux?.securityContext;
  const podContext = pod.linux?.securityContext;
  checkModes(context?.namespaceOptions, 'container');
  sameUserNamespace(podContext?.namespaceOptions, context?.namespaceOptions);
  containerUser(context, ''); // "": the image is not resolved yet; the request must be valid by itself
  if (context?.privileged === true && podContext?.privileged !== true) {
    throw refused(
      'linux.security_context.privileged',
      'no privileged container allowed in a pod that is not privileged',
    );
  }
  checkProfile(
    context?.seccomp ?? deprecatedProfile(context?.seccompProfilePath ?? '', 'seccomp_profile_path'),
    'seccomp',
  );
  checkProfile(context?.apparmor ?? deprecatedProfile(context?.apparmorProfile ?? '', 'apparmor_profile'), 'apparmor');
}

/**
 * Path of a container's log: `logPath` below `logDirectory`; "" when either is "", which means that no log is written.
 * Throws INVALID_REQUEST for a path outside of the directory. Kubelet never sends one, but other clients may.
 */
export function logPathOf(logDirectory: string, logPath: string): string {
  if (logDirectory === '' || logPath === '') return '';
  if (!logDirectory.startsWith('/')) throw refused('log_directory', `"${logDirectory}" is not absolute`);
  const folder = posix.normalize(`${logDirectory}/`);
  const path = posix.join(folder, logPath);
  if (!path.startsWith(folder) || path === folder) {
    throw refused('log_path', `"${logPath}" leads out of the log directory`);
  }
  return path;
}

function checkModes(options: NamespaceOption | undefined, of: 'pod' | 'container'): void {
  if (options === undefined) return;
  // Network and IPC are options of the pod; a container's only repeat them.
  checkMode('network', options.network, [NamespaceMode.POD, NamespaceMode.NODE]);
  checkMode('ipc', options.ipc, [NamespaceMode.POD, NamespaceMode.NODE]);
  const pid: NamespaceMode[] = [NamespaceMode.POD, NamespaceMode.CONTAINER, NamespaceMode.NODE];
  if (of === 'container') pid.push(NamespaceMode.TARGET);
  checkMode('pid', options.pid, pid);
  if (options.pid === NamespaceMode.TARGET && options.targetId === '') {
    throw refused('linux.security_context.namespace_options.target_id', 'is empty, but pid is TARGET');
  }
}

function checkMode(field: string, mode: NamespaceMode, allowed: readonly NamespaceMode[]): void {
  if (allowed.includes(mode)) return;
  throw refused(`linux.security_context.namespace_options.${field}`, `mode ${modeName(mode)} is not supported`);
}

function checkMount(mount: ContainerConfig['mounts'][number]): void {
  if (mount.containerPath === '') throw refused('mounts', 'container_path is empty');
  if (destinationOf(mount.containerPath) === '/') throw refused('mounts', 'container_path is the root');
  if (/\0/.test(mount.containerPath + mount.hostPath)) throw refused('mounts', 'a path contains a NUL byte');
  checkReadonly(mount);
  const isImage = mount.image !== undefined && mount.image.image !== '';
  if (isImage) {
    if (mount.hostPath !== '')
      throw refused('mounts', `${mount.containerPath}: image and host_path exclude each other`);
    if (!mount.readonly) throw refused('mounts', `${mount.containerPath}: an image volume must be readonly`);
    if (mount.propagation !== MountPropagation.PROPAGATION_PRIVATE) {
      throw refused('mounts', `${mount.containerPath}: an image volume needs private propagation`);
    }
    const { imageSubPath } = mount;
    if (imageSubPath.startsWith('/') || imageSubPath.split('/').includes('..')) {
      throw refused('mounts', `${mount.containerPath}: image_sub_path "${imageSubPath}" leads out of the image`);
    }
  } else if (!mount.hostPath.startsWith('/')) {
    throw refused('mounts', `${mount.containerPath}: host_path "${mount.hostPath}" is not absolute`);
  }
}

function refused(field: string, what: string): SluiceError {
  return new SluiceError('INVALID_REQUEST', `${field}: ${what}`);
}

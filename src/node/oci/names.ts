import { basename, posix } from 'node:path';
import type { ContainerMetadata, PodSandboxMetadata } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { HostFacts } from './host.ts';

type Driver = HostFacts['cgroupDriver'];

/** The key of a pod: none of the parts of a Kubernetes name can hold "_". */
export function sandboxName({ name, namespace, uid, attempt }: PodSandboxMetadata): string {
  return [name, namespace, uid, attempt].join('_');
}

/** The key of a container, which is only unique together with its pod's. */
export function containerName(container: ContainerMetadata, pod: PodSandboxMetadata): string {
  return [container.name, pod.name, pod.namespace, pod.uid, container.attempt].join('_');
}

/**
 * `linux.cgroupsPath`. cgroupfs: a path; systemd: "slice:prefix:name", of which runc makes `prefix-name.scope` (it refuses anything
 * else with its systemd driver, so the form follows the driver and not, as in containerd, the look of the parent).
 * An empty parent puts the container under /sluice or system.slice. Throws INVALID_REQUEST for a parent the driver cannot use.
 */
export function cgroupsPath(parent: string, id: string, driver: Driver): string {
  if (driver === 'cgroupfs') return posix.join('/', parent || 'sluice', id);
  const slice = parent === '' ? 'system.slice' : basename(parent);
  if (!slice.endsWith('.slice')) {
    throw new SluiceError(
      'INVALID_REQUEST',
      `linux.cgroup_parent "${parent}" is no systemd slice (name.slice), but Sluice uses the systemd cgroup driver: make kubelet's cgroupDriver agree`,
    );
  }
  return `${slice}:sluice:${id}`;
}

/** A cgroup parent of that name as kubelet would write it for the driver (tests, benchmarks, the demo). */
export function cgroupParent(name: string, driver: Driver): string {
  return driver === 'systemd' ? `/${name}.slice` : `/${name}`;
}

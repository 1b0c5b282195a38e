import { basename, posix } from 'node:path';
import { SluiceError } from '../../errors.ts';
import type { HostFacts } from './host.ts';

/**
 * `linux.cgroupsPath` of the container `id`. With the cgroupfs driver it is a path; with the systemd driver it is
 * "slice:prefix:name", of which runc makes `prefix-name.scope`. The form follows the driver and not, as in containerd,
 * the form of `parent`, because runc's systemd driver refuses a path. An empty `parent` means /sluice, or system.slice.
 * Throws INVALID_REQUEST for a parent that the driver cannot use.
 */
export function cgroupsPath(parent: string, id: string, driver: HostFacts['cgroupDriver']): string {
  if (driver === 'cgroupfs') return posix.join('/', parent || 'sluice', id);
  const slice = parent === '' ? 'system.slice' : basename(parent);
  if (!slice.endsWith('.slice')) {
    throw new SluiceError(
      'INVALID_REQUEST',
      `linux.cgroup_parent "${parent}" is not a systemd slice (name.slice), but Sluice uses the systemd cgroup driver: set kubelet's cgroupDriver to the same driver`,
    );
  }
  return `${slice}:sluice:${id}`;
}

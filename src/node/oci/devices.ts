import type { Device, DeviceRule, Resources } from './types.ts';

/**
 * A device of the request: `path` is its path in the container, type and numbers come from the host
 * (src/workers/host-paths/devices.ts).
 */
export interface GrantedDevice extends Device {
  /** One or more of "r", "w" and "m" (mknod). */
  permissions: string;
}

/** The rule of the device cgroup that allows access to a device. */
export function allowRule(device: Device, permissions: string): DeviceRule {
  const type = device.type === 'b' ? 'b' : 'c';
  return { allow: true, type, major: device.major, minor: device.minor, access: permissions };
}

/** The device without its permissions, which belong to the cgroup rule. */
export function deviceNode({ permissions: _, ...node }: GrantedDevice): Device {
  return node;
}

/** Rule of privileged containers: access to all devices. */
export const ALL_DEVICES: NonNullable<Resources['devices']> = [{ allow: true, access: 'rwm' }];

import type { Device, DeviceRule, Resources } from './types.ts';

/** A device of the request, already looked up on the host (read-devices.ts), under its path in the container. */
export interface GrantedDevice extends Device {
  /** Of "r", "w" and "m". */
  permissions: string;
}

/** The device cgroup's rule that lets a device through. */
export function allowRule(device: Device, permissions: string): DeviceRule {
  const type = device.type === 'b' ? 'b' : 'c';
  return { allow: true, type, major: device.major, minor: device.minor, access: permissions };
}

/** The node without the permissions, which stand in the cgroup's rule. */
export function deviceNode({ permissions: _, ...node }: GrantedDevice): Device {
  return node;
}

/** Everything is allowed: privileged containers. */
export const ALL_DEVICES: NonNullable<Resources['devices']> = [{ allow: true, access: 'rwm' }];

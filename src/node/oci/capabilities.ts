import type { Capability } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { Capabilities } from './types.ts';

/** All capabilities in the order of linux/capability.h: the index is the bit in /proc/<pid>/status. */
export const CAPABILITIES = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_DAC_READ_SEARCH',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETPCAP',
  'CAP_LINUX_IMMUTABLE',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_BROADCAST',
  'CAP_NET_ADMIN',
  'CAP_NET_RAW',
  'CAP_IPC_LOCK',
  'CAP_IPC_OWNER',
  'CAP_SYS_MODULE',
  'CAP_SYS_RAWIO',
  'CAP_SYS_CHROOT',
  'CAP_SYS_PTRACE',
  'CAP_SYS_PACCT',
  'CAP_SYS_ADMIN',
  'CAP_SYS_BOOT',
  'CAP_SYS_NICE',
  'CAP_SYS_RESOURCE',
  'CAP_SYS_TIME',
  'CAP_SYS_TTY_CONFIG',
  'CAP_MKNOD',
  'CAP_LEASE',
  'CAP_AUDIT_WRITE',
  'CAP_AUDIT_CONTROL',
  'CAP_SETFCAP',
  'CAP_MAC_OVERRIDE',
  'CAP_MAC_ADMIN',
  'CAP_SYSLOG',
  'CAP_WAKE_ALARM',
  'CAP_BLOCK_SUSPEND',
  'CAP_AUDIT_READ',
  'CAP_PERFMON',
  'CAP_BPF',
  'CAP_CHECKPOINT_RESTORE',
] as const;

/** Capabilities of a container whose request changes none: the same set as in Docker and containerd. */
export const DEFAULT_CAPABILITIES = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FSETID',
  'CAP_FOWNER',
  'CAP_MKNOD',
  'CAP_NET_RAW',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETFCAP',
  'CAP_SETPCAP',
  'CAP_NET_BIND_SERVICE',
  'CAP_SYS_CHROOT',
  'CAP_KILL',
  'CAP_AUDIT_WRITE',
];

const KNOWN: ReadonlySet<string> = new Set(CAPABILITIES);

/**
 * Names of the bits of a hexadecimal set such as `000001ffffffffff` (CapEff in /proc/<pid>/status). Omits bits without
 * a name.
 */
export function capabilitiesOf(hex: string): string[] {
  const bits = BigInt(`0x${hex}`);
  return CAPABILITIES.filter((_name, bit) => (bits >> BigInt(bit)) & 1n);
}

/**
 * `names` as bounding, effective and permitted set. Inheritable and ambient set are `ambient`, by default empty
 * (kubernetes#56374).
 */
export function capabilitySets(names: readonly string[], ambient: readonly string[] = []): Capabilities {
  return {
    bounding: [...names],
    effective: [...names],
    permitted: [...names],
    inheritable: [...ambient],
    ambient: [...ambient],
  };
}

interface CapabilityInput {
  request: Capability | undefined;
  privileged: boolean;
  /** The daemon's effective capabilities. */
  available: readonly string[];
  /** Whether the pod has its own user namespace, in which any capability can be granted, whatever the daemon has. */
  userns: boolean;
}

/**
 * The capability sets of a container. The order matters: add "ALL", drop "ALL", then single adds, then single drops, so
 * that `drop: [ALL], add: [X]` leaves X. A privileged container gets all capabilities of the daemon.
 * Throws INVALID_REQUEST for an unknown name (containerd ignores it, so that a misspelt drop leaves the capability in
 * place) and for a capability that the daemon itself does not have.
 *
 * add_ambient_capabilities is implemented; containerd and CRI-O accept the field and ignore it, and kubelet does not
 * send it.
 */
export function containerCapabilities({ request, privileged, available, userns }: CapabilityInput): Capabilities {
  if (privileged) return capabilitySets(available);
  const add = names(request?.addCapabilities ?? [], 'add_capabilities');
  const drop = names(request?.dropCapabilities ?? [], 'drop_capabilities');
  const ambient = names(request?.addAmbientCapabilities ?? [], 'add_ambient_capabilities');

  let set = new Set(userns ? DEFAULT_CAPABILITIES : DEFAULT_CAPABILITIES.filter((name) => available.includes(name)));
  if (add.has('ALL')) set = new Set(available);
  if (drop.has('ALL')) set = new Set();
  const single = [...add, ...ambient].filter((name) => name !== 'ALL');
  for (const name of single) {
    if (!userns && !available.includes(name)) {
      throw new SluiceError(
        'INVALID_REQUEST',
        `capability ${name} cannot be added: the daemon itself does not have it`,
      );
    }
    set.add(name);
  }
  for (const name of drop) {
    set.delete(name);
    ambient.delete(name);
  }
  if (ambient.delete('ALL'))
    throw new SluiceError('INVALID_REQUEST', 'add_ambient_capabilities takes single names only');
  return capabilitySets([...set], [...ambient]);
}

function names(list: readonly string[], field: string): Set<string> {
  const result = new Set<string>();
  for (const given of list) {
    const upper = given.toUpperCase();
    const name = upper === 'ALL' || upper.startsWith('CAP_') ? upper : `CAP_${upper}`;
    if (name === 'CAP_ALL') result.add('ALL');
    else if (name === 'ALL' || KNOWN.has(name)) result.add(name);
    else throw new SluiceError('INVALID_REQUEST', `linux.security_context.capabilities.${field}: unknown "${given}"`);
  }
  return result;
}

import type { Capability } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { Capabilities } from './types.ts';

/** By the kernel's own number (linux/capability.h): the index is the bit in /proc/<pid>/status. */
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

/** What a container has when nobody says anything: the set that Docker and containerd give. */
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

/** The names of the bits in a line such as `CapEff: 000001ffffffffff`. Bits without a name are left out. */
export function capabilitiesOf(hex: string): string[] {
  const bits = BigInt(`0x${hex}`);
  return CAPABILITIES.filter((_name, bit) => (bits >> BigInt(bit)) & 1n);
}

/** The same set in all three places that count; nothing inheritable, nothing ambient (as kubelet's users expect: kubernetes#56374). */
export function capabilitySets(names: readonly string[], ambient: readonly string[] = []): Capabilities {
  return {
    bounding: [...names],
    effective: [...names],
    permitted: [...names],
    inheritable: [...ambient],
    ambient: [...ambient],
  };
}

export interface CapabilityInput {
  request: Capability | undefined;
  privileged: boolean;
  /** The daemon's own. */
  available: readonly string[];
  /** In a user namespace of its own a process holds all capabilities, whatever the daemon has. */
  userns: boolean;
}

/**
 * What a container gets. The order is the contract: "ALL" added, "ALL" dropped, then single adds, then single drops, so that
 * `drop: [ALL], add: [X]` leaves X. Privileged takes all the daemon has. Throws INVALID_REQUEST for a name no kernel knows (silently
 * ignored by containerd: a misspelt drop would leave the capability in place) and for one that the daemon cannot pass on.
 *
 * Ambient capabilities are honoured, where containerd and CRI-O accept the field and do nothing; kubelet does not send it.
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

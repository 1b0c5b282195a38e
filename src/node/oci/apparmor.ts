import { SecurityProfile_ProfileType as Kind, type SecurityProfile } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';

/** Name of the profile of containers that ask for nothing, or for RuntimeDefault. */
export const DEFAULT_PROFILE = 'sluice-default';

export interface AppArmorInput {
  profile: SecurityProfile | undefined;
  /** The deprecated field: "", "runtime/default", "unconfined", "localhost/<name>"; counts only without `profile`. */
  deprecated: string;
  privileged: boolean;
  /** Does the host have AppArmor? */
  supported: boolean;
  /** Names that are loaded now; needed for Localhost alone (see {@link appArmorProfileToFind}). */
  loaded: readonly string[];
}

/**
 * `process.apparmorProfile`. Without a word the default profile applies (kubernetes#51746), but privileged containers stay unconfined unless
 * they name a profile. Throws INVALID_REQUEST for a profile that is not loaded, and where a host without AppArmor is asked for one.
 */
export function appArmorProfile(input: AppArmorInput): string | undefined {
  const profile = input.profile ?? profileOf(input.deprecated, 'apparmor_profile');
  if (!input.supported) {
    if (profile === undefined || profile.profileType === Kind.Unconfined) return undefined;
    throw new SluiceError('INVALID_REQUEST', 'linux.security_context.apparmor: AppArmor is not supported on this host');
  }
  checkReference(profile, 'apparmor');
  switch (profile?.profileType) {
    case Kind.Unconfined:
      return undefined;
    case Kind.Localhost: {
      const name = profile.localhostRef.replace(/^localhost\//, '');
      if (name === '' || !input.loaded.includes(name)) {
        throw new SluiceError('INVALID_REQUEST', `linux.security_context.apparmor: profile "${name}" is not loaded`);
      }
      return name;
    }
    default:
      return input.privileged ? undefined : DEFAULT_PROFILE;
  }
}

/** The profile that must be among the loaded ones, if any: the caller reads them (readAppArmorProfiles) only then. */
export function appArmorProfileToFind(profile: SecurityProfile | undefined, deprecated: string): string | undefined {
  const asked = profile ?? profileOf(deprecated, 'apparmor_profile');
  return asked?.profileType === Kind.Localhost ? asked.localhostRef.replace(/^localhost\//, '') : undefined;
}

/** Reads the string form that came before SecurityProfile; undefined for "". Throws INVALID_REQUEST for other words. */
export function profileOf(text: string, field: string): SecurityProfile | undefined {
  if (text === '') return undefined;
  if (text === 'runtime/default' || text === 'docker/default') {
    return { profileType: Kind.RuntimeDefault, localhostRef: '' };
  }
  if (text === 'unconfined') return { profileType: Kind.Unconfined, localhostRef: '' };
  if (text.startsWith('localhost/'))
    return { profileType: Kind.Localhost, localhostRef: text.slice('localhost/'.length) };
  throw new SluiceError('INVALID_REQUEST', `linux.security_context.${field}: unknown profile "${text}"`);
}

/** Throws INVALID_REQUEST for a profile type CRI does not have, and for a reference without Localhost or the other way round. */
export function checkReference(profile: SecurityProfile | undefined, field: string): void {
  if (profile === undefined) return;
  const { profileType, localhostRef } = profile;
  const known: number[] = Object.values(Kind);
  if (!known.includes(profileType)) {
    throw new SluiceError('INVALID_REQUEST', `linux.security_context.${field}: unknown profile type ${profileType}`);
  }
  if ((profileType === Kind.Localhost) !== (localhostRef !== '')) {
    throw new SluiceError(
      'INVALID_REQUEST',
      `linux.security_context.${field}: localhost_ref and the profile type Localhost need each other`,
    );
  }
}

export interface ProfileTextInput {
  /** Is there /etc/apparmor.d/tunables/global, .../abstractions/base, .../abi/3.0? */
  tunables: boolean;
  abstractions: boolean;
  abi: boolean;
  /** Profile that the daemon runs under ("unconfined" mostly), which must be allowed to signal. */
  daemonProfile: string;
  name?: string;
}

/**
 * The default profile's source, for apparmor_parser. It leaves files, network and capabilities to the other walls and closes what
 * reaches out of a container: mounting, the parts of /proc and /sys that change the host, and signals or traces across profiles.
 */
export function defaultProfileText(input: ProfileTextInput): string {
  const { name = DEFAULT_PROFILE } = input;
  const senders = new Set(['unconfined', 'runc', 'crun', input.daemonProfile]);
  const lines = [
    ...(input.abi ? ['abi <abi/3.0>,', ''] : []),
    input.tunables ? 'include <tunables/global>' : '@{PROC}=/proc/',
    '',
    `profile ${name} flags=(attach_disconnected,mediate_deleted) {`,
    ...(input.abstractions ? ['  include <abstractions/base>', ''] : []),
    '  capability,',
    '  file,',
    '  network,',
    '  umount,',
    '  deny mount,',
    '',
    '  # The runtime and the daemon may signal the container; its processes may signal and trace one another.',
    ...Array.from(senders, (peer) => `  signal (receive) peer=${peer},`),
    `  signal (send, receive) peer=${name},`,
    `  ptrace (trace, read, tracedby, readby) peer=${name},`,
    '',
    '  # /proc: processes (numbers) and sysctls of the kernel.shm family stay writable, nothing else.',
    '  deny @{PROC}/* w,',
    '  deny @{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/** w,',
    '  deny @{PROC}/{[^1-9s/][^0-9/][^0-9/],s[^0-9y/][^0-9/],sy[^0-9s/]}/** w,',
    '  deny @{PROC}/sys/[^k]** w,',
    '  deny @{PROC}/sys/kernel/{[^s]**,s,s[^h]**,sh,sh[^m]**} w,',
    '  deny @{PROC}/kcore rwklx,',
    '  deny @{PROC}/sysrq-trigger rwklx,',
    '',
    '  # /sys: only the cgroup tree may be written (its mount says whether it really is).',
    '  deny /sys/[^f]*/** wklx,',
    '  deny /sys/f[^s]*/** wklx,',
    '  deny /sys/fs/[^c]*/** wklx,',
    '  deny /sys/fs/c[^g]*/** wklx,',
    '  deny /sys/fs/cg[^r]*/** wklx,',
    '  deny /sys/firmware/** rwklx,',
    '  deny /sys/devices/virtual/powercap/** rwklx,',
    '  deny /sys/kernel/security/** rwklx,',
    '}',
    '',
  ];
  return lines.join('\n');
}

import { SecurityProfile_ProfileType as Kind, type SecurityProfile } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { checkProfile, deprecatedProfile } from './security-profile.ts';

/** Name of the profile for containers that request RuntimeDefault or no profile. */
const DEFAULT_PROFILE = 'sluice-default';

interface AppArmorInput {
  profile: SecurityProfile | undefined;
  /**
   * The deprecated field: "", "runtime/default", "unconfined" or "localhost/<name>". Used only when `profile` is
   * undefined.
   */
  deprecated: string;
  privileged: boolean;
  /** Whether the host has AppArmor. */
  supported: boolean;
  /** Names of the loaded profiles; only a Localhost profile needs them (see {@link appArmorProfileToFind}). */
  loaded: readonly string[];
}

/**
 * `process.apparmorProfile`; undefined means unconfined. A request without a profile gets the default one
 * (kubernetes#51746), except for privileged containers, which stay unconfined unless they name a profile.
 * Throws INVALID_REQUEST for a profile that is not loaded, and for any profile on a host without AppArmor.
 */
export function appArmorProfile(input: AppArmorInput): string | undefined {
  const profile = input.profile ?? deprecatedProfile(input.deprecated, 'apparmor_profile');
  if (!input.supported) {
    if (profile === undefined || profile.profileType === Kind.Unconfined) return undefined;
    throw new SluiceError('INVALID_REQUEST', 'linux.security_context.apparmor: AppArmor is not supported on this host');
  }
  checkProfile(profile, 'apparmor');
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

/**
 * Name of the requested Localhost profile. Only when there is one must the caller read the loaded profiles
 * (readAppArmorProfiles).
 */
export function appArmorProfileToFind(profile: SecurityProfile | undefined, deprecated: string): string | undefined {
  const asked = profile ?? deprecatedProfile(deprecated, 'apparmor_profile');
  return asked?.profileType === Kind.Localhost ? asked.localhostRef.replace(/^localhost\//, '') : undefined;
}

interface ProfileTextInput {
  /** Whether /etc/apparmor.d/tunables/global exists. */
  tunables: boolean;
  /** Whether /etc/apparmor.d/abstractions/base exists. */
  abstractions: boolean;
  /** Whether /etc/apparmor.d/abi/3.0 exists. */
  abi: boolean;
  /** Profile of the daemon (mostly "unconfined"), which must be allowed to send signals to containers. */
  daemonProfile: string;
  name?: string;
}

/**
 * Source text of the default profile, for apparmor_parser. It allows files, network and capabilities, which namespaces,
 * seccomp and the capability sets restrict, and denies what affects the host or other containers: mount(2), writes to
 * the parts of /proc and /sys that change the host, and signals and ptrace across profiles.
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
    '  # The runtime and the daemon may send signals to the container; its processes may signal and trace one another.',
    ...Array.from(senders, (peer) => `  signal (receive) peer=${peer},`),
    `  signal (send, receive) peer=${name},`,
    `  ptrace (trace, read, tracedby, readby) peer=${name},`,
    '',
    '  # /proc: only /proc/<pid> and the sysctls of the kernel.shm family stay writable.',
    '  deny @{PROC}/* w,',
    '  deny @{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/** w,',
    '  deny @{PROC}/{[^1-9s/][^0-9/][^0-9/],s[^0-9y/][^0-9/],sy[^0-9s/]}/** w,',
    '  deny @{PROC}/sys/[^k]** w,',
    '  deny @{PROC}/sys/kernel/{[^s]**,s,s[^h]**,sh,sh[^m]**} w,',
    '  deny @{PROC}/kcore rwklx,',
    '  deny @{PROC}/sysrq-trigger rwklx,',
    '',
    '  # /sys: only the cgroup tree may be written; whether it is writable depends on the options of its mount.',
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

import { SecurityProfile_ProfileType as Kind, type SecurityProfile } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { decodeExact } from './encode.ts';
import { type HostFacts, kernelAtLeast } from './host.ts';
import { checkProfile, deprecatedProfile } from './security-profile.ts';
import { ALLOWED, ALLOWED_ON, ALLOWED_WITH, TRACING } from './syscalls.ts';
import type { Seccomp, SeccompArg, SeccompRule } from './types.ts';

interface SeccompInput {
  profile: SecurityProfile | undefined;
  /**
   * The deprecated field: "", "unconfined", "runtime/default", "docker/default" or "localhost/<path>". Used only when
   * `profile` is undefined.
   */
  deprecated: string;
  privileged: boolean;
  /** The parsed Localhost profile (see {@link parseSeccompProfile}). */
  localhost: Seccomp | undefined;
  /** The bounding set of capabilities; the default profile allows further system calls for some of them. */
  capabilities: readonly string[];
  host: HostFacts;
}

/**
 * `linux.seccomp`; undefined means unconfined. A request without a profile is unconfined (kubelet sends RuntimeDefault
 * when its seccompDefault is on), and so is every privileged container.
 * Throws INVALID_REQUEST for a profile on a kernel without seccomp, and when `localhost` is missing for a Localhost
 * profile.
 */
export function seccompProfile(input: SeccompInput): Seccomp | undefined {
  const profile = input.profile ?? deprecatedProfile(input.deprecated, 'seccomp_profile_path');
  checkProfile(profile, 'seccomp');
  if (input.privileged || profile === undefined || profile.profileType === Kind.Unconfined) return undefined;
  if (!input.host.seccomp) {
    throw new SluiceError('INVALID_REQUEST', 'linux.security_context.seccomp: the kernel of this host has no seccomp');
  }
  if (profile.profileType === Kind.RuntimeDefault) return defaultSeccomp(input.capabilities, input.host);
  if (input.localhost === undefined) {
    throw new SluiceError('INVALID_REQUEST', `seccomp profile "${profile.localhostRef}" could not be read`);
  }
  return input.localhost;
}

/**
 * Path of the requested Localhost profile; undefined when there is none to read. Throws INVALID_REQUEST for a relative
 * path.
 */
export function seccompFile(
  profile: SecurityProfile | undefined,
  deprecated: string,
  privileged: boolean,
): string | undefined {
  const asked = profile ?? deprecatedProfile(deprecated, 'seccomp_profile_path');
  if (privileged || asked?.profileType !== Kind.Localhost) return undefined;
  const path = asked.localhostRef.replace(/^localhost\//, '');
  if (!path.startsWith('/')) {
    throw new SluiceError('INVALID_REQUEST', `linux.security_context.seccomp: "${path}" is not an absolute path`);
  }
  return path;
}

/**
 * Parses a profile file: JSON in the form of `linux.seccomp`. Throws INVALID_REQUEST, with the path, for anything else.
 */
export function parseSeccompProfile(text: string, path: string): Seccomp {
  let profile: unknown;
  try {
    profile = decodeExact(text);
  } catch (cause) {
    throw new SluiceError('INVALID_REQUEST', `seccomp profile "${path}" is not valid JSON`, { cause });
  }
  if (typeof profile !== 'object' || profile === null || typeof (profile as Seccomp).defaultAction !== 'string') {
    throw new SluiceError('INVALID_REQUEST', `seccomp profile "${path}" has no defaultAction`);
  }
  return profile as Seccomp;
}

/** The flags of clone(2) that create namespaces: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. */
const CLONE_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000;
const AF_ALG = 38;
const AF_VSOCK = 40;
const ENOSYS = 38;
/**
 * Arguments of personality(2): PER_LINUX, PER_LINUX32, both with UNAME26, and 0xffffffff, which queries the present
 * one.
 */
const PERSONALITIES = [0x0, 0x0008, 0x20000, 0x20008, 0xffffffff];

/** The default profile: an allow-list; every other system call fails with EPERM. */
export function defaultSeccomp(capabilities: readonly string[], host: Pick<HostFacts, 'arch' | 'kernel'>): Seccomp {
  const rules: SeccompRule[] = [allow(Object.values(ALLOWED).flat())];
  // All address families except AF_ALG and AF_VSOCK, in one rule per range: runc combines several conditions on the
  // same argument with OR, so NE and NE would allow both.
  rules.push(allow(['socket'], { op: 'SCMP_CMP_LT', value: AF_ALG }));
  rules.push(allow(['socket'], { op: 'SCMP_CMP_EQ', value: AF_ALG + 1 }));
  rules.push(allow(['socket'], { op: 'SCMP_CMP_GT', value: AF_VSOCK }));
  for (const value of PERSONALITIES) rules.push(allow(['personality'], { op: 'SCMP_CMP_EQ', value }));
  if (kernelAtLeast(host.kernel, 4, 8)) rules.push(allow(TRACING));
  const special = ALLOWED_ON[host.arch];
  if (special !== undefined) rules.push(allow(special));
  for (const capability of capabilities) {
    const names = ALLOWED_WITH[capability];
    if (names !== undefined) rules.push(allow(names));
  }
  if (!capabilities.includes('CAP_SYS_ADMIN')) {
    const flags = host.arch === 's390x' ? 1 : 0; // on s390x the flags are the second argument of clone
    rules.push(allow(['clone'], { op: 'SCMP_CMP_MASKED_EQ', value: CLONE_NAMESPACES, valueTwo: 0 }, flags));
    // A filter cannot read clone3's flags from memory; ENOSYS makes the C library fall back to clone (moby#42681).
    rules.push({ names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS });
  }
  return { defaultAction: 'SCMP_ACT_ERRNO', architectures: ARCHITECTURES[host.arch] ?? [], syscalls: rules };
}

/** By process.arch: the architecture, and those whose binaries the same kernel also runs. */
const ARCHITECTURES: Readonly<Record<string, string[]>> = {
  x64: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
  arm64: ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'],
  s390x: ['SCMP_ARCH_S390X', 'SCMP_ARCH_S390'],
  riscv64: ['SCMP_ARCH_RISCV64'],
  loong64: ['SCMP_ARCH_LOONGARCH64'],
};

function allow(names: readonly string[], arg?: Omit<SeccompArg, 'index'>, index = 0): SeccompRule {
  const rule: SeccompRule = { names: [...names], action: 'SCMP_ACT_ALLOW' };
  if (arg !== undefined) rule.args = [{ index, ...arg }];
  return rule;
}

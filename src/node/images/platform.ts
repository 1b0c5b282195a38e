/** Platforms: which image of an index is for this machine. */
import { readFileSync } from 'node:fs';
import { SluiceError } from '../../errors.ts';

export interface Platform {
  os: string;
  architecture: string;
  variant?: string;
}

/**
 * The descriptors of an index that may be for this machine, best first: those of its platforms, then those without a
 * platform.
 */
export function candidates<T extends { platform?: Platform }>(
  manifests: readonly T[],
  host: readonly Platform[] = hostPlatforms(),
): T[] {
  const named = host.flatMap((wanted) =>
    manifests.filter(({ platform }) => platform && samePlatform(platform, wanted)),
  );
  return [...new Set(named), ...manifests.filter(({ platform }) => platform === undefined)];
}

/** The error for an index without an image for this machine. */
export function noMatch(manifests: readonly { platform?: Platform }[], host = hostPlatforms()): SluiceError {
  const [first] = host;
  const found = manifests.flatMap(({ platform }) => (platform ? describe(platform) : []));
  const others = found.join(', ') || 'none';
  return invalid(`no match for platform in manifest: ${first && describe(first)} is not among ${others}`);
}

/**
 * Whether an image is for this machine by its own config: 'no' for another operating system; 'other' for another
 * architecture, which is taken where nothing else is offered, since many images are mislabelled.
 */
export function fits(
  { os, architecture }: { os?: string; architecture?: string },
  host: readonly Platform[] = hostPlatforms(),
): 'yes' | 'other' | 'no' {
  if (os && os.toLowerCase() !== 'linux') return 'no';
  if (!architecture) return 'yes';
  const own = normal({ os: 'linux', architecture }).architecture;
  return host.some((one) => one.architecture === own) ? 'yes' : 'other';
}

let detected: readonly Platform[] | undefined;

/** The platforms that this machine runs, best first. */
export function hostPlatforms(): readonly Platform[] {
  detected ??= platformsOf(process.arch, process.arch === 'x64' ? readFileSync('/proc/cpuinfo', 'utf8') : '');
  return detected;
}

/** From Node's name of the architecture and, for x64, the flags in /proc/cpuinfo (levels of the x86-64 psABI). */
export function platformsOf(arch: string, cpuinfo: string): Platform[] {
  const of = (architecture: string, ...variants: (string | undefined)[]) =>
    variants.map((variant) => ({ os: 'linux', architecture, variant }));
  if (arch === 'x64') {
    const flags = new Set(/^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.split(' '));
    const has = (names: string) => names.split(' ').every((name) => flags.has(name));
    const levels: (string | undefined)[] = ['v1', undefined];
    if (has('cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3')) {
      levels.unshift('v2');
      if (has('avx avx2 bmi1 bmi2 f16c fma abm movbe xsave')) {
        levels.unshift('v3');
        if (has('avx512f avx512bw avx512cd avx512dq avx512vl')) levels.unshift('v4');
      }
    }
    return [...of('amd64', ...levels), ...of('386', undefined)];
  }
  if (arch === 'arm64') return [...of('arm64', 'v8', undefined), ...of('arm', 'v8', 'v7', 'v6', 'v5', undefined)];
  if (arch === 'arm') return of('arm', 'v7', 'v6', 'v5', undefined);
  const names: Record<string, string> = { ia32: '386', ppc64: 'ppc64le', loong64: 'loong64' };
  return of(names[arch] ?? arch, undefined);
}

function samePlatform(platform: Platform, wanted: Platform): boolean {
  const { os, architecture, variant } = normal(platform);
  const own = normal(wanted);
  return os === own.os && architecture === own.architecture && variant === own.variant;
}

/** One spelling for each platform: a missing variant means amd64's v1, arm64's v8 and arm's v7. */
function normal({ os, architecture, variant }: Platform): Platform {
  const names: Record<string, string> = {
    x86_64: 'amd64',
    'x86-64': 'amd64',
    aarch64: 'arm64',
    i386: '386',
    armhf: 'arm',
  };
  const name = names[architecture.toLowerCase()] ?? architecture.toLowerCase();
  const usual: Record<string, string> = { amd64: 'v1', arm64: 'v8', arm: 'v7' };
  const numbered = variant && /^\d/.test(variant) ? `v${variant}` : variant;
  return { os: os.toLowerCase(), architecture: name, variant: numbered || usual[name] };
}

export const describe = ({ os, architecture, variant }: Platform) =>
  [os, architecture, variant].filter(Boolean).join('/');

const invalid = (message: string) => new SluiceError('IMAGE_INVALID', message);

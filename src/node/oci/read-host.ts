import { access, readdir, readFile, statfs } from 'node:fs/promises';
import { hostname, release } from 'node:os';
import { join } from 'node:path';
import { parseMountinfo } from '../../sys/mountinfo.ts';
import { run } from '../../sys/spawn.ts';
import { commandOf, type Executable } from '../../workers/programs.ts';
import { capabilitiesOf } from './capabilities.ts';
import { type HostFacts, NO_FEATURES, parseRuntimeFeatures, type RuntimeFeatures } from './host.ts';
import { lowestOomScore } from './oom-score.ts';

const CGROUP2_MAGIC = 0x63677270;
const CGROUP = '/sys/fs/cgroup';

/**
 * Reads the properties of the host; called once, at start. Rejects with the error of the file system when /proc or /sys
 * cannot be read.
 */
export async function readHostFacts(cgroupDriver: 'auto' | 'cgroupfs' | 'systemd'): Promise<HostFacts> {
  const status = await readFile('/proc/self/status', 'utf8');
  const capabilities = capabilitiesOf(/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0');
  const cgroupVersion = (await statfs(CGROUP)).type === CGROUP2_MAGIC ? 2 : 1;
  const systemd = await exists('/run/systemd/system'); // sd_booted(3)
  return {
    arch: process.arch,
    kernel: release(),
    hostname: hostname(),
    bootId: (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim(),
    cgroupVersion,
    cgroupDriver: cgroupDriver === 'auto' ? (systemd ? 'systemd' : 'cgroupfs') : cgroupDriver,
    cgroupMountOptions: await cgroupMountOptions(),
    swapController:
      cgroupVersion === 2 ? await swapOnV2() : await exists(`${CGROUP}/memory/memory.memsw.limit_in_bytes`),
    hugetlbController:
      cgroupVersion === 2
        ? (await readFile(`${CGROUP}/cgroup.controllers`, 'utf8')).split(/\s+/).includes('hugetlb')
        : await exists(`${CGROUP}/hugetlb`),
    capabilities,
    lowestOomScoreAdj: lowestOomScore(),
    seccomp: /^Seccomp:/m.test(status),
    apparmor: await hasAppArmor(),
    selinux: await exists('/sys/fs/selinux/enforce'),
  };
}

/**
 * Runs `runc features` of an OCI runtime, with a limit of 10 s. {@link NO_FEATURES} when the command
 * fails, as it does with crun before 1.9, which does not have it.
 */
export async function readRuntimeFeatures(runtime: Executable, kernel: string): Promise<RuntimeFeatures> {
  const answer = await run({ ...commandOf(runtime, ['features']), env: {}, timeoutMs: 10_000 });
  return answer.code === 0 ? parseRuntimeFeatures(answer.stdout.toString(), kernel) : NO_FEATURES;
}

/**
 * Whether a shim makes idmapped mounts of a rootfs (mount options `uidmap=` and `gidmap=`):
 * containerd's shim does from 2.0 on. A shim whose `-v` prints no such version is assumed to.
 */
export async function shimMapsRootfs(shim: Executable): Promise<boolean> {
  const { stdout } = await run({ ...commandOf(shim, ['-v']), env: {}, timeoutMs: 10_000 });
  const major = /^\s*Version:\s*v?(\d+)\./m.exec(stdout.toString())?.[1];
  return major === undefined || Number(major) >= 2;
}

/**
 * Names of the loaded AppArmor profiles (/sys/kernel/security/apparmor/profiles); empty on a host without AppArmor. Not
 * cached, because DaemonSets load profiles at any time.
 */
export async function readAppArmorProfiles(): Promise<string[]> {
  const text = await readFile('/sys/kernel/security/apparmor/profiles', 'utf8').catch(absent);
  return (text ?? '').split('\n').flatMap((line) => /^(.+) \([^)]*\)$/.exec(line)?.[1] ?? []);
}

async function hasAppArmor(): Promise<boolean> {
  const enabled = await readFile('/sys/module/apparmor/parameters/enabled', 'utf8').catch(absent);
  if (enabled?.[0] !== 'Y' || !(await exists('/sys/kernel/security/apparmor'))) return false;
  return (await exists('/sbin/apparmor_parser')) || (await exists('/usr/sbin/apparmor_parser'));
}

/**
 * Whether memory.swap.max exists. The root cgroup never has it, so when the daemon runs there this looks at the root's
 * children.
 */
async function swapOnV2(): Promise<boolean> {
  const own = /^0::(.*)$/m.exec(await readFile('/proc/self/cgroup', 'utf8'))?.[1] ?? '/';
  if (await exists(join(CGROUP, own, 'memory.swap.max'))) return true;
  for (const entry of await readdir(CGROUP, { withFileTypes: true })) {
    if (entry.isDirectory() && (await exists(join(CGROUP, entry.name, 'memory.swap.max')))) return true;
  }
  return false;
}

async function cgroupMountOptions(): Promise<string[]> {
  const table = parseMountinfo(await readFile('/proc/self/mountinfo', 'utf8'));
  const mount = table.findLast(({ mountPoint, type }) => mountPoint === CGROUP && type === 'cgroup2');
  return ['nsdelegate', 'memory_recursiveprot'].filter((option) => mount?.superOptions.includes(option));
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    absent(error);
    return false;
  }
}

/** Undefined for ENOENT and ENOTDIR; throws every other error. */
function absent(error: unknown): undefined {
  const { code } = error as NodeJS.ErrnoException;
  if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
}

import { access, readdir, readFile, statfs } from 'node:fs/promises';
import { hostname, release } from 'node:os';
import { join } from 'node:path';
import { parseMountinfo } from '../../sys/mountinfo.ts';
import { run } from '../../sys/spawn.ts';
import { capabilitiesOf } from './capabilities.ts';
import { type HostFacts, NO_FEATURES, parseRuntimeFeatures, type RuntimeFeatures } from './host.ts';
import { lowestOomScore } from './oom-score.ts';
import { readDevices } from './read-devices.ts';

const CGROUP2_MAGIC = 0x63677270;
const CGROUP = '/sys/fs/cgroup';

/** Looks at the host, once, at start. Throws what the file system says where /proc or /sys cannot be read. */
export async function readHostFacts(cgroupDriver: 'auto' | 'cgroupfs' | 'systemd'): Promise<HostFacts> {
  const status = await readFile('/proc/self/status', 'utf8');
  const capabilities = capabilitiesOf(/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0');
  const cgroupVersion = (await statfs(CGROUP)).type === CGROUP2_MAGIC ? 2 : 1;
  const systemd = await exists('/run/systemd/system'); // sd_booted(3)
  return {
    arch: process.arch,
    kernel: release(),
    hostname: hostname(),
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
    devices: await readDevices('/dev', '/dev'),
  };
}

/** Asks an OCI runtime (absolute path) what it can do. A runtime without `features` (crun before 1.9) has none. */
export async function readRuntimeFeatures(binary: string, kernel: string): Promise<RuntimeFeatures> {
  const answer = await run({ path: binary, argv: [binary, 'features'], env: {}, timeoutMs: 10_000 });
  return answer.code === 0 ? parseRuntimeFeatures(answer.stdout.toString(), kernel) : NO_FEATURES;
}

/**
 * Does a shim (absolute path) map the layers of a rootfs (`uidmap=` among the mount options)? containerd's do from 2.0 on; one that
 * does not say its version so is taken to know what it is asked.
 */
export async function shimMapsRootfs(binary: string): Promise<boolean> {
  const { stdout } = await run({ path: binary, argv: [binary, '-v'], env: {}, timeoutMs: 10_000 });
  const major = /^\s*Version:\s*v?(\d+)\./m.exec(stdout.toString())?.[1];
  return major === undefined || Number(major) >= 2;
}

/**
 * The names in /sys/kernel/security/apparmor/profiles; none where the host has no AppArmor. Read afresh for each Localhost profile:
 * DaemonSets load them at any time.
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

/** The root of the hierarchy has no memory.swap.max, and the daemon may sit there: then any child tells. */
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

/** Turns "not there" into undefined; anything else is thrown on. */
function absent(error: unknown): undefined {
  const { code } = error as NodeJS.ErrnoException;
  if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
}

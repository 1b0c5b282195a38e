import { type HostFacts, kernelAtLeast } from '../oci/host.ts';
import { type Finding, finding, type MachineFiles } from './finding.ts';

const NAMESPACES = ['net', 'mnt', 'pid', 'ipc', 'uts', 'user', 'cgroup'] as const;
const NEEDED_CONTROLLERS = ['cpu', 'cpuset', 'memory', 'pids', 'io'] as const;

/** What pods cannot do without, and what the daemon or runtimes do with it. */
const CAPABILITIES: Record<string, string> = {
  CAP_SYS_ADMIN: 'namespaces and mounts',
  CAP_NET_ADMIN: 'the pod network',
  CAP_SYS_RESOURCE: 'oom_score_adj below the daemon’s own, and limits of containers',
  CAP_SYS_CHROOT: 'root file systems',
  CAP_SETUID: 'users of containers',
  CAP_SETGID: 'groups of containers',
  CAP_MKNOD: 'devices',
  CAP_CHOWN: 'owners of files in layers',
  CAP_DAC_OVERRIDE: 'files of other users',
  CAP_KILL: 'processes of other users',
  CAP_SYS_PTRACE: '/proc of other users’ processes',
};

/** Features of the kernel, its cgroups and the rights of whoever asks. */
export function kernelFindings(host: HostFacts, files: MachineFiles): Finding[] {
  const { kernel } = host;
  const filesystems = files.read('/proc/filesystems') ?? '';
  const missing = NAMESPACES.filter((name) => !files.exists(`/proc/self/ns/${name}`));
  const userns = Number(files.read('/proc/sys/user/max_user_namespaces') ?? 0);
  return [
    finding('kernel', 'release', kernelAtLeast(kernel, 5, 4), {
      found: kernel,
      advice: 'Linux 5.4 or later; 5.19 for user namespaces on overlayfs',
    }),
    finding('kernel', 'overlayfs', /\toverlay$/m.test(filesystems) || files.exists('/sys/module/overlay'), {
      found: /\toverlay$/m.test(filesystems) ? 'there' : 'not loaded',
      advice: 'modprobe overlay, and name it in /etc/modules-load.d',
      otherwise: 'bad',
    }),
    finding('kernel', 'namespaces', missing.length === 0, {
      found: missing.length === 0 ? 'all' : `without ${missing.join(', ')}`,
      advice: 'a kernel with these namespaces',
      otherwise: 'bad',
    }),
    finding('kernel', 'user namespaces', userns > 0 && kernelAtLeast(kernel, 5, 19), {
      found:
        userns === 0
          ? 'none (user.max_user_namespaces)'
          : `${userns} at most, idmapped overlayfs ${kernelAtLeast(kernel, 5, 19) ? 'works' : 'does not work'}`,
      advice: 'pods with hostUsers: false need user.max_user_namespaces above 0 and Linux 5.19',
    }),
    finding('kernel', 'recursively read-only mounts', kernelAtLeast(kernel, 5, 12), {
      found: kernel,
      advice: 'pods with recursiveReadOnly need Linux 5.12',
    }),
    finding('kernel', 'pidfd', kernelAtLeast(kernel, 5, 3), {
      found: kernel,
      advice: 'Linux 5.3: before that a process could be mistaken for a later one with its number',
    }),
    finding('kernel', 'seccomp', host.seccomp, {
      found: host.seccomp ? 'there' : 'missing',
      advice: 'a kernel with CONFIG_SECCOMP_FILTER; pods run without a profile otherwise',
    }),
    finding('kernel', 'security modules', true, { found: securityModules(host, files), advice: '' }),
    ...cgroupFindings(host, files),
    ...rightsFindings(host),
  ];
}

function securityModules(host: HostFacts, files: MachineFiles): string {
  const enforcing = files.read('/sys/fs/selinux/enforce') === '1';
  const selinux = host.selinux ? `SELinux ${enforcing ? 'enforces' : 'is permissive'}` : 'no SELinux';
  return `${selinux}, ${host.apparmor ? 'AppArmor' : 'no AppArmor (or no apparmor_parser)'}`;
}

function cgroupFindings(host: HostFacts, files: MachineFiles): Finding[] {
  const v2 = host.cgroupVersion === 2;
  const controllers = v2
    ? (files.read('/sys/fs/cgroup/cgroup.controllers') ?? '').split(/\s+/)
    : (files.read('/proc/cgroups') ?? '').split('\n').map((line) => (line.split('\t')[0] ?? '').replace('blkio', 'io'));
  const lacking = NEEDED_CONTROLLERS.filter((name) => !controllers.includes(name));
  const booted = files.exists('/run/systemd/system');
  return [
    finding('cgroups', 'version', v2, {
      found: `v${host.cgroupVersion}`,
      advice: 'v2: kubelet 1.35 refuses v1 by default',
    }),
    finding('cgroups', 'controllers', lacking.length === 0, {
      found: lacking.length === 0 ? NEEDED_CONTROLLERS.join(' ') : `without ${lacking.join(' ')}`,
      advice: 'limits of these kinds are refused; see cgroup_disable on the kernel’s command line',
      otherwise: lacking.some((name) => name !== 'io') ? 'bad' : 'poor',
    }),
    finding('cgroups', 'driver', !booted || host.cgroupDriver === 'systemd', {
      found: `${host.cgroupDriver}, systemd is ${booted ? '' : 'not '}PID 1`,
      advice: 'two managers of one tree: set cgroup_driver = "systemd" here and cgroupDriver in the kubelet',
    }),
    finding('cgroups', 'swap', host.swapController, {
      found: host.swapController ? 'can be limited' : 'cannot be limited',
      advice: 'swapaccount=1 on the kernel’s command line; without it pods’ swap limits are ignored',
    }),
    finding('cgroups', 'pressure', files.exists('/proc/pressure/cpu'), {
      found: files.exists('/proc/pressure/cpu') ? 'PSI is on' : 'PSI is off',
      advice: 'psi=1 on the kernel’s command line, for pressure in stats',
    }),
  ];
}

function rightsFindings(host: HostFacts): Finding[] {
  const lacking = Object.keys(CAPABILITIES).filter((name) => !host.capabilities.includes(name));
  const why = lacking.map((name) => `${name} (${CAPABILITIES[name]})`).join(', ');
  return [
    finding('rights', 'capabilities', lacking.length === 0, {
      found: lacking.length === 0 ? 'all that are needed' : `without ${why}`,
      advice: 'run as root, and outside of a container that drops them',
      otherwise: lacking.includes('CAP_SYS_ADMIN') || lacking.includes('CAP_NET_ADMIN') ? 'bad' : 'poor',
    }),
    finding('rights', 'oom_score_adj', host.lowestOomScoreAdj <= -1000, {
      found: `down to ${host.lowestOomScoreAdj}`,
      advice: 'CAP_SYS_RESOURCE; lower values of pods are clamped to this',
    }),
  ];
}

import { type Finding, finding, type MachineFiles } from './finding.ts';

interface Sysctl {
  path: string;
  least: number;
  /** Why, and for what. */
  advice: string;
  otherwise?: 'poor' | 'bad';
  area?: Finding['area'];
}

/** Values for a few hundred pods. */
const SYSCTLS: Record<string, Sysctl> = {
  'net.ipv4.ip_forward': {
    path: '/proc/sys/net/ipv4/ip_forward',
    least: 1,
    advice: 'sysctl -w net.ipv4.ip_forward=1: without it pods reach nothing outside of their node',
    area: 'network',
  },
  'net.bridge.bridge-nf-call-iptables': {
    path: '/proc/sys/net/bridge/bridge-nf-call-iptables',
    least: 1,
    advice: 'modprobe br_netfilter and set it to 1 where kube-proxy works with iptables and pods are on a bridge',
    area: 'network',
  },
  'net.ipv4.neigh.default.gc_thresh3': {
    path: '/proc/sys/net/ipv4/neigh/default/gc_thresh3',
    least: 1024,
    advice: 'the table of neighbours overflows with more pods than this',
    area: 'network',
  },
  'fs.inotify.max_user_instances': {
    path: '/proc/sys/fs/inotify/max_user_instances',
    least: 512,
    advice: 'programs in pods fail with "too many open files"; set 8192',
  },
  'fs.inotify.max_user_watches': {
    path: '/proc/sys/fs/inotify/max_user_watches',
    least: 65_536,
    advice: 'programs in pods fail with "no space left on device"; set 524288',
  },
  'fs.file-max': {
    path: '/proc/sys/fs/file-max',
    least: 262_144,
    advice: 'the whole machine’s open files',
  },
  'kernel.pid_max': {
    path: '/proc/sys/kernel/pid_max',
    least: 65_536,
    advice: 'a pod takes some 30 processes and threads beside its own; set 4194304',
  },
  'kernel.threads-max': { path: '/proc/sys/kernel/threads-max', least: 32_768, advice: 'as kernel.pid_max' },
  'kernel.keys.root_maxkeys': {
    path: '/proc/sys/kernel/keys/root_maxkeys',
    least: 10_000,
    advice: 'every container takes a key of the kernel’s keyring',
  },
};

/** Descriptors that the daemon takes at most for a pod: connection, FIFOs, log, watches. */
const DESCRIPTORS = 16_384;

/** Limits that a node with many pods reaches first. */
export function limitFindings(files: MachineFiles): Finding[] {
  const found = Object.entries(SYSCTLS).map(([name, { path, least, advice, otherwise, area = 'limits' }]) => {
    const text = files.read(path);
    const good = text !== undefined && Number(text) >= least;
    return finding(area, name, good, { found: text ?? 'absent', advice, otherwise });
  });
  return [...found, openFiles(files), ...processes(files)];
}

function openFiles(files: MachineFiles): Finding {
  const hard = /^Max open files\s+\S+\s+(\S+)/m.exec(files.read('/proc/self/limits') ?? '')?.[1] ?? '0';
  return finding('limits', 'open files', hard === 'unlimited' || Number(hard) >= DESCRIPTORS, {
    found: hard,
    advice: 'LimitNOFILE=1048576 in the unit: the hard limit of this shell, which the daemon’s may differ from',
  });
}

/** pids.max of the cgroups that this process is in. */
function processes(files: MachineFiles): Finding[] {
  const own = /^0::(.*)$/m.exec(files.read('/proc/self/cgroup') ?? '')?.[1];
  const parts = (own ?? '/').split('/').filter(Boolean);
  const paths = parts.map((_, at) => `/sys/fs/cgroup/${parts.slice(0, at + 1).join('/')}/pids.max`);
  const bounds = paths.flatMap((path) => {
    const text = files.read(path);
    return text === undefined || text === 'max' ? [] : [Number(text)];
  });
  const least = Math.min(...bounds);
  return [
    finding('limits', 'pids of this cgroup', least >= 4096, {
      found: bounds.length === 0 ? 'no limit' : String(least),
      advice: 'TasksMax=infinity in the unit: shims of pods count as the daemon’s',
    }),
  ];
}

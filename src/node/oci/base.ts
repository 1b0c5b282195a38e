import { capabilitySets, DEFAULT_CAPABILITIES } from './capabilities.ts';
import type { HostFacts } from './host.ts';
import type { Mount, Rlimit, Spec } from './types.ts';

/**
 * The newest version that all runtimes in use accept: crun before 1.9 refuses 1.1 and later. No runtime enables a
 * feature by it.
 */
export const OCI_VERSION = '1.0.2';

/** RLIMIT_NOFILE of a container. It is always set, because containers would otherwise inherit the daemon's limits. */
export interface OpenFiles {
  soft: number;
  hard: number;
}

/**
 * The part of the spec that sandboxes and containers have in common. Each call returns a new object, which the caller
 * may change.
 */
export function baseSpec(host: HostFacts, gidMapped: (gid: number) => boolean = () => true): Spec {
  return {
    ociVersion: OCI_VERSION,
    process: {
      terminal: false,
      user: { uid: 0, gid: 0, additionalGids: [0] },
      args: [],
      env: [],
      cwd: '/',
      capabilities: capabilitySets(DEFAULT_CAPABILITIES.filter((name) => host.capabilities.includes(name))),
      noNewPrivileges: false,
    },
    root: { path: 'rootfs', readonly: false },
    mounts: defaultMounts(gidMapped),
    annotations: {},
    linux: {
      // The runtime adds rules that allow null, zero, full, random, urandom, tty, ptmx, console and pts.
      resources: { devices: [{ allow: false, access: 'rwm' }] },
      cgroupsPath: '',
      namespaces: [{ type: 'mount' }],
      maskedPaths: [],
      readonlyPaths: [],
    },
  };
}

function defaultMounts(gidMapped: (gid: number) => boolean): Mount[] {
  const pts = ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620'];
  if (gidMapped(TTY_GID)) pts.push(`gid=${TTY_GID}`); // devpts refuses a gid that the user namespace does not map
  return [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    {
      destination: '/dev',
      type: 'tmpfs',
      source: 'tmpfs',
      options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
    },
    { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: pts },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
    { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
  ];
}

const TTY_GID = 5;

/**
 * The /sys of a pod with its own user namespace on the host's network: a read-only bind mount of the host's /sys. The
 * kernel refuses to mount sysfs there, because the network namespace that it shows does not belong to the pod's user
 * namespace. `recursiveReadOnly` makes the mounts below /sys read-only as well; without it only the top mount is.
 */
export function hostSysfs(recursiveReadOnly: boolean): Mount {
  return {
    destination: '/sys',
    type: 'bind',
    source: '/sys',
    options: ['rbind', recursiveReadOnly ? 'rro' : 'ro', 'nosuid', 'nodev', 'noexec'],
  };
}

export function openFilesLimit(limit: OpenFiles | undefined): Rlimit[] | undefined {
  return limit === undefined ? undefined : [{ type: 'RLIMIT_NOFILE', soft: limit.soft, hard: limit.hard }];
}

/** oom_score_adj, raised to the lowest value that the daemon may set: below it runc fails with EACCES. */
export function oomScoreAdj(wanted: number, host: HostFacts): number {
  return Math.max(wanted, host.lowestOomScoreAdj);
}

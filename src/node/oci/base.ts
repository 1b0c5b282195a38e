import { capabilitySets, DEFAULT_CAPABILITIES } from './capabilities.ts';
import type { HostFacts } from './host.ts';
import type { Mount, Rlimit, Spec } from './types.ts';

/** The newest that all runtimes in use read: crun before 1.9 refuses 1.1 and later, and none makes anything depend on it. */
export const OCI_VERSION = '1.0.2';

/** Soft and hard limit of open files, explicit so that the daemon's own do not leak into every pod. */
export interface OpenFiles {
  soft: number;
  hard: number;
}

/** What sandboxes and containers have in common; all of it is fresh, so a builder may change it. */
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
      // The runtime itself allows null, zero, full, random, urandom, tty, ptmx, console and pts on top.
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
  if (gidMapped(TTY_GID)) pts.push(`gid=${TTY_GID}`); // the kernel refuses a group that the user namespace does not have
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
 * A pod on the host's network with a user namespace of its own may not mount sysfs (it shows the network namespace, which is
 * the host's): it gets the host's /sys, read-only to the last mount below it where the runtime can do that.
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

/** The daemon cannot give a process a better oom_score_adj than the host lets it: runc would fail with EACCES. */
export function oomScoreAdj(wanted: number, host: HostFacts): number {
  return Math.max(wanted, host.lowestOomScoreAdj);
}

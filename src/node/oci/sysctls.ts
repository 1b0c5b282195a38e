import { SluiceError } from '../../errors.ts';

/** Namespaces that the pod has of its own. */
export interface OwnNamespaces {
  network: boolean;
  ipc: boolean;
  uts: boolean;
  user: boolean;
}

const IPC = new Set([
  'kernel.msgmax',
  'kernel.msgmnb',
  'kernel.msgmni',
  'kernel.sem',
  'kernel.shmall',
  'kernel.shmmax',
  'kernel.shmmni',
  'kernel.shm_rmid_forced',
]);

/**
 * `linux.sysctl`: the pod's, completed so that a process without capabilities may listen on any port and send pings. Those two are of the
 * network namespace; ping_group_range cannot be set in a user namespace, where most group ids do not exist.
 *
 * Throws INVALID_REQUEST for a sysctl that belongs to no namespace or to one of the host's: setting it would change the host.
 */
export function podSysctls(asked: Readonly<Record<string, string>>, own: OwnNamespaces): Record<string, string> {
  const sysctls: Record<string, string> = {};
  if (own.network) {
    sysctls['net.ipv4.ip_unprivileged_port_start'] = '0';
    if (!own.user) sysctls['net.ipv4.ping_group_range'] = '0 2147483647';
  }
  for (const [given, value] of Object.entries(asked)) {
    const name = dotted(given);
    checkNamespace(name, own);
    sysctls[name] = value;
  }
  return sysctls;
}

function checkNamespace(name: string, own: OwnNamespaces): void {
  const [owned, namespace] = name.startsWith('net.')
    ? [own.network, 'network']
    : name.startsWith('fs.mqueue.') || IPC.has(name)
      ? [own.ipc, 'IPC']
      : name === 'kernel.domainname'
        ? [own.uts, 'UTS']
        : [false, undefined];
  if (owned) return;
  throw new SluiceError(
    'INVALID_REQUEST',
    namespace === undefined
      ? `linux.sysctls: "${name}" is not a namespaced sysctl, it would change the host`
      : `linux.sysctls: "${name}" belongs to the ${namespace} namespace, which this pod shares with the host`,
  );
}

/** sysctl(8) takes both forms; where "/" comes first it separates, and a "." is part of a name (net/ipv4/conf/eth0.1/...). */
function dotted(name: string): string {
  const slash = name.indexOf('/');
  const dot = name.indexOf('.');
  if (slash < 0 || (dot >= 0 && dot < slash)) return name;
  return name.replace(/[./]/g, (char) => (char === '/' ? '.' : '/'));
}

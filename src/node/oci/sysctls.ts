import { SluiceError } from '../../errors.ts';

/** Which namespaces a pod has itself, as opposed to sharing the host's. */
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
 * `linux.sysctl`: the sysctls of the request, and, for a pod with its own network namespace, two that let processes
 * without capabilities listen on any port and send ICMP echo requests. ping_group_range is omitted in a user namespace,
 * where setting it fails because most group ids are not mapped.
 *
 * Throws INVALID_REQUEST for a sysctl that is not namespaced or whose namespace is the host's: setting it would change
 * the host.
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

/**
 * The form with "." as separator. As in sysctl(8), when "/" comes first it separates, and "." is part of a name
 * (net/ipv4/conf/eth0.1/...).
 */
function dotted(name: string): string {
  const slash = name.indexOf('/');
  const dot = name.indexOf('.');
  if (slash < 0 || (dot >= 0 && dot < slash)) return name;
  return name.replace(/[./]/g, (char) => (char === '/' ? '.' : '/'));
}

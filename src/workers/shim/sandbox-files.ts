import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { C } from '../../sys/libc.ts';
import { mount } from '../../sys/mount.ts';
import { removeTree } from './remove-bundle.ts';

/** CRI's DNSConfig. */
export interface Dns {
  servers: string[];
  searches: string[];
  options: string[];
}

export interface SandboxFilesInput {
  /** Gets hostname, hosts and resolv.conf. */
  rootDir: string;
  /** Gets shm/. */
  stateDir: string;
  hostname: string;
  /** Left out: the host's resolv.conf. */
  dns?: Dns;
  /** The pod shares the host's IPC: no shm of its own. */
  hostIpc: boolean;
  /** Host ids of the root of the pod's own user namespace. */
  owner?: { uid: number; gid: number };
}

const SHM_BYTES = 64 << 20;

/** The files that all containers of a pod share. Safe to repeat. Throws NAMESPACE_FAILED (or DISK_FULL). */
export function sandboxFiles({ rootDir, stateDir, hostname, dns, hostIpc, owner }: SandboxFilesInput): void {
  try {
    mkdirSync(rootDir, { recursive: true, mode: 0o755 });
    mkdirSync(stateDir, { recursive: true, mode: 0o755 });
    const write = (name: string, content: string | Buffer) =>
      writeFileSync(join(rootDir, name), content, { mode: 0o644 });
    write('hostname', `${hostname}\n`);
    write('hosts', fromHost('/etc/hosts', '127.0.0.1\tlocalhost\n::1\tlocalhost\n'));
    write('resolv.conf', dns ? resolvConf(dns) : fromHost('/etc/resolv.conf', ''));
    if (!hostIpc) mountShm(join(stateDir, 'shm'), stateDir, owner);
  } catch (cause) {
    throw new SluiceError('NAMESPACE_FAILED', `the pod’s files in ${rootDir} and ${stateDir} cannot be made`, {
      cause,
    });
  }
}

/** Undoes {@link sandboxFiles}. Safe to repeat. */
export async function removeSandboxFiles({ rootDir, stateDir }: { rootDir: string; stateDir: string }): Promise<void> {
  await removeTree(stateDir, ['shm']);
  await removeTree(rootDir, []);
}

/** search, nameserver, options, in that order; a list that is empty gives no line. */
export function resolvConf({ servers, searches, options }: Dns): string {
  const lines = servers.map((server) => `nameserver ${server}`);
  if (searches.length > 0) lines.unshift(`search ${searches.join(' ')}`);
  if (options.length > 0) lines.push(`options ${options.join(' ')}`);
  return lines.map((line) => `${line}\n`).join('');
}

/** A file of the host. Minimal hosts have neither; a pod does not fail for that. */
function fromHost(path: string, otherwise: string): string | Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return otherwise;
    throw error;
  }
}

function mountShm(target: string, parent: string, owner = { uid: 0, gid: 0 }): void {
  mkdirSync(target, { recursive: true, mode: 0o700 });
  // The stage ran before and was cut short after this point.
  if (statSync(target).dev !== statSync(parent).dev) return;
  mount({
    source: 'shm',
    target,
    type: 'tmpfs',
    flags: C.MS_NOEXEC | C.MS_NOSUID | C.MS_NODEV,
    data: `mode=1777,size=${SHM_BYTES},uid=${owner.uid},gid=${owner.gid}`,
  });
}

import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { C } from '../../sys/libc.ts';
import { mount } from '../../sys/mount.ts';
import { removeWithMounts } from './remove-bundle.ts';

/** CRI's DNSConfig. */
export interface Dns {
  servers: string[];
  searches: string[];
  options: string[];
}

export interface SandboxFilesInput {
  /** Folder for hostname, hosts and resolv.conf. */
  rootDir: string;
  /** Folder for shm/. */
  stateDir: string;
  hostname: string;
  /** When left out, the host's resolv.conf is copied. */
  dns?: Dns;
  /** The pod uses the host's IPC namespace and gets no shm. */
  hostIpc: boolean;
  /** Host ids of root in the pod's own user namespace. */
  owner?: { uid: number; gid: number };
}

const SHM_BYTES = 64 << 20;

/** Makes the files that all containers of a pod share. Idempotent. Throws NAMESPACE_FAILED (or DISK_FULL). */
export function sandboxFiles({ rootDir, stateDir, hostname, dns, hostIpc, owner }: SandboxFilesInput): void {
  try {
    mkdirSync(rootDir, { recursive: true, mode: 0o700 });
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
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

/** Undoes {@link sandboxFiles}. Idempotent. */
export async function removeSandboxFiles({ rootDir, stateDir }: { rootDir: string; stateDir: string }): Promise<void> {
  await removeWithMounts(stateDir, ['shm']);
  await removeWithMounts(rootDir, []);
}

/** The text of resolv.conf: search, nameserver, options, in this order; an empty list gives no line. */
export function resolvConf({ servers, searches, options }: Dns): string {
  const lines = servers.map((server) => `nameserver ${server}`);
  if (searches.length > 0) lines.unshift(`search ${searches.join(' ')}`);
  if (options.length > 0) lines.push(`options ${options.join(' ')}`);
  return lines.map((line) => `${line}\n`).join('');
}

/**
 * Reads a file of the host, or returns `otherwise`: minimal hosts lack these files, and a pod must not fail for that.
 */
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
  // An earlier, interrupted run of the stage has mounted it already.
  if (statSync(target).dev !== statSync(parent).dev) return;
  mount({
    source: 'shm',
    target,
    type: 'tmpfs',
    flags: C.MS_NOEXEC | C.MS_NOSUID | C.MS_NODEV,
    data: `mode=1777,size=${SHM_BYTES},uid=${owner.uid},gid=${owner.gid}`,
  });
}

import { chmodSync, chownSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { SluiceError } from '../../errors.ts';

export interface BundleInput {
  /**
   * Absolute path; its last component must be the container's id, since the shim's `delete` command builds the path
   * from it.
   */
  bundle: string;
  /** The folder for a container's FIFOs, which is made as well. */
  stateDir?: string;
  /** The OCI spec, as JSON text. */
  spec: string;
  /** Host gid of root in the pod's user namespace, which gets search permission on the bundle to reach its rootfs. */
  group?: number;
}

export interface JoinInput extends BundleInput {
  /** The pod whose shim runs the container, and the address of that shim. */
  sandbox: string;
  shim: { address: string; version: 2 | 3 };
}

/**
 * Makes a bundle with containerd's layout (config.json, rootfs/, work/, log), so that containerd's tools can read it.
 * The runtime's own files go into work/ (logs of criu); containerd has a link there, to a folder on the disk for each
 * container, which is hardly ever used. Throws SHIM_FAILED (or DISK_FULL) and leaves what it made to removeBundle.
 */
export function makeBundle({ bundle, stateDir, spec, group }: BundleInput): void {
  try {
    if (stateDir !== undefined) mkdirSync(stateDir, { recursive: true, mode: 0o700 });
    makeDir(bundle, 0o700, group === undefined ? 0o700 : 0o711);
    mkdirSync(join(bundle, 'rootfs'), { mode: 0o711 });
    mkdirSync(join(bundle, 'work'), { mode: 0o700 });
    if (group !== undefined) {
      chownSync(bundle, -1, group);
      chmodSync(bundle, 0o710);
    }
    writeFileSync(join(bundle, 'config.json'), spec, { mode: 0o600, flag: 'wx' });
  } catch (cause) {
    throw new SluiceError('SHIM_FAILED', `the bundle ${bundle} cannot be made`, { cause });
  }
}

/** Makes the bundle of a container that joins its pod's shim; no process is started. */
export function writeBundle({ sandbox, shim, ...input }: JoinInput): void {
  makeBundle(input);
  writeFileSync(join(input.bundle, 'sandbox'), sandbox, { mode: 0o600 });
  writeBootstrap(input.bundle, shim);
}

/** Writes bootstrap.json, in which containerd's tools find the shim's socket. */
export function writeBootstrap(bundle: string, { address, version }: { address: string; version: 2 | 3 }): void {
  const json = JSON.stringify({ version, address: `unix://${address}`, protocol: 'ttrpc' });
  writeFileSync(join(bundle, 'bootstrap.json'), json, { mode: 0o600 });
}

/**
 * Makes a folder, and its parents (mode `parents`) where they are missing. An existing folder is an error, since ids
 * are never reused.
 */
function makeDir(path: string, mode: number, parents = 0o700): void {
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || existsSync(dirname(path))) throw error;
    mkdirSync(dirname(path), { recursive: true, mode: parents });
    mkdirSync(path, { mode });
  }
}

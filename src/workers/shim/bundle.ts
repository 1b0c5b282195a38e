import { chmodSync, chownSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { SluiceError } from '../../errors.ts';

export interface BundleInput {
  /** Absolute path; its last part must be the container's id, since the shim's `delete` action builds the path from it. */
  bundle: string;
  /** Folder for what the runtime keeps (criu); the bundle's `work` link leads there. */
  workDir: string;
  /** The OCI spec, as JSON text. */
  spec: string;
  /** Host gid that the pod's user namespace maps root to; may then pass through the bundle to its rootfs. */
  group?: number;
}

export interface JoinInput extends BundleInput {
  /** The pod whose shim the container joins, and how that shim is reached. */
  sandbox: string;
  shim: { address: string; version: 2 | 3 };
}

/**
 * Makes a bundle as containerd lays it out, so that its tools find their way: config.json, rootfs/, work, log. Throws
 * SHIM_FAILED (or DISK_FULL); what is there then is for removeBundle.
 */
export function makeBundle({ bundle, workDir, spec, group }: BundleInput): void {
  try {
    makeDir(bundle, 0o700);
    makeDir(workDir, 0o711);
    mkdirSync(join(bundle, 'rootfs'), { mode: 0o711 });
    if (group !== undefined) {
      chownSync(bundle, -1, group);
      chmodSync(bundle, 0o710);
    }
    symlinkSync(workDir, join(bundle, 'work'));
    writeFileSync(join(bundle, 'config.json'), spec, { mode: 0o600, flag: 'wx' });
  } catch (cause) {
    throw new SluiceError('SHIM_FAILED', `the bundle ${bundle} cannot be made`, { cause });
  }
}

/** A bundle for a container that joins its pod's shim: no process is started. */
export function writeBundle({ sandbox, shim, ...input }: JoinInput): void {
  makeBundle(input);
  writeFileSync(join(input.bundle, 'sandbox'), sandbox, { mode: 0o600 });
  writeBootstrap(input.bundle, shim);
}

/** bootstrap.json: where containerd's tools look for a shim's socket. */
export function writeBootstrap(bundle: string, { address, version }: { address: string; version: 2 | 3 }): void {
  const json = JSON.stringify({ version, address: `unix://${address}`, protocol: 'ttrpc' });
  writeFileSync(join(bundle, 'bootstrap.json'), json, { mode: 0o600 });
}

/** A new folder; parents are made when they turn out to be missing. An existing one is an error: ids are never used twice. */
function makeDir(path: string, mode: number): void {
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || existsSync(dirname(path))) throw error;
    mkdirSync(dirname(path), { recursive: true, mode: 0o711 });
    mkdirSync(path, { mode });
  }
}

import { existsSync, readlinkSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { DeleteResponse } from '../../../proto/gen/task.ts';
import { SluiceError } from '../../errors.ts';
import { unmount } from '../../sys/mount.ts';
import { run } from '../../sys/spawn.ts';
import { type ShimCall, shimEnv, shimFlags } from './command.ts';
import { DEFAULT_SOCKET_DIR, SOCKET_DIR_LINK, socketName } from './direct.ts';
import { killLeftovers } from './processes.ts';
import { environment, findProgram } from './program.ts';

export interface CleanupInput extends ShimCall {
  /** Bundle of the pod, or of one container in it; its last part is `id`. */
  bundle: string;
  /** The shim's program; absolute path or a name in PATH. */
  binary: string;
  /** OCI runtime and its --root (without the namespace). */
  runtime: { binary: string; root: string };
  /** The pod's shim's socket, to remove what a killed shim leaves. Left out: the places where it would be are looked at. */
  address?: string;
  /** For each process. Default 5000. */
  timeoutMs?: number;
}

export interface Cleaned {
  /** Pids of leftover processes of this very bundle that were killed. */
  killed: number[];
  /** The exit that the shim's `delete` reports; 137 stands for "killed just now". */
  exitStatus?: number;
  /** What went wrong on the way without keeping the container from being gone. */
  warnings: string[];
}

/**
 * Removes a container that no shim looks after: the shim's own `delete` action first, the runtime's `delete --force` where that was
 * not enough, then the rootfs mount and the socket. Must only be called when the shim is known to be dead, or has said that it does
 * not know the container: what still runs for this bundle is killed. Safe to repeat, also when everything is gone. Throws RUNTIME_FAILED when the
 * container could not be removed.
 */
export async function cleanupShim(input: CleanupInput): Promise<Cleaned> {
  const { bundle, timeoutMs = 5000 } = input;
  const sockets = input.address ? [input.address] : possibleSockets(input);
  const cleaned: Cleaned = { killed: await killLeftovers(input), warnings: [] };
  if (existsSync(bundle)) {
    try {
      cleaned.exitStatus = await callDelete(input, timeoutMs);
    } catch (error) {
      cleaned.warnings.push(error instanceof Error ? error.message : String(error));
    }
  }
  await deleteContainer(input, timeoutMs, cleaned.warnings);
  unmount(join(bundle, 'rootfs'));
  for (const socket of sockets) rmSync(socket, { force: true });
  return cleaned;
}

/** Where a shim of this bundle listens that nobody had the time to write down. A container that joined has none: the pod's own is in use. */
function possibleSockets({ bundle, addresses, namespace, id }: CleanupInput): string[] {
  if (!existsSync(bundle) || existsSync(join(bundle, 'sandbox'))) return [];
  const name = socketName(addresses, namespace, id);
  const dirs = [DEFAULT_SOCKET_DIR];
  try {
    dirs.push(readlinkSync(join(bundle, SOCKET_DIR_LINK)));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  return dirs.map((dir) => join(dir, name));
}

/** `<shim> delete`. It exits with 0 even where the runtime refused, so its word is not enough. */
async function callDelete(input: CleanupInput, timeoutMs: number): Promise<number> {
  const { path } = findProgram(input.binary, 'the shim');
  const result = await run({
    path,
    argv: [path, ...shimFlags(input), '-bundle', input.bundle, 'delete'],
    env: shimEnv(input),
    cwd: input.bundle,
    timeoutMs,
    maxOutput: 64 << 10,
  });
  const words = result.stderr.toString('utf8').trim().slice(-1000);
  const name = `${basename(path)} delete`;
  if (result.timedOut) throw new Error(`${name} took more than ${timeoutMs} ms and was killed: ${words}`);
  if (result.code !== 0) throw new Error(`${name} failed: ${words}`);
  return DeleteResponse.decode(result.stdout).exitStatus;
}

/** The runtime's own removal, where its state says that the container still is there. */
async function deleteContainer(input: CleanupInput, timeoutMs: number, warnings: string[]): Promise<void> {
  const root = join(input.runtime.root, input.namespace);
  const state = join(root, input.id);
  if (!existsSync(state)) return;
  const { path } = findProgram(input.runtime.binary || 'runc', 'the runtime');
  const result = await run({
    path,
    argv: [path, '--root', root, 'delete', '--force', input.id],
    env: environment(),
    timeoutMs,
    maxOutput: 64 << 10,
  });
  if (result.code === 0 && !existsSync(state)) return;
  // A runtime that was killed before it wrote its state down leaves a folder that it does not know itself.
  if (!existsSync(join(state, 'state.json')) && !existsSync(join(state, 'status'))) {
    rmSync(state, { recursive: true, force: true });
    return;
  }
  const words = [result.stderr.toString('utf8').trim(), ...warnings].filter((text) => text !== '').join('; ');
  const how = result.timedOut ? `took more than ${timeoutMs} ms` : `ended with status ${result.code}`;
  throw new SluiceError('RUNTIME_FAILED', `${basename(path)} delete --force ${input.id} ${how}: ${words}`);
}

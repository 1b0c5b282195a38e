import { existsSync, readlinkSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { DeleteResponse } from '../../../proto/gen/task.ts';
import { SluiceError } from '../../errors.ts';
import { unmount } from '../../sys/mount.ts';
import { run } from '../../sys/spawn.ts';
import { commandOf } from '../programs.ts';
import { type ShimCall, shimEnv, shimFlags } from './command.ts';
import { DEFAULT_SOCKET_DIR, SOCKET_DIR_LINK, socketName } from './direct.ts';
import { killLeftovers } from './processes.ts';
import { environment, findProgram } from './program.ts';

export interface CleanupInput extends ShimCall {
  /** Bundle of the pod, or of one container in it; its last component is `id`. */
  bundle: string;
  /** The shim's program: an absolute path, or a name in PATH. */
  binary: string;
  /** The OCI runtime and its --root (without the namespace). */
  runtime: { binary: string; root: string };
  /** Socket of the pod's shim, which a killed shim leaves behind. When left out, the possible paths are derived. */
  address?: string;
  /** The processes of this bundle that still ran were killed already (killAllLeftovers). */
  swept?: boolean;
  /** Time limit for each process, in milliseconds. Default 5000. */
  timeoutMs?: number;
}

export interface Cleaned {
  /** Pids of processes of this bundle that were still running and were killed. */
  killed: number[];
  /** The exit status that the shim's `delete` reports; 137 when it has just killed the container. */
  exitStatus?: number;
  /** Failures of single steps that did not prevent the removal. */
  warnings: string[];
}

/**
 * Removes a container that has no shim: by the shim's own `delete` command, then by the runtime's `delete --force`
 * where that was not enough, then the rootfs mount and the socket. Call it only when the shim is dead, or has answered
 * that it does not have the container: processes of this bundle that still run are killed. Idempotent. Throws
 * RUNTIME_FAILED when the container could not be removed.
 */
export async function cleanupShim(input: CleanupInput): Promise<Cleaned> {
  const { bundle, timeoutMs = 5000 } = input;
  const sockets = input.address ? [input.address] : possibleSockets(input);
  const cleaned: Cleaned = { killed: input.swept ? [] : await killLeftovers(input), warnings: [] };
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

/**
 * The paths at which a shim of this bundle listens when its address was never recorded. A container that joined its
 * pod's shim has no socket of its own.
 */
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

/**
 * Runs `<shim> delete`, which exits with 0 even when the runtime refused, so the runtime's state is checked afterwards.
 */
async function callDelete(input: CleanupInput, timeoutMs: number): Promise<number> {
  const program = await findProgram(input.binary, 'the shim');
  const result = await run({
    ...commandOf(program, [...shimFlags(input), '-bundle', input.bundle, 'delete']),
    env: shimEnv(input),
    cwd: input.bundle,
    timeoutMs,
    maxOutput: 64 << 10,
  });
  const words = result.stderr.toString('utf8').trim().slice(-1000);
  const name = `${basename(program.path)} delete`;
  if (result.timedOut) throw new Error(`${name} took more than ${timeoutMs} ms and was killed: ${words}`);
  if (result.code !== 0) throw new Error(`${name} failed: ${words}`);
  return DeleteResponse.decode(result.stdout).exitStatus;
}

/** Runs the runtime's `delete --force` when the runtime still has state of the container. */
async function deleteContainer(input: CleanupInput, timeoutMs: number, warnings: string[]): Promise<void> {
  const root = join(input.runtime.root, input.namespace);
  const state = join(root, input.id);
  if (!existsSync(state)) return;
  const program = await findProgram(input.runtime.binary || 'runc', 'the runtime');
  const result = await run({
    ...commandOf(program, ['--root', root, 'delete', '--force', input.id]),
    env: environment(),
    timeoutMs,
    maxOutput: 64 << 10,
  });
  if (result.code === 0 && !existsSync(state)) return;
  // A runtime that was killed before it wrote its state leaves a folder that its own `delete` rejects.
  if (!existsSync(join(state, 'state.json')) && !existsSync(join(state, 'status'))) {
    rmSync(state, { recursive: true, force: true });
    return;
  }
  const words = [result.stderr.toString('utf8').trim(), ...warnings].filter((text) => text !== '').join('; ');
  const how = result.timedOut ? `took more than ${timeoutMs} ms` : `ended with status ${result.code}`;
  throw new SluiceError('RUNTIME_FAILED', `${basename(program.path)} delete --force ${input.id} ${how}: ${words}`);
}

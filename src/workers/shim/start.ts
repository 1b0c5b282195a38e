import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { SluiceError } from '../../errors.ts';
import { run, type SpawnResult } from '../../sys/spawn.ts';
import { commandOf, type Executable } from '../programs.ts';
import { type Bootstrap, type DaemonAddresses, encodeParams, parseBootstrap } from './bootstrap.ts';
import { type BundleInput, makeBundle, writeBootstrap } from './bundle.ts';
import { shimEnv, shimFlags } from './command.ts';
import { type DirectStart, startDirectly } from './direct.ts';
import { killLeftovers } from './processes.ts';
import { findProgram } from './program.ts';

export interface StartShimInput extends BundleInput {
  /** The pod's id. */
  id: string;
  namespace: string;
  /** The shim's program: an absolute path, or a name in PATH. */
  binary: string;
  addresses: DaemonAddresses;
  /** Folder for the shim's socket (2.3 and later); with one of more than 42 bytes the shim uses /run/containerd/s. */
  socketDir?: string;
  timeoutMs: number;
  /** The shim logs more and opens a second socket for pprof. */
  debug?: boolean;
  /** Additional environment variables for the shim, for example SCHED_CORE. */
  env?: Record<string, string>;
  /** Start the long-lived process directly, if the program still has this key. */
  direct?: DirectStart;
}

export interface StartedShim {
  /** Socket path, without a scheme. */
  address: string;
  version: 2 | 3;
  /** Absolute path of the shim's program, and the key that identifies this version of the file. */
  binary: string;
  key: string;
  /** Pid of the long-lived process when it is our own child, which must be reaped; left out when init is its parent. */
  child?: number;
  /** Seconds in posix_spawn, for which this thread was blocked. */
  spawnSeconds: number;
  /** Seconds in all. */
  seconds: number;
}

/** By program key: does the program read BootstrapParams? Its first answer shows it. */
const modern = new Map<string, boolean>();

/**
 * Makes the bundle and starts the pod's shim in it. Throws SHIM_FAILED or TIMED_OUT with the shim's output and the end
 * of its log. The bundle is left to the undo (cleanupShim, removeBundle); a half-started shim is killed.
 */
export async function startShim(input: StartShimInput): Promise<StartedShim> {
  const began = performance.now();
  const program = await findProgram(input.binary, 'the shim');
  makeBundle(input);
  // containerd makes a FIFO here, and the shim blocks unless something reads it for the pod's life. The shim only opens
  // the path for writing, so a plain file works: it needs no reader, survives the daemon, and can be quoted in errors.
  closeSync(openSync(join(input.bundle, 'log'), 'wx', 0o600));
  try {
    const { direct, debug } = input;
    const directly = direct?.key === program.key && !debug; // debugging needs a second socket
    const started = directly ? startDirectly(program, input, direct) : await launch(program, input);
    writeFileSync(join(input.bundle, 'shim-binary-path'), program.path, { mode: 0o600 });
    writeBootstrap(input.bundle, started);
    const seconds = (performance.now() - began) / 1000;
    return { ...started, binary: program.path, key: program.key, seconds };
  } catch (error) {
    // The `start` command may have left the long-lived process running.
    await killLeftovers(input);
    throw error;
  }
}

async function launch(
  program: Executable,
  input: StartShimInput,
): Promise<Pick<StartedShim, 'address' | 'version' | 'spawnSeconds'>> {
  const known = modern.get(program.key);
  let result = await callStart(program, input, known ?? true);
  // A shim before 2.3 exits with an error on BootstrapParams and works without them; its answer shows which kind it is.
  if (known === undefined && failed(result) && !result.timedOut) {
    rmSync(join(input.bundle, 'address'), { force: true }); // a 1.6 shim writes this file even when it then fails
    result = await callStart(program, input, false);
  }
  if (failed(result)) throw describe(program, input, result);
  let bootstrap: Bootstrap;
  try {
    bootstrap = parseBootstrap(result.stdout);
  } catch (cause) {
    throw new SluiceError(
      'SHIM_FAILED',
      `${basename(program.path)} start printed an answer that cannot be parsed${logOf(input)}`,
      {
        cause,
      },
    );
  }
  modern.set(program.key, bootstrap.modern);
  return { address: bootstrap.address, version: bootstrap.version, spawnSeconds: result.spawnSeconds };
}

async function callStart(program: Executable, input: StartShimInput, withParams: boolean): Promise<SpawnResult> {
  try {
    return await run({
      ...commandOf(program, [...shimFlags(input), 'start']),
      env: shimEnv(input),
      cwd: input.bundle,
      stdin: withParams ? encodeParams(input) : undefined,
      timeoutMs: input.timeoutMs,
      maxOutput: 64 << 10,
    });
  } catch (cause) {
    throw new SluiceError('SHIM_FAILED', `${program.path} cannot be started`, { cause });
  }
}

function failed(result: SpawnResult): boolean {
  return result.code !== 0 || result.timedOut || result.overflowed;
}

function describe({ path }: Executable, input: StartShimInput, result: SpawnResult): SluiceError {
  const name = basename(path);
  const words = [result.stderr, result.stdout].map((output) => printable(output)).filter((text) => text !== '');
  const own = words.length > 0 ? `: ${words.join('; ')}` : '';
  if (result.timedOut) {
    const limit = `${name} start did not answer within ${input.timeoutMs} ms and was killed`;
    return new SluiceError('TIMED_OUT', `${limit}${own}${logOf(input)}`);
  }
  const how = result.overflowed
    ? 'printed more than an address and was killed'
    : result.signal === null
      ? `exited with status ${result.code}`
      : `was ended by signal ${result.signal}`;
  return new SluiceError('SHIM_FAILED', `${name} start ${how}${own}${logOf(input)}`);
}

/** The end of the shim's log, in the form in which it is appended to a message. */
function logOf({ bundle }: { bundle: string }): string {
  try {
    const tail = printable(readFileSync(join(bundle, 'log')));
    return tail === '' ? '' : ` (its log ends: ${tail})`;
  } catch {
    return ''; // the message reports a worse failure than an unreadable log
  }
}

function printable(output: Buffer): string {
  const text = output.toString('utf8').replace(/[^\P{C}\n]/gu, '?');
  return text.slice(-1000).trim();
}

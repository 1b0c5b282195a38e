/**
 * One call of one CNI plugin: the configuration on stdin, the parameters in the environment, the result on stdout
 * (specification, section 2). The thread is free while the plugin runs.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../../errors.ts';
import { SysError } from '../../sys/libc.ts';
import { run, type SpawnResult } from '../../sys/spawn.ts';
import { isObject, type Json } from '../json.ts';
import { commandOf, type Executable } from '../programs.ts';
import { findTool, programPath } from './programs.ts';
import { excerpt } from './result.ts';
import type { CniAttachment, NetworkConf, PluginConf, PluginRun } from './types.ts';

/** The error codes of the specification that callers distinguish. */
export const CNI_CODE = { UNKNOWN_CONTAINER: 3, INVALID_ENVIRONMENT: 4, TRY_AGAIN: 11 } as const;

/** Number of attempts, and the pause before the second one; the pause doubles each time, with jitter. */
const ATTEMPTS = 5;
const FIRST_PAUSE_MS = 400;

/**
 * Rate limits that are reported as text instead of CNI code 11; Cilium, for example, passes on its agent's HTTP status.
 */
const RATE_LIMITED = /\b(?:http|status|code)\W{0,3}429\b|\[429\]|too ?many ?requests|rate.?limit/i;
/** Bytes of stdout and stderr; a plugin that writes more is killed. */
const MAX_OUTPUT = 1 << 20;

/**
 * The environment of plugins: the daemon's own, as in libcni, because operators configure plugins through it.
 * GOMAXPROCS is 2, because on machines with many cores the start of Go's runtime otherwise costs more CPU than the
 * plugin's work.
 */
const ENVIRONMENT: Readonly<Record<string, string>> = {
  GOMAXPROCS: '2',
  ...Object.fromEntries(
    Object.entries(process.env).flatMap(([name, value]) =>
      value === undefined || name.startsWith('CNI_') ? [] : [[name, value]],
    ),
  ),
  PATH: programPath(),
};

export interface PluginCall {
  command: PluginRun['command'];
  plugin: PluginConf;
  /** The program to run instead of the plugin's own, with the same configuration: the IPAM plugin. */
  program?: string;
  network: Pick<NetworkConf, 'name' | 'cniVersion'>;
  /** Absent for STATUS, which concerns no pod. */
  attachment?: CniAttachment;
  /** CNI_NETNS; "" when the namespace no longer exists. */
  netns?: string;
  prevResult?: Json;
  /** Further keys of the configuration: the attachments of GC. */
  more?: Json;
  binDirs: readonly string[];
  timeoutMs: number;
  /** Descriptor of the record's lock. The plugin inherits it, so the lock is held until the plugin ends. */
  lock?: number;
}

/** A plugin that could not be started, or that failed. */
export class PluginFailure extends SluiceError {
  /** The code of the plugin's error object, if it printed one. */
  readonly cniCode: number | undefined;
  /** Whether the process was started. */
  readonly started: boolean;
  /** The plugin's error message and stderr, for pattern matching. */
  readonly words: string;

  constructor(
    code: 'CNI_FAILED' | 'TIMED_OUT',
    message: string,
    more: { cniCode?: number; started?: boolean; words?: string; cause?: unknown },
  ) {
    super(code, message, { cause: more.cause });
    this.cniCode = more.cniCode;
    this.started = more.started ?? true;
    this.words = more.words ?? '';
  }

  /**
   * Whether the program does not know a verb that is about no pod (STATUS, GC). Releases of the reference plugins
   * before 1.1 of the specification miss the container's id first.
   */
  get unknownVerb(): boolean {
    return this.cniCode === CNI_CODE.INVALID_ENVIRONMENT || this.cniCode === CNI_CODE.UNKNOWN_CONTAINER;
  }

  /** Whether the same call may succeed shortly. */
  get retryable(): boolean {
    // ETXTBSY: the program's file is being replaced.
    if (!this.started) return this.cause instanceof SysError && this.cause.code === 'ETXTBSY';
    return this.cniCode === CNI_CODE.TRY_AGAIN || RATE_LIMITED.test(this.words);
  }
}

/** The plugin's program. Throws CNI_FAILED with the searched folders, and TIMED_OUT for one that hangs. */
export async function findPlugin(type: string, binDirs: readonly string[]): Promise<Executable> {
  const found = await findTool(type, [...binDirs]);
  if (!found) {
    const message = `plugin ${type} is in none of the folders ${binDirs.join(', ')}`;
    throw new PluginFailure('CNI_FAILED', message, { started: false });
  }
  return found;
}

/**
 * Runs a plugin and returns its stdout. A {@link PluginFailure} that is retryable is retried within the time limit;
 * between two ADDs it runs a DEL, as the specification requires. Appends each run to `runs`. Throws a
 * PluginFailure, or a SluiceError when that DEL fails.
 */
export async function callPlugin(call: PluginCall, runs: PluginRun[]): Promise<string> {
  const deadline = performance.now() + call.timeoutMs;
  const left = () => Math.max(1, deadline - performance.now());
  for (let attempt = 1; ; attempt++) {
    try {
      return await callOnce({ ...call, timeoutMs: left() }, call.timeoutMs, runs);
    } catch (error) {
      const pause = FIRST_PAUSE_MS * 2 ** (attempt - 1) * (0.5 + Math.random());
      if (!(error instanceof PluginFailure) || !error.retryable || attempt === ATTEMPTS || pause >= left()) throw error;
      await sleep(pause);
      if (call.command !== 'ADD' || !error.started) continue;
      try {
        await callOnce({ ...call, command: 'DEL', timeoutMs: left() }, call.timeoutMs, runs);
      } catch (cause) {
        throw new SluiceError(error.code, `${error.message}; its DEL before another attempt failed too`, { cause });
      }
    }
  }
}

async function callOnce(call: PluginCall, limitMs: number, runs: PluginRun[]): Promise<string> {
  const { command, plugin, network, attachment } = call;
  const { program = plugin.type } = call;
  const what = `plugin ${program} (${command}, network ${network.name})`;
  const found = await findPlugin(program, call.binDirs);
  const began = performance.now();
  const note = (outcome: PluginRun['outcome'], spawnSeconds: number) => {
    const seconds = (performance.now() - began) / 1000;
    runs.push({ plugin: program, command, seconds, spawnSeconds, outcome });
  };

  let ended: SpawnResult;
  try {
    ended = await run({
      ...commandOf(found),
      env: {
        ...ENVIRONMENT,
        CNI_COMMAND: command,
        CNI_PATH: call.binDirs.join(':'),
        ...parameters(attachment, call.netns),
      },
      stdin: Buffer.from(JSON.stringify(pluginConf(call))),
      timeoutMs: call.timeoutMs,
      maxOutput: MAX_OUTPUT,
      inherit: call.lock,
    });
  } catch (cause) {
    note('error', 0);
    throw new PluginFailure('CNI_FAILED', `${what} could not be started`, { cause, started: false });
  }
  note(ended.timedOut ? 'timeout' : ended.code === 0 ? 'ok' : 'error', ended.spawnSeconds);

  const stdout = ended.stdout.toString();
  if (ended.code === 0 && !ended.timedOut) return stdout;
  const stderr = ended.stderr.toString();
  const tail = stderr.trim() === '' ? '' : `; stderr: ${tailOf(stderr)}`;
  if (ended.timedOut) {
    const unkillable = ended.abandoned ? `, but pid ${ended.pid} is in uninterruptible sleep and has not ended` : '';
    const message = `${what} did not end within ${limitMs / 1000} s and was killed${unkillable}${tail}`;
    throw new PluginFailure('TIMED_OUT', message, { words: stderr });
  }
  if (ended.overflowed) {
    throw new PluginFailure('CNI_FAILED', `${what} printed more than ${MAX_OUTPUT} bytes and was killed`, {});
  }
  const how = ended.code === null ? `was ended by signal ${ended.signal}` : 'failed';
  const { said, cniCode } = pluginError(stdout, ended.code);
  throw new PluginFailure('CNI_FAILED', `${what} ${how}: ${said}${tail}`, { cniCode, words: `${said}\n${stderr}` });
}

/** The specification's error object as text, or the beginning of stdout when it is not one. */
function pluginError(stdout: string, exit: number | null): { said: string; cniCode?: number } {
  if (stdout.trim() === '')
    return { said: exit === null ? 'it printed nothing' : `exit status ${exit}, and it printed nothing` };
  let error: unknown;
  try {
    error = JSON.parse(stdout);
  } catch {
    error = undefined;
  }
  if (!isObject(error) || (error.msg === undefined && error.code === undefined)) return { said: excerpt(stdout, 500) };
  const words = [error.msg, error.details].filter((text) => typeof text === 'string' && text !== '').join(': ');
  const cniCode = typeof error.code === 'number' ? error.code : undefined;
  return {
    said: `${words || 'it printed no message'}${cniCode === undefined ? '' : ` (CNI code ${cniCode})`}`,
    cniCode,
  };
}

/** The plugin's part of the list, with the fields that the runtime adds (specification, section 3). */
export function pluginConf(call: Omit<PluginCall, 'binDirs' | 'timeoutMs'>): Json {
  const { command, plugin, network, attachment, prevResult, more } = call;
  const conf: Json = { ...plugin, name: network.name, cniVersion: network.cniVersion, ...more };
  if (command === 'STATUS' || command === 'GC') return conf;
  const wanted = Object.entries(attachment?.capabilityArgs ?? {}).filter(
    ([name]) => plugin.capabilities?.[name] === true,
  );
  if (wanted.length > 0) conf.runtimeConfig = Object.fromEntries(wanted);
  if (prevResult) conf.prevResult = prevResult;
  return conf;
}

function parameters(attachment: CniAttachment | undefined, netns = ''): Record<string, string> {
  if (!attachment) return {};
  return {
    CNI_CONTAINERID: attachment.containerId,
    CNI_NETNS: netns,
    CNI_IFNAME: attachment.ifName,
    CNI_ARGS: attachment.args.map(([key, value]) => `${key}=${value}`).join(';'),
  };
}

function tailOf(text: string, length = 1000): string {
  const end = text.trim();
  return excerpt(end.length > length ? `…${end.slice(-length)}` : end, length + 1);
}

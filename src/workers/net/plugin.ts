/**
 * One call of one CNI plugin: its configuration on stdin, its orders in the environment, its answer on stdout
 * (specification, section 2). The thread is free while it runs.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../../errors.ts';
import { SysError } from '../../sys/libc.ts';
import { run, type SpawnResult } from '../../sys/spawn.ts';
import { isObject, type Json } from '../json.ts';
import { findProgram, programPath } from './programs.ts';
import { excerpt } from './result.ts';
import type { CniAttachment, NetworkConf, PluginConf, PluginRun } from './types.ts';

/** Error codes of the specification that change what the caller does. */
export const CNI_CODE = { UNKNOWN_CONTAINER: 3, INVALID_ENVIRONMENT: 4, TRY_AGAIN: 11 } as const;

/** Attempts in all, and the pause before the second; it doubles from there, with jitter. */
const ATTEMPTS = 5;
const FIRST_PAUSE_MS = 400;

/** Limiters say it in words: the CNI code for "try again" came late, and Cilium passes its agent's HTTP status on. */
const REFUSED_FOR_NOW = /\b(?:http|status|code)\W{0,3}429\b|\[429\]|too ?many ?requests|rate.?limit/i;
const MAX_OUTPUT = 1 << 20;

/**
 * What plugins inherit: the daemon's environment, as libcni does, since operators configure plugins through it. Two threads are
 * plenty for a plugin: on machines with many cores Go's start-up otherwise costs more than the plugin's work.
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
  network: Pick<NetworkConf, 'name' | 'cniVersion'>;
  /** Absent for STATUS, which is about no pod. */
  attachment?: CniAttachment;
  /** CNI_NETNS; "" when the namespace is gone. */
  netns?: string;
  prevResult?: Json;
  binDirs: readonly string[];
  timeoutMs: number;
  /** The lock of the attachment's record, which the plugin holds as well for as long as it lives. */
  lock?: number;
}

/** A plugin that could not be run, or said no. */
export class PluginFailure extends SluiceError {
  /** The code of the plugin's own error, where it gave one. */
  readonly cniCode: number | undefined;
  /** Was the process started at all? */
  readonly started: boolean;
  /** Everything that the plugin said, to look for words in. */
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

  /** May the same call succeed in a moment? */
  get again(): boolean {
    if (!this.started) return this.cause instanceof SysError && this.cause.code === 'ETXTBSY'; // being replaced right now
    return this.cniCode === CNI_CODE.TRY_AGAIN || REFUSED_FOR_NOW.test(this.words);
  }
}

/** The plugin's program. Throws CNI_FAILED that lists the folders. */
export function findPlugin(type: string, binDirs: readonly string[]): string {
  const path = findProgram(type, [...binDirs]);
  if (path === undefined) {
    const message = `plugin ${type} is in none of the folders ${binDirs.join(', ')}`;
    throw new PluginFailure('CNI_FAILED', message, { started: false });
  }
  return path;
}

/**
 * Calls a plugin and returns what it printed. A refusal "for now" is tried again inside the time limit; the specification wants a
 * DEL between two ADDs, so there is one. Each run goes into `runs`. Throws {@link PluginFailure}.
 */
export async function callPlugin(call: PluginCall, runs: PluginRun[]): Promise<string> {
  const deadline = performance.now() + call.timeoutMs;
  const left = () => Math.max(1, deadline - performance.now());
  for (let attempt = 1; ; attempt++) {
    try {
      return await callOnce({ ...call, timeoutMs: left() }, call.timeoutMs, runs);
    } catch (error) {
      const pause = FIRST_PAUSE_MS * 2 ** (attempt - 1) * (0.5 + Math.random());
      if (!(error instanceof PluginFailure) || !error.again || attempt === ATTEMPTS || pause >= left()) throw error;
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
  const what = `plugin ${plugin.type} (${command}, network ${network.name})`;
  const path = findPlugin(plugin.type, call.binDirs);
  const began = performance.now();
  const note = (outcome: PluginRun['outcome'], spawnSeconds: number) => {
    const seconds = (performance.now() - began) / 1000;
    runs.push({ plugin: plugin.type, command, seconds, spawnSeconds, outcome });
  };

  let ended: SpawnResult;
  try {
    ended = await run({
      path,
      argv: [path],
      env: {
        ...ENVIRONMENT,
        CNI_COMMAND: command,
        CNI_PATH: call.binDirs.join(':'),
        ...orders(attachment, call.netns),
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
    const message = `${what} did not end within ${limitMs / 1000} s and was killed${tail}`;
    throw new PluginFailure('TIMED_OUT', message, { words: stderr });
  }
  if (ended.overflowed) {
    throw new PluginFailure('CNI_FAILED', `${what} printed more than ${MAX_OUTPUT} bytes and was killed`, {});
  }
  const how = ended.code === null ? `was ended by signal ${ended.signal}` : 'failed';
  const { said, cniCode } = pluginError(stdout, ended.code);
  throw new PluginFailure('CNI_FAILED', `${what} ${how}: ${said}${tail}`, { cniCode, words: `${said}\n${stderr}` });
}

/** The specification's error object in words, or whatever else the plugin left on stdout. */
function pluginError(stdout: string, exit: number | null): { said: string; cniCode?: number } {
  if (stdout.trim() === '')
    return { said: exit === null ? 'it said nothing' : `exit status ${exit}, and it said nothing` };
  let error: unknown;
  try {
    error = JSON.parse(stdout);
  } catch {
    error = undefined;
  }
  if (!isObject(error) || (error.msg === undefined && error.code === undefined)) return { said: excerpt(stdout, 500) };
  const words = [error.msg, error.details].filter((text) => typeof text === 'string' && text !== '').join(': ');
  const cniCode = typeof error.code === 'number' ? error.code : undefined;
  return { said: `${words || 'it said nothing'}${cniCode === undefined ? '' : ` (CNI code ${cniCode})`}`, cniCode };
}

/** The plugin's own part of the list with what the runtime adds to it (specification, section 3). */
function pluginConf({ command, plugin, network, attachment, prevResult }: PluginCall): Json {
  const conf: Json = { ...plugin, name: network.name, cniVersion: network.cniVersion };
  if (command === 'STATUS') return conf;
  const wanted = Object.entries(attachment?.capabilityArgs ?? {}).filter(
    ([name]) => plugin.capabilities?.[name] === true,
  );
  if (wanted.length > 0) conf.runtimeConfig = Object.fromEntries(wanted);
  if (prevResult) conf.prevResult = prevResult;
  return conf;
}

function orders(attachment: CniAttachment | undefined, netns = ''): Record<string, string> {
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

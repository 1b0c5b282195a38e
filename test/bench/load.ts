/**
 * Load on any CRI socket: N pods, P at once.
 *
 *   node test/bench/load.ts --endpoint /run/sluice/sluice.sock --pods 100 --parallel 16 [--ops run,list,stop,remove]
 *     [--pid DAEMON] [--host-network] [--handler NAME] [--cgroup-parent NAME] [--namespace NAME] [--json]
 *
 * Prints p50, p95 and p99 of each call in milliseconds, pods per second, CPU per pod, and the daemon's memory after the
 * launches (when --pid is given, or the socket's owner can be found). `list` asks ListPodSandbox all the while the pods
 * launch. Without `run`, stop and remove take the pods of an earlier run (same --namespace).
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { parseArgs } from 'node:util';
import { type Cri, connectCri } from '../rig/cri.ts';
import { podConfig } from '../rig/messages.ts';
import { cpuSeconds, machineCpuSeconds, processes, pss, run } from '../rig/proc.ts';
import { type Latencies, latencies } from './statistics.ts';

export const OPS = ['run', 'list', 'stop', 'remove'] as const;
export type Op = (typeof OPS)[number];

export interface LoadOptions {
  cri: Cri;
  pods: number;
  parallel: number;
  ops?: readonly Op[];
  /** The daemon's pid, for its CPU and memory. */
  pid?: number;
  namespace?: string;
  cgroupParent?: string;
  handler?: string;
  hostNetwork?: boolean;
}

export interface Phase {
  /** Milliseconds per call. */
  calls: Latencies;
  /** From the first call's start to the last one's end. */
  seconds: number;
  podsPerSecond: number;
  /** CPU milliseconds of the whole machine per pod, this generator's own left out. */
  machineCpuMs: number;
  /** Of the daemon and the children it has waited for (plugins; shims are not among them). */
  daemonCpuMs?: number;
}

export interface LoadResult {
  pods: number;
  parallel: number;
  run?: Phase;
  list?: Latencies;
  stop?: Phase;
  remove?: Phase;
  /** Proportional set size of the daemon in bytes, once all pods are up. */
  daemonPss?: number;
}

/**
 * Puts this process ahead of the pods it launches, for as long as the result is held: on two cores a client would else
 * wait for a processor behind dozens of runcs, and that wait would be told as the daemon's. What it starts is not put
 * ahead.
 */
export function favourClient(): Disposable {
  // Of each thread: V8's own ones, which main waits for when garbage is collected, have to come along.
  const threads = readdirSync('/proc/self/task').map((tid) => ({ tid: Number(tid), before: getPriority(Number(tid)) }));
  for (const { tid } of threads) setPriority(tid, -15);
  const session = favourSession();
  return {
    [Symbol.dispose]: () => {
      session[Symbol.dispose]();
      for (const { tid, before } of threads) setPriority(tid, before);
    },
  };
}

/**
 * Where the kernel groups processes by session (autogroup), a nice value counts within the session alone, and the group
 * has one of its own.
 */
function favourSession(): Disposable {
  const file = '/proc/self/autogroup';
  const before = existsSync(file) ? / nice (-?\d+)/.exec(readFileSync(file, 'latin1'))?.[1] : undefined;
  if (before === undefined) return { [Symbol.dispose]: () => {} };
  writeFileSync(file, '-15');
  return { [Symbol.dispose]: () => writeFileSync(file, before) };
}

/** Runs the load; the first call that fails ends it, after the calls in flight. */
export async function load(options: LoadOptions): Promise<LoadResult> {
  using _ahead = favourClient();
  const { cri, pods, parallel, pid } = options;
  const ops = options.ops ?? OPS;
  const namespace = options.namespace ?? `load-${process.pid}`;
  const result: LoadResult = { pods, parallel };
  let ids: string[] = [];

  if (ops.includes('run')) {
    const begun = Date.now().toString(36);
    const names = Array.from({ length: pods }, (_, i) => `load-${begun}-${i}`);
    const launching = phase(names, parallel, pid, async (name) => {
      const config = podConfig(name, {
        namespace,
        cgroupParent: options.cgroupParent,
        host: { network: options.hostNetwork },
      });
      const request = { config, runtimeHandler: options.handler ?? '' };
      ids.push((await cri.runPodSandbox(request, { timeoutMs: 240_000 })).podSandboxId);
    });
    const [launched, listed] = await Promise.all([
      launching,
      ops.includes('list') ? listWhile(cri, launching) : undefined,
    ]);
    result.run = launched;
    result.list = listed;
    if (pid) result.daemonPss = pss(pid);
  } else {
    const { items } = await cri.listPodSandbox();
    ids = items.filter((pod) => pod.metadata?.namespace === namespace).map((pod) => pod.id);
    result.pods = ids.length;
    if (ops.includes('list')) {
      const times: number[] = [];
      for (let i = 0; i < 100; i++) times.push(await timed(() => cri.listPodSandbox()));
      result.list = latencies(times);
    }
  }
  const patience = { timeoutMs: 240_000 };
  if (ops.includes('stop')) {
    result.stop = await phase(ids, parallel, pid, (id) => cri.stopPodSandbox({ podSandboxId: id }, patience));
  }
  if (ops.includes('remove')) {
    result.remove = await phase(ids, parallel, pid, (id) => cri.removePodSandbox({ podSandboxId: id }, patience));
  }
  return result;
}

/** `work` for each item, `parallel` at a time, timed. */
export async function phase<T>(
  items: readonly T[],
  parallel: number,
  pid: number | undefined,
  work: (item: T) => Promise<unknown>,
): Promise<Phase> {
  const times: number[] = [];
  const left = [...items].reverse();
  let failed = false;
  const machine = machineCpuSeconds();
  const daemon = pid ? cpuSeconds(pid) : 0;
  const own = process.cpuUsage();
  const began = performance.now();
  const worker = async () => {
    while (!failed) {
      const item = left.pop();
      if (item === undefined) return;
      try {
        times.push(await timed(() => work(item)));
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: Math.min(parallel, items.length) }, worker));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
  const seconds = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(own);
  const perPod = (cpu: number) => (cpu * 1000) / items.length;
  return {
    calls: latencies(times),
    seconds,
    podsPerSecond: items.length / seconds,
    machineCpuMs: perPod(machineCpuSeconds() - machine - (user + system) / 1e6),
    daemonCpuMs: pid ? perPod(cpuSeconds(pid) - daemon) : undefined,
  };
}

/** Times of `count` calls, one after the other. */
export async function callTimes(count: number, call: (at: number) => Promise<unknown>): Promise<Latencies> {
  using _ahead = favourClient();
  const times: number[] = [];
  for (let at = 0; at < count; at++) times.push(await timed(() => call(at)));
  return latencies(times);
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

/** ListPodSandbox every 20 ms until `until` has ended. */
async function listWhile(cri: Cri, until: Promise<unknown>): Promise<Latencies> {
  let over = false;
  const end = until.then(
    () => {
      over = true;
    },
    () => {
      over = true;
    },
  );
  const times: number[] = [];
  while (!over) {
    times.push(await timed(() => cri.listPodSandbox()));
    await Promise.race([end, new Promise((resolve) => setTimeout(resolve, 20))]);
  }
  return latencies(times);
}

/** The process that listens on a unix socket. */
export async function ownerOf(socket: string): Promise<number | undefined> {
  const { stdout } = await run('ss', ['-xlpH', `src`, socket], { check: false });
  const match = /pid=(\d+)/.exec(stdout);
  const pid = match ? Number(match[1]) : undefined;
  return processes().some((p) => p.pid === pid) ? pid : undefined;
}

export function report(result: LoadResult): string {
  const lines = [`${result.pods} pods, ${result.parallel} at once`];
  const ms = (value: number) => value.toFixed(1).padStart(9);
  lines.push(
    `${'call'.padEnd(18)}${['p50', 'p95', 'p99', 'max'].map((h) => h.padStart(9)).join('')}   pods/s  CPU ms/pod: machine, daemon`,
  );
  const row = (name: string, calls: Latencies, more = '') =>
    lines.push(`${name.padEnd(18)}${ms(calls.p50)}${ms(calls.p95)}${ms(calls.p99)}${ms(calls.max)}${more}`);
  const phases = { RunPodSandbox: result.run, StopPodSandbox: result.stop, RemovePodSandbox: result.remove };
  for (const [name, done] of Object.entries(phases)) {
    if (!done) continue;
    const daemon = done.daemonCpuMs === undefined ? '' : done.daemonCpuMs.toFixed(1).padStart(9);
    row(
      name,
      done.calls,
      `${done.podsPerSecond.toFixed(1).padStart(9)}${done.machineCpuMs.toFixed(1).padStart(21)}${daemon}`,
    );
  }
  if (result.list) row('ListPodSandbox', result.list, `   (${result.list.count} calls)`);
  if (result.daemonPss) lines.push(`daemon PSS ${(result.daemonPss / 2 ** 20).toFixed(1)} MiB`);
  return lines.join('\n');
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      endpoint: { type: 'string', default: '/run/sluice/sluice.sock' },
      pods: { type: 'string', default: '100' },
      parallel: { type: 'string', default: '16' },
      ops: { type: 'string', default: OPS.join(',') },
      pid: { type: 'string' },
      'host-network': { type: 'boolean' },
      handler: { type: 'string' },
      'cgroup-parent': { type: 'string' },
      namespace: { type: 'string', default: 'load' },
      json: { type: 'boolean' },
    },
  });
  const number = (name: 'pods' | 'parallel') => {
    const value = Number(values[name]);
    if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} wants a number of 1 or more`);
    return value;
  };
  const ops = values.ops.split(',').map((op) => {
    const known = OPS.find((name) => name === op);
    if (!known) throw new Error(`--ops knows ${OPS.join(', ')}, not ${op}`);
    return known;
  });
  const socket = values.endpoint.replace(/^unix:\/\//, '');
  using cri = connectCri(socket);
  const result = await load({
    cri,
    pods: number('pods'),
    parallel: number('parallel'),
    ops,
    pid: values.pid ? Number(values.pid) : await ownerOf(socket),
    namespace: values.namespace,
    cgroupParent: values['cgroup-parent'],
    handler: values.handler,
    hostNetwork: values['host-network'],
  });
  console.log(values.json ? JSON.stringify(result, undefined, 2) : report(result));
}

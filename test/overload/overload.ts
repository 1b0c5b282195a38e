/**
 * More launches at once than the daemon takes. What it must do then: answer each one soon, with a pod or with
 * RESOURCE_EXHAUSTED; go on answering lists; let stops overtake; and take no more memory than its queue is worth.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { GRPC } from '../../src/errors.ts';
import { type Latencies, latencies } from '../bench/statistics.ts';
import { removePods } from '../rig/cri.ts';
import type { SluiceDaemon } from '../rig/daemon.ts';
import { podConfig } from '../rig/messages.ts';
import { pss } from '../rig/proc.ts';
import type { Probed } from './probe.ts';

export interface Overloaded {
  asked: number;
  accepted: number;
  /** Refusals, of which one caller may have had several. */
  refused: number;
  /** What other calls failed with. */
  errors: string[];
  /** Milliseconds, seen by another process while the load was on. */
  lists: Latencies;
  refusals: Latencies;
  /** Milliseconds of a stop that was asked for when the queue was full, and the launches that ended before it. */
  stop: { ms: number; launchesBefore: number };
  /**
   * Proportional set size in bytes: before, at the highest, and when all pods were gone and it was idle for a while.
   */
  memory: { before: number; highest: number; after: number };
  seconds: number;
}

/** Milliseconds, on average, after which who was refused asks again. */
const AGAIN_MS = 2000;

export interface Load {
  /** Pods that are asked for at once. */
  count: number;
  /** A pod that the daemon has, which is stopped meanwhile. */
  victim: string;
  /** Milliseconds for which those that were refused ask again. */
  pressureMs: number;
  /** Milliseconds that the daemon is left alone before its memory is read again. */
  restMs: number;
}

/** Puts a load on the daemon, and removes the pods that it got. */
export async function overload(daemon: SluiceDaemon, { count, victim, pressureMs, restMs }: Load): Promise<Overloaded> {
  const { cri, cgroupParent } = daemon;
  const memory = { before: pss(daemon.pid()), highest: 0, after: 0 };
  const watch = setInterval(() => {
    memory.highest = Math.max(memory.highest, pss(daemon.pid()));
  }, 200);
  const probe = await startProbe(daemon);
  const began = performance.now();
  const ids: string[] = [];
  const errors: string[] = [];
  let refused = 0;
  const launch = async (number: number): Promise<void> => {
    const config = podConfig(`load-${number}`, { cgroupParent });
    try {
      ids.push((await cri.runPodSandbox({ config }, { timeoutMs: 300_000 })).podSandboxId);
    } catch (error) {
      const { code, details } = error as { code?: number; details?: string };
      if (code !== GRPC.RESOURCE_EXHAUSTED) {
        errors.push(`${code}: ${details}`);
        return;
      }
      refused++;
      if (performance.now() - began > pressureMs) return;
      await sleep(AGAIN_MS * (0.5 + Math.random()));
      await launch(number);
    }
  };
  const launches = Array.from({ length: count }, (_, number) => launch(number));
  await sleep(300);
  const stopped = performance.now();
  await cri.stopPodSandbox({ podSandboxId: victim });
  const stop = { ms: performance.now() - stopped, launchesBefore: ids.length };
  await Promise.all(launches);
  const seconds = (performance.now() - began) / 1000;
  const { lists, refusals } = await probe.end();
  clearInterval(watch);
  await removePods(cri, undefined, 64); // more at once than its queue takes would be refused
  await sleep(restMs);
  memory.after = pss(daemon.pid());
  return {
    asked: count,
    accepted: ids.length,
    refused,
    errors,
    lists: latencies(lists),
    refusals: latencies(refusals),
    stop,
    memory,
    seconds,
  };
}

async function startProbe({ socket, cgroupParent }: SluiceDaemon): Promise<{ end: () => Promise<Probed> }> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'probe.ts'), socket, cgroupParent], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true, // a session of its own, which has a nice value of its own
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  await lines.next();
  return {
    async end() {
      const ended = once(child, 'exit');
      child.stdin.end();
      const { value } = await lines.next();
      await ended;
      return JSON.parse(value ?? '{"lists":[],"refusals":[]}') as Probed;
    },
  };
}

/** `npm run overload -- [--pods N] [--queue N]`. Status 1 when a promise is not kept. */
if (import.meta.main) {
  const { parseArgs } = await import('node:util');
  const { startSluice } = await import('../rig/daemon.ts');
  const { values } = parseArgs({
    options: { pods: { type: 'string', default: '2000' }, queue: { type: 'string', default: '200' } },
  });
  await using daemon = await startSluice({
    index: 32,
    config: { pipeline: { max_queued: Number(values.queue) }, log: { level: 'info' } },
  });
  const config = podConfig('victim', { cgroupParent: daemon.cgroupParent });
  const { podSandboxId } = await daemon.cri.runPodSandbox({ config });
  const result = await overload(daemon, {
    count: Number(values.pods),
    victim: podSandboxId,
    pressureMs: 7000, // the bridge of the test's network has addresses and ports for a thousand pods
    restMs: 30_000,
  });
  const { accepted, refused, errors, lists, refusals, stop, memory, seconds } = result;
  const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
  const ms = ({ count, p50, p99, max }: Latencies) =>
    `${count} answers, p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms, longest ${max.toFixed(1)} ms`;
  console.log(
    `${values.pods} launches at once: ${accepted} pods, ${refused} refused, ${errors.length} errors in ${seconds.toFixed(1)} s`,
  );
  console.log(`refusals: ${ms(refusals)}`);
  console.log(`lists: ${ms(lists)}`);
  console.log(`a stop took ${stop.ms.toFixed(0)} ms; ${stop.launchesBefore} launches had ended by then`);
  const line = daemon
    .log()
    .split('\n')
    .find((one) => one.includes('"job":"StopPodSandbox"') && one.includes(podSandboxId));
  const { queue, stages } = JSON.parse(line ?? '{}') as { queue?: number; stages?: object };
  console.log(`  of which it waited ${queue} ms for admission; its stages, in ms: ${JSON.stringify(stages)}`);
  console.log(`PSS ${mib(memory.before)}, at most ${mib(memory.highest)}, afterwards ${mib(memory.after)}`);
  const kept = errors.length === 0 && lists.p99 < 25 && refusals.p99 < 50 && stop.launchesBefore < accepted;
  console.log(kept ? 'every promise was kept' : 'a promise was not kept');
  for (const error of new Set(errors)) console.log(`  ${error}`);
  process.exitCode = kept ? 0 : 1;
}

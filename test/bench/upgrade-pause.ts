/**
 * How long a kubelet's call waits while an upgrade restarts the daemon: a release whose socket is held open, as
 * sluiced.socket does it, is ended by SIGTERM and started again at once, while calls come every 20 ms.
 *
 *   node test/bench/upgrade-pause.ts [--pods 0,50] [--rounds 10]
 *
 * Prints the longest call of each restart. Containers write all the while: that none ends and that no line of a log is
 * lost or twice is checked.
 */
import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { buildRelease } from '../../scripts/release/build.ts';
import { listenUnix } from '../../src/sys/unix-socket.ts';
import { openContainerLab, pidOf } from '../integration/container-lab.ts';
import { connectCri } from '../rig/cri.ts';
import { privateFolder } from '../rig/paths.ts';
import { cpuSeconds } from '../rig/proc.ts';
import { machine, otherWork } from './machine.ts';
import { latencies } from './statistics.ts';

const EVERY_MS = 20;
/** A daemon that is upgraded has long ended its start: the threads for pulls come after it and load for a while. */
const SETTLE_MS = 4000;
/** Pods whose container counts into its log; the others sleep. */
const COUNTING = 3;
const COUNT = ['sh', '-c', 'i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done'];

const { values } = parseArgs({
  options: { pods: { type: 'string', default: '0,50' }, rounds: { type: 'string', default: '10' } },
});
const rounds = Number(values.rounds);
const folder = privateFolder('sluice-pause');
const release = await buildRelease(join(folder, 'sluice'));
console.log(machine());
console.log(await otherWork());
try {
  for (const pods of values.pods.split(',').map(Number)) await measure(pods);
} finally {
  rmSync(folder, { recursive: true });
}

async function measure(pods: number): Promise<void> {
  const socket = join(folder, `${pods}.sock`);
  using listener = listenUnix(socket);
  const script = join(folder, 'activated');
  writeFileSync(script, `LISTEN_FDS=1 LISTEN_PID=$$ exec /bin/sh ${release.folder}/bin/sluiced "$@"\n`);
  await using lab = await openContainerLab({ index: 53, inherit: listener.number, socket, program: script });
  const { daemon, cri } = lab;
  const counting = await Promise.all(
    Array.from({ length: pods }, async (_, n) => {
      const pod = await lab.pod(`pause-${n}`);
      const id = await pod.run('main', n < COUNTING ? COUNT : ['sleep', '3600']);
      return { pod, id, pid: await pidOf(cri, id) };
    }),
  );

  let longest = 0;
  const failures: string[] = [];
  let over = false;
  const caller = (async () => {
    while (!over) {
      using fresh = connectCri(socket);
      const began = performance.now();
      try {
        await fresh.version({}, { timeoutMs: 60_000 });
      } catch (error) {
        failures.push(String(error));
      }
      longest = Math.max(longest, performance.now() - began);
      await sleep(EVERY_MS);
    }
  })();
  const waits: number[] = [];
  const ends: number[] = [];
  const cpu: number[] = [];
  for (let round = 0; round < rounds; round++) {
    await sleep(SETTLE_MS);
    longest = 0;
    const began = performance.now();
    assert.equal(await daemon.stop(), 0);
    ends.push(performance.now() - began);
    await daemon.start();
    cpu.push(cpuSeconds(daemon.pid(), { children: false }) * 1000);
    await sleep(200);
    waits.push(longest);
  }
  over = true;
  await caller;
  for (const { id, pid } of counting) assert.equal(await pidOf(cri, id), pid, 'a container ended');
  let lines = 0;
  for (const { pod } of counting.slice(0, COUNTING)) {
    const numbers = pod
      .log('main')
      .trimEnd()
      .split('\n')
      .map((line) => Number(line.split(' ').at(-1)));
    assert.deepEqual(
      numbers,
      numbers.map((_, at) => at + 1),
    );
    lines += numbers.length;
  }
  const { p50, p95 } = latencies(waits);
  const max = Math.max(...waits);
  // CPU time says what an idle machine would need, also where this one is busy.
  console.log(
    `${pods} pods: the old daemon ends in ${Math.round(latencies(ends).p50)} ms, the new one answers after ${Math.round(latencies(cpu).p50)} ms of CPU (p50)`,
  );
  console.log(
    `${pods} pods: the longest call of a restart: p50 ${Math.round(p50)}, p95 ${Math.round(p95)}, longest ${Math.round(max)} ms of ${rounds} restarts; ${failures.length} calls failed; ${lines} log lines, none lost`,
  );
  for (const failure of failures) console.log(`  ${failure}`);
}

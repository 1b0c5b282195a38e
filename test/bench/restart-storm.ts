/**
 * How long a restart takes with many pods, one of whose shims is stopped and one killed meanwhile.
 *
 *   npm run restart-storm -- [--pods 300] [--parallel 16]
 *
 * Fails when the daemon does not serve within 2 s, or has not found all pods again within 5 s. The pods are on the host
 * network.
 */
import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';
import { startSluice } from '../rig/daemon.ts';
import { podConfig } from '../rig/messages.ts';
import { processesOf, stopThreads, waitFor } from '../rig/proc.ts';

const SERVE_MS = 2000;
const FOUND_MS = 5000;
const NOT_READY = 1;
const FOUND = 'the pods of the daemon before are found';

const { values } = parseArgs({
  options: { pods: { type: 'string', default: '300' }, parallel: { type: 'string', default: '16' } },
});
const pods = Number(values.pods);
await using daemon = await startSluice({ index: 30, sandboxMode: 'pause', config: { log: { level: 'info' } } });
const { cri } = daemon;
const names = Array.from({ length: pods }, (_, i) => `storm-${i}`);
const ids: string[] = [];
const launch = async () => {
  for (let name = names.pop(); name !== undefined; name = names.pop()) {
    const config = podConfig(name, { cgroupParent: daemon.cgroupParent, host: { network: true } });
    ids.push((await cri.runPodSandbox({ config }, { timeoutMs: 120_000 })).podSandboxId);
  }
};
console.log(`launching ${pods} pods on the host network`);
await Promise.all(Array.from({ length: Number(values.parallel) }, launch));

await daemon.stop('SIGKILL');
const [stoppedId = '', killedId = ''] = ids;
const shimOf = (id: string) => {
  const shim = processesOf(daemon.folder).find((p) => p.command.includes('shim') && p.command.includes(id));
  assert.ok(shim, `pod ${id} has a shim`);
  return shim.pid;
};
const stopped = shimOf(stoppedId);
await stopThreads(stopped);
try {
  process.kill(shimOf(killedId), 'SIGKILL');
  const began = performance.now();
  await daemon.start();
  const serving = performance.now() - began;
  const { items } = await cri.listPodSandbox();
  const listed = performance.now() - began;
  assert.equal(items.length, pods);
  const found = await waitFor('all pods to be looked for', 60_000, () => {
    const [, second] = daemon // the first start has written one, too
      .log()
      .split('\n')
      .filter((line) => line.includes(FOUND));
    return second;
  });
  const all = performance.now() - began;
  const { recovered } = JSON.parse(found) as { recovered: Record<string, number> };
  console.log(
    `serving after ${Math.round(serving)} ms, the list of ${items.length} pods after ${Math.round(listed)} ms, ` +
      `all found after ${Math.round(all)} ms: ${JSON.stringify(recovered)}`,
  );
  assert.deepEqual(recovered, { alive: pods - 2, dead: 1, unknown: 1, undone: 0 });
  const { status } = await cri.podSandboxStatus({ podSandboxId: killedId });
  assert.equal(status?.state, NOT_READY, 'the pod whose shim was killed');
  assert.ok(serving < SERVE_MS, `it serves after ${Math.round(serving)} ms, and may take ${SERVE_MS}`);
  assert.ok(all < FOUND_MS, `all pods are found after ${Math.round(all)} ms, and it may take ${FOUND_MS}`);
} finally {
  process.kill(stopped, 'SIGCONT');
}
// The pod whose shim was stopped is found once it goes on, and can be stopped.
await waitFor('its stop', 30_000, async () => {
  await cri.stopPodSandbox({ podSandboxId: stoppedId });
  return true;
});

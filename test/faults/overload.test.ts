/**
 * The short form of `npm run overload`, and what becomes of callers that do not wait. Times are only bounded loosely
 * here.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { GRPC } from '../../src/errors.ts';
import { overload } from '../overload/overload.ts';
import { podConfig } from '../rig/messages.ts';
import { type Lab, openLab, SKIP } from './lab.ts';

const skip = SKIP;
const RUNNING = 4;
const QUEUED = 40;

let lab: Lab;
before(async () => {
  if (skip) return;
  lab = await openLab({
    index: 33,
    config: { pipeline: { max_running: RUNNING, max_queued: QUEUED } },
    // Many plugins at once, each of which starts Node.
    prepare: async () => ({ cni: { timeout_seconds: 30 } }),
  });
});
after(async () => lab?.[Symbol.asyncDispose]());

const config = (name: string) => podConfig(name, { cgroupParent: lab.daemon.cgroupParent });

/** `sluice_admission_total` of the lane of launches. */
async function verdicts(verdict: string): Promise<number> {
  const line = new RegExp(`^sluice_admission_total\\{lane="launch",verdict="${verdict}"\\} (\\d+)$`, 'm');
  return Number(line.exec(await lab.daemon.scrape())?.[1] ?? 0);
}

test('300 launches at once: refused at once or carried out, lists and stops go on, memory is bounded', {
  skip,
  timeout: 180_000,
}, async () => {
  const victim = await lab.launch('victim');
  const result = await overload(lab.daemon, { count: 300, victim, pressureMs: 4000, restMs: 0 });
  const { accepted, refused, errors, stop, lists, refusals, memory } = result;
  assert.deepEqual(errors, []);
  assert.ok(refused > 200, `${refused} refusals`);
  // The probe asks for pods as well, and may have got some places.
  assert.ok(accepted >= RUNNING + QUEUED - 10, `${accepted} accepted`);
  assert.ok(stop.launchesBefore < RUNNING + QUEUED, `${stop.launchesBefore} launches ended before the stop`);
  assert.ok(lists.count > 10 && lists.p50 < 100, `lists: ${JSON.stringify(lists)}`);
  assert.ok(refusals.count > 0 && refusals.p50 < 200, `refusals: ${JSON.stringify(refusals)}`);
  assert.ok(memory.highest - memory.before < 150 * 2 ** 20, `memory: ${JSON.stringify(memory)}`);
  await lab.assertSound(20_000);
});

test('100 calls for one pod make one pod', { skip, timeout: 60_000 }, async () => {
  const { cri } = lab.daemon;
  const before = await verdicts('admitted');
  const calls = Array.from({ length: 100 }, () => cri.runPodSandbox({ config: config('twin') }));
  const ids = new Set((await Promise.all(calls)).map(({ podSandboxId }) => podSandboxId));
  assert.equal(ids.size, 1);
  assert.equal((await cri.listPodSandbox()).items.length, 1);
  assert.equal((await verdicts('admitted')) - before, 1);
  for (const id of ids) await lab.stopAndRemove(id);
  await lab.assertSound();
});

test('callers whose deadline passes in the queue cost no work', { skip, timeout: 120_000 }, async () => {
  const { cri } = lab.daemon;
  lab.plugin.mode('takes a second');
  const admitted = await verdicts('admitted');
  // A client hangs up at its deadline, and the stream may be reset a millisecond before the daemon’s own clock says so.
  const dropped = async () => (await verdicts('expired')) + (await verdicts('gone'));
  const before = await dropped();
  const patient = Array.from({ length: RUNNING * 3 }, (_, i) => cri.runPodSandbox({ config: config(`patient-${i}`) }));
  // Behind at least three seconds of patient ones.
  const hasty = Array.from({ length: 25 }, async (_, i) => {
    await assert.rejects(cri.runPodSandbox({ config: config(`hasty-${i}`) }, { timeoutMs: 1500 }), {
      code: GRPC.DEADLINE_EXCEEDED,
    });
  });
  await Promise.all(hasty);
  const ids = (await Promise.all(patient)).map(({ podSandboxId }) => podSandboxId);
  lab.plugin.mode('works');
  assert.equal((await verdicts('admitted')) - admitted, patient.length);
  assert.equal((await dropped()) - before, 25);
  const { items } = await cri.listPodSandbox();
  assert.deepEqual(items.map(({ id }) => id).sort(), [...ids].sort());
  await Promise.all(ids.map((id) => lab.stopAndRemove(id)));
  await lab.assertSound(15_000);
});

import assert from 'node:assert/strict';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { GRPC } from '../../src/errors.ts';
import { waitFor } from '../rig/proc.ts';
import { type Lab, openLab, type PluginMode, SKIP } from './lab.ts';

let lab: Lab;
const skip = SKIP;
before(async () => {
  if (!skip) lab = await openLab({ index: 10 });
});
after(async () => lab?.[Symbol.asyncDispose]());

const FAULTS: [PluginMode, RegExp][] = [
  ['refuses', /network.*fault.*the rig says no/s],
  ['crashes', /network.*fault.*the rig fell over/s],
  ['prints garbage', /network.*fault.*I am no JSON/s],
  ['prints nothing', /network.*fault/s],
  ['hangs', /network.*fault/s],
];
for (const [mode, words] of FAULTS) {
  test(`a plugin that ${mode}`, { skip }, async () => {
    lab.plugin.mode(mode);
    const began = performance.now();
    await lab.launchFails('doomed', { words });
    assert.ok(performance.now() - began < 10_000, 'the failure took longer than the time limit of a plugin');
    lab.plugin.mode('works');
    await lab.assertSound();
  });
}

test('a plugin that is missing', { skip }, async () => {
  renameSync(lab.plugin.path, `${lab.plugin.path}.away`);
  try {
    await lab.launchFails('doomed', { words: /fault/ });
    // Its DEL could not run either: it is retried once the plugin is back.
  } finally {
    renameSync(`${lab.plugin.path}.away`, lab.plugin.path);
  }
  await lab.assertSound(60_000);
});

test('a plugin that refuses DEL keeps StopPodSandbox failing until it works again', { skip }, async () => {
  const id = await lab.launch('sticky');
  lab.plugin.mode('refuses DEL');
  await assert.rejects(lab.daemon.cri.stopPodSandbox({ podSandboxId: id }), /the rig says no/);
  lab.plugin.mode('works');
  await lab.stopAndRemove(id);
  await lab.assertSound();
});

test('ADD fails, and so does its undo: the clean-up is retried until it succeeds', { skip }, async () => {
  lab.plugin.mode('refuses ADD and DEL');
  await lab.launchFails('doomed', { words: /the rig says no/ });
  lab.plugin.mode('works');
  await lab.assertSound(60_000);
});

test('a daemon that starts again finishes a clean-up that had failed', { skip }, async () => {
  lab.plugin.mode('refuses ADD and DEL');
  await lab.launchFails('doomed', { words: /the rig says no/ });
  assert.equal(await lab.daemon.stop(), 0);
  lab.plugin.mode('works');
  await lab.daemon.start();
  await lab.assertSound(60_000);
});

test('a broken configuration: NetworkReady is false with the reason, host-network pods work', { skip }, async () => {
  const file = join(lab.daemon.network.confDir, '10-rig.conflist');
  const good = readFileSync(file, 'utf8');
  const networkReady = async () => {
    const { status } = await lab.daemon.cri.status();
    return status?.conditions.find((condition) => condition.type === 'NetworkReady');
  };
  writeFileSync(file, '{ "cniVersion": "1.0.0", "name": "broken", "plugins": [');
  try {
    const condition = await waitFor('NetworkReady to be false', 10_000, async () => {
      const now = await networkReady();
      return now && !now.status ? now : undefined;
    });
    assert.match(condition.message, /10-rig\.conflist/);
    await lab.launchFails('doomed', { code: GRPC.FAILED_PRECONDITION, words: /network/i });
    await lab.stopAndRemove(await lab.launch('on-the-host', { host: { network: true } }));
  } finally {
    writeFileSync(file, good);
  }
  await waitFor('NetworkReady to be true', 10_000, async () => (await networkReady())?.status || undefined);
  await lab.assertSound();
});

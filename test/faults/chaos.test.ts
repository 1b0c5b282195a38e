/** The short form of `npm run chaos`; test/chaos says what it does. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { storm } from '../chaos/storm.ts';
import { skipUnlessRoot } from '../rig/needs.ts';

const skip = skipUnlessRoot('runc', 'containerd-shim-runc-v2', 'docker-registry', 'iptables');

test('a storm of kills loses nothing that was acknowledged and leaves nothing behind', {
  skip,
  timeout: 240_000,
}, async () => {
  const seed = Date.now() % 1_000_000;
  const outcome = await storm({
    kills: 16,
    points: 4,
    launches: 11,
    parallel: 6,
    seed,
    longestMs: 1000,
    slowPlugins: true,
    handlers: ['', 'pause'],
    index: 31,
  });
  const { problems, left, counts, points } = outcome;
  const repeat = `npm run chaos -- --kills 16 --parallel 6 --longest 1000 --seed ${seed}`;
  assert.deepEqual(problems, [], repeat);
  assert.deepEqual(left, [], repeat);
  assert.ok(counts.launches > 10 && points.reached >= 4, `too little happened: ${JSON.stringify(outcome)}`);
});

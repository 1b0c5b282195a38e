import assert from 'node:assert/strict';
import { test } from 'node:test';
import { onceIdle } from '../../src/main/once-idle.ts';

test('what can wait is done once, when no job runs or comes, or after so many looks', (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const lane = { running: 1, queued: 0, limit: 1 };
  const admission = {
    admitted: 3,
    use: { launch: lane, teardown: { ...lane, running: 0 }, image: { ...lane, running: 0 } },
  };
  const done = { first: 0, second: 0, third: 0 };
  const looks = { everyMs: 10, most: 5 };
  const first = onceIdle(admission, () => done.first++, looks);
  t.mock.timers.tick(10);
  assert.equal(done.first, 0, 'a job runs');
  lane.running = 0;
  admission.admitted++;
  t.mock.timers.tick(10);
  assert.equal(done.first, 0, 'a job has come and gone');
  t.mock.timers.tick(10);
  assert.equal(done.first, 1);
  t.mock.timers.tick(100);
  assert.equal(done.first, 1, 'once');
  first[Symbol.dispose]();

  lane.running = 1;
  using _second = onceIdle(admission, () => done.second++, looks);
  t.mock.timers.tick(40);
  assert.equal(done.second, 0);
  t.mock.timers.tick(10);
  assert.equal(done.second, 1, 'it does not wait for ever');

  lane.running = 0;
  onceIdle(admission, () => done.third++, looks)[Symbol.dispose]();
  t.mock.timers.tick(100);
  assert.equal(done.third, 0, 'the daemon has ended');
});

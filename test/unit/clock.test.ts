/** The wall clock is set by operators and NTP, an hour at a time if need be: what depends on it, and what must not. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Clock } from '../../src/clock.ts';
import { Stamp } from '../../src/workers/stdio/stamp.ts';

const HOUR_MS = 3_600_000;
const START = Date.UTC(2026, 10, 26, 12);

/** A machine's two clocks, in milliseconds. */
function machine() {
  const time = { wall: START, monotonic: 5000 };
  const clock = new Clock(
    () => Math.floor(time.wall),
    () => [Math.floor(time.monotonic / 1000), (time.monotonic % 1000) * 1e6],
  );
  const pass = (ms: number) => {
    time.wall += ms;
    time.monotonic += ms;
  };
  const ms = () => {
    const { seconds, nanos } = clock.now();
    return seconds * 1000 + nanos / 1e6;
  };
  return { time, clock, pass, ms };
}

for (const [way, jump] of [
  ['forward', HOUR_MS],
  ['back', -HOUR_MS],
] as const) {
  test(`the clock follows a wall clock that is set ${way} by an hour`, () => {
    const { time, pass, ms } = machine();
    pass(100.25);
    assert.equal(ms(), START + 100.25);
    time.wall += jump;
    assert.equal(ms(), Math.floor(START + jump + 100.25));
    pass(1);
    assert.ok(Math.abs(ms() - (START + jump + 101.25)) < 1);
  });

  test(`log lines keep their order when the wall clock is set ${way} by an hour`, () => {
    const { time, clock, pass } = machine();
    const stamp = new Stamp(clock);
    const stamps: string[] = [];
    for (let at = 0; at < 20; at++) {
      if (at === 10) time.wall += jump;
      pass(1);
      stamp.refresh();
      stamps.push(stamp.bytes.toString('latin1'));
    }
    assert.deepEqual([...stamps].sort(), stamps);
    assert.equal(new Set(stamps).size, stamps.length);
  });
}

test('two instants of one millisecond are told apart, and small drifts do not move the base', () => {
  const { time, pass, ms } = machine();
  const first = ms();
  pass(0.01);
  assert.ok(ms() > first);
  time.wall += 3; // NTP slews a few milliseconds; the base holds
  assert.ok(Math.abs(ms() - (first + 0.01)) < 0.001);
});

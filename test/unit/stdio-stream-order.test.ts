import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StderrHold } from '../../src/workers/stdio/stream-order.ts';

/** Both streams of a container, on a clock and an event loop of the test's own: each turn of the loop takes 0.05 ms. */
function rig({ busy = false } = {}) {
  const log: string[] = [];
  const deferred: (() => void)[] = [];
  let now = 0;
  const hold = new StderrHold({
    release: (bytes) => log.push(bytes.toString()),
    now: () => now,
    defer: (callback) => void deferred.push(callback),
    isBusy: () => busy,
  });
  return {
    log,
    hold,
    out(text: string) {
      hold.stdout();
      log.push(text);
    },
    err: (text: string) => hold.stderr(Buffer.from(text)),
    pass(ms: number) {
      for (const end = now + ms; now < end - 1e-9; ) {
        now += 0.05;
        for (const callback of deferred.splice(0)) callback();
      }
    },
    /** Nothing of the loop runs meanwhile. */
    stall(ms: number) {
      now += ms;
    },
    get waits() {
      return deferred.length > 0;
    },
  };
}

test('stdout that arrives just after stderr comes before it, all of it', () => {
  const { log, out, err, pass } = rig();
  err('error');
  pass(0.05);
  out('one');
  pass(0.05);
  out('two');
  pass(1);
  assert.deepEqual(log, ['one', 'two', 'error']);
});

test('a turn of the loop that takes too long: what comes in it was written later', () => {
  const { log, out, err, stall } = rig();
  out('0');
  err('error');
  stall(1);
  out('status');
  assert.deepEqual(log, ['0', 'error', 'status']);
});

test('what is a millisecond apart keeps its order, whichever stream is first', () => {
  const { log, out, err, pass } = rig();
  for (let i = 0; i < 5; i++) {
    err(`e${i}`);
    pass(1);
    out(`o${i}`);
    pass(1);
  }
  assert.deepEqual(log, ['e0', 'o0', 'e1', 'o1', 'e2', 'o2', 'e3', 'o3', 'e4', 'o4']);
});

test('several pieces of stderr keep their order, and the buffer that they came in may be reused', () => {
  const { log, hold, pass } = rig();
  const shared = Buffer.from('a');
  hold.stderr(shared);
  shared.write('b');
  hold.stderr(shared);
  shared.write('x');
  pass(1);
  assert.deepEqual(log, ['a', 'b']);
});

test('a container that writes to stderr alone waits at its first bytes and never again', () => {
  const r = rig();
  r.err('a');
  assert.deepEqual(r.log, []);
  r.pass(5);
  for (const text of ['b', 'c']) {
    r.err(text);
    assert.equal(r.log.at(-1), text);
    r.pass(5);
  }
  assert.equal(r.waits, false);
});

test('a burst of stderr is not held', () => {
  const { log, out, err, pass } = rig();
  out('o');
  err('1');
  pass(0.5);
  err('2');
  assert.deepEqual(log, ['o', '1', '2']);
});

test('a busy loop keeps the order of its wake-ups', () => {
  const { log, out, err } = rig({ busy: true });
  err('e');
  out('o');
  assert.deepEqual(log, ['e', 'o']);
});

test('flush passes on what is held, once', () => {
  const { log, hold, err, pass } = rig();
  err('last words');
  hold.flush();
  pass(1);
  assert.deepEqual(log, ['last words']);
});

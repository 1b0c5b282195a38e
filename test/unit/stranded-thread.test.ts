import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isStranded, StrandedThread } from '../../src/sys/stranded-thread.ts';

test('a stranded thread is known also by an error that came together with one', () => {
  const stranded = new StrandedThread('it could not return');
  const other = new Error('EBUSY');
  const fail = (error: Error) => () => {
    throw error;
  };
  for (const [first, then] of [
    [stranded, other],
    [other, stranded],
  ] as const) {
    const run = () => {
      using stack = new DisposableStack();
      stack.defer(fail(other));
      stack.defer(fail(then));
      throw first;
    };
    assert.throws(run, (error) => error instanceof SuppressedError && isStranded(error));
  }
  assert.equal(isStranded(stranded), true);
  assert.equal(isStranded(other), false);
  assert.equal(isStranded(new SuppressedError(other, other, 'both')), false);
});

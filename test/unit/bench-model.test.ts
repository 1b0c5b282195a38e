import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fit } from '../bench/model.ts';

const near = (value: number, wanted: number) => assert.ok(Math.abs(value - wanted) < 1e-9, `${value}, not ${wanted}`);

test('a line through points on a line is that line', () => {
  const { base, perPod, at, worst } = fit([100, 200, 400].map((pods) => ({ pods, value: 60 + 0.25 * pods })));
  near(base, 60);
  near(perPod, 0.25);
  near(at(2500), 685);
  near(worst, 0);
});

test('the point that is farthest off says how well the line fits', () => {
  const { worst } = fit([
    { pods: 100, value: 10 },
    { pods: 200, value: 10 },
    { pods: 300, value: 40 },
  ]);
  assert.ok(worst > 0.4, `${worst}`);
});

test('points that make no line are refused', () => {
  assert.throws(() => fit([{ pods: 1, value: 1 }]), /two points/);
  assert.throws(
    () =>
      fit([
        { pods: 1, value: 1 },
        { pods: 1, value: 2 },
      ]),
    /different numbers/,
  );
});

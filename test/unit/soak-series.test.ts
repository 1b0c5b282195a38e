import assert from 'node:assert/strict';
import { test } from 'node:test';
import { drawSeries, type Series, trendOf } from '../soak/series.ts';

const series = (value: (at: number) => number): Series => ({
  name: 'memory <x>',
  unit: 'MiB',
  allowed: 10,
  points: Array.from({ length: 120 }, (_, at) => ({ seconds: at * 5, value: value(at) })),
});
/** The same noise at each run. */
const noise = (at: number) => Math.sin(at * 12.9898) * 5;

test('noise around a level is flat, and so are single peaks', () => {
  assert.ok(trendOf(series((at) => 100 + noise(at))).flat);
  assert.ok(trendOf(series((at) => (at % 20 === 19 ? 300 : 100) + noise(at))).flat);
});

test('what fills during the warm-up only is flat', () => {
  assert.ok(trendOf(series((at) => 100 + Math.min(at, 29) * 3 + noise(at))).flat);
});

test('a steady growth under the noise is found, and measured', () => {
  const { flat, growth } = trendOf(series((at) => 100 + at * 0.2 + noise(at)));
  assert.ok(!flat);
  assert.ok(Math.abs(growth - 18) < 3, `${growth}`);
});

test('what shrinks is flat', () => {
  assert.ok(trendOf(series((at) => 200 - at)).flat);
});

test('the picture is well-formed and says what grows', () => {
  const svg = drawSeries('title & more', [series(() => 5), series((at) => at)]);
  assert.equal(svg.match(/<g /g)?.length, 2);
  assert.equal(svg.match(/GROWS/g)?.length, 1);
  assert.match(svg, /title &amp; more/);
  assert.doesNotMatch(svg, /NaN|undefined|<x>/);
});

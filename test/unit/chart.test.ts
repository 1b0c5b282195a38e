import assert from 'node:assert/strict';
import { test } from 'node:test';
import { drawChart, type Panel } from '../rig/chart.ts';

const panel: Panel = {
  name: 'pods/s <x>',
  note: 'more & less',
  ticks: [1, 2, 64].map((x) => ({ x, label: `${x}` })),
  logarithmic: true,
  lines: [
    { label: 'one thread', colour: '#111111', points: [1, 2, 64].map((x) => ({ x, y: x })), dots: true },
    { colour: '#222222', points: [{ x: 1, y: 3 }], dashed: true },
  ],
};

test('a panel has its lines, dots, legend and ticks, and texts are escaped', () => {
  const svg = drawChart('title', [panel, panel]);
  assert.equal(svg.match(/<g /g)?.length, 2);
  assert.equal(svg.match(/<circle /g)?.length, 6);
  assert.equal(svg.match(/>one thread</g)?.length, 2);
  assert.match(svg, /pods\/s &lt;x>.*more &amp; less/s);
  assert.doesNotMatch(svg, /NaN|undefined|<x>/);
});

test('on a logarithmic axis each doubling is as wide as the one before', () => {
  const points = [1, 2, 4].map((x) => ({ x, y: 1 }));
  const line = { colour: '#123456', points };
  const ticks = points.map(({ x }) => ({ x, label: `${x}` }));
  const path = / d="M([\d.]+) [\d.]+ L([\d.]+) [\d.]+ L([\d.]+) /.exec(
    drawChart('t', [{ ...panel, ticks, lines: [line] }]),
  );
  const [first = 0, second = 0, third = 0] = (path ?? []).slice(1).map(Number);
  assert.ok(first < second);
  assert.ok(Math.abs(third - second - (second - first)) < 0.2, `${first} ${second} ${third}`);
});

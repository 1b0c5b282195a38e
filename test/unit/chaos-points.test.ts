import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BROKEN, pointsAndRecoveries, tablePoints, UNREACHABLE } from '../chaos/points.ts';
import { seeded } from '../chaos/random.ts';
import { HANDLERS } from '../chaos/requests.ts';
import { pointName } from '../chaos/setting.ts';
import { situationFor } from '../chaos/situations.ts';

test('every point of every table has a situation that leads to it, undos with a record also in a recovery', () => {
  const points = pointsAndRecoveries();
  const names = points.map(pointName);
  assert.equal(new Set(names).size, names.length);
  const recoveries = tablePoints().filter(({ job, moment }) => BROKEN[job] && moment.startsWith('undo'));
  assert.equal(points.length, tablePoints().length + recoveries.length);
  const choice = { random: seeded(1), handlers: Object.keys(HANDLERS), number: 0 };
  for (const point of points) assert.notEqual(situationFor(point, choice).of, '');
  for (const one of UNREACHABLE)
    assert.ok(names.includes(pointName({ ...one, after: 0 })), `${one.why}: no such point`);
});

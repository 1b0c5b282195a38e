/**
 * host-local's ranges: the walk through them, and the words for those that are none (as the reference plugin has them).
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addressText, parseAddress } from '../../src/sys/ip.ts';
import { candidates, readRangeSet, refuseOverlaps, setText } from '../../src/workers/net/in-process/ranges.ts';

const walk = (set: object[], after?: string): string[] =>
  [...candidates(readRangeSet(set), after === undefined ? undefined : parseAddress(after))].map(({ address }) =>
    addressText(address),
  );

test('the walk: every address but the gateway, once, from the one after the last', () => {
  const small = [{ subnet: '10.0.0.0/29' }];
  assert.deepEqual(walk(small), ['10.0.0.2', '10.0.0.3', '10.0.0.4', '10.0.0.5', '10.0.0.6']);
  assert.deepEqual(walk(small, '10.0.0.4'), ['10.0.0.5', '10.0.0.6', '10.0.0.2', '10.0.0.3', '10.0.0.4']);
  assert.deepEqual(walk(small, '10.0.0.6'), ['10.0.0.2', '10.0.0.3', '10.0.0.4', '10.0.0.5', '10.0.0.6']);
  assert.deepEqual(walk(small, '192.0.2.1').length, 5, 'a last address of another range means the beginning');
  const two = [
    { subnet: '10.0.0.0/24', rangeStart: '10.0.0.10', rangeEnd: '10.0.0.11' },
    { subnet: '10.0.1.0/24', rangeStart: '10.0.1.1', rangeEnd: '10.0.1.2', gateway: '10.0.1.2' },
  ];
  assert.deepEqual(walk(two), ['10.0.0.10', '10.0.0.11', '10.0.1.1']);
  assert.deepEqual(walk(two, '10.0.0.11'), ['10.0.1.1', '10.0.0.10', '10.0.0.11']);
  assert.deepEqual(walk([{ subnet: 'fd00::/126' }]), ['fd00::2', 'fd00::3'], 'IPv6 has no broadcast');
  assert.equal(setText(readRangeSet(two)), '10.0.0.10-10.0.0.11,10.0.1.1-10.0.1.2');
});

test('what is no range', () => {
  const bad: [object[], RegExp][] = [
    [[], /^empty range set$/],
    [[{ subnet: '10.0.0.0/31' }], /^Network 10\.0\.0\.0\/31 too small to allocate from$/],
    [
      [{ subnet: '10.0.0.1/24' }],
      /^Network has host bits set\. For a subnet mask of length 24 the network address is 10\.0\.0\.0$/,
    ],
    [[{ subnet: '10.0.0.0/24', rangeStart: '10.1.0.1' }], /^RangeStart 10\.1\.0\.1 not in network 10\.0\.0\.0\/24$/],
    [[{ subnet: '10.0.0.0/24', rangeEnd: '10.1.0.1' }], /^RangeEnd 10\.1\.0\.1 not in network 10\.0\.0\.0\/24$/],
    [[{ subnet: '10.0.0.0/24' }, { subnet: 'fd00::/64' }], /^mixed address families$/],
    [
      [{ subnet: '10.0.0.0/24' }, { subnet: '10.0.0.0/25' }],
      /^subnets 10\.0\.0\.1-10\.0\.0\.254 and 10\.0\.0\.1-10\.0\.0\.126 overlap$/,
    ],
  ];
  for (const [set, words] of bad) assert.throws(() => readRangeSet(set), { name: 'Refusal', message: words });
  for (const set of [
    [{ subnet: 'x' }],
    [{ subnet: '10.0.0.0/24', extra: 1 }],
    [{ subnet: '10.0.0.0/24', gateway: 5 }],
  ]) {
    assert.throws(() => readRangeSet(set), { name: 'NotOurs' }, 'the program has words of its own for these');
  }
  const sets = [[{ subnet: '10.0.0.0/24' }], [{ subnet: '10.0.0.128/25' }]].map(readRangeSet);
  assert.throws(() => refuseOverlaps(sets), { message: 'range set 0 overlaps with 1' });
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { decodeExact, encodeSpec } from '../../src/node/oci/encode.ts';
import { mergeResources, toLinuxResources } from '../../src/node/oci/resources.ts';
import { resources } from '../rig/messages.ts';
import { HOST } from './oci-fixtures.ts';

const V1 = { ...HOST, cgroupVersion: 1 as const };

describe('limits in the form of the runtime specification', () => {
  test('only limits of the request', () => {
    assert.deepEqual(toLinuxResources(undefined, HOST), {});
    assert.deepEqual(toLinuxResources(resources(), HOST), {});
  });

  test('all of them', () => {
    const asked = resources({
      cpuPeriod: 100000n,
      cpuQuota: -1n,
      cpuShares: 1024n,
      cpusetCpus: '0-1',
      cpusetMems: '0',
      memoryLimitInBytes: 1n << 30n,
      memorySwapLimitInBytes: 1n << 31n,
      hugepageLimits: [{ pageSize: '2MB', limit: 0n }],
      unified: { 'memory.high': '900000000' },
    });
    assert.deepEqual(toLinuxResources(asked, HOST), {
      cpu: { shares: 1024, quota: -1, period: 100000, cpus: '0-1', mems: '0' },
      memory: { limit: 2 ** 30, swap: 2 ** 31 },
      hugepageLimits: [{ pageSize: '2MB', limit: 0 }],
      unified: { 'memory.high': '900000000' },
    });
  });

  test('swap is limited to the memory limit by default, and only with a swap controller', () => {
    const asked = resources({ memoryLimitInBytes: 4096n });
    assert.deepEqual(toLinuxResources(asked, HOST).memory, { limit: 4096, swap: 4096 });
    assert.deepEqual(toLinuxResources(asked, { ...HOST, swapController: false }).memory, { limit: 4096 });
    assert.deepEqual(toLinuxResources(resources({ memorySwapLimitInBytes: -1n }), HOST).memory, { swap: -1 });
    const both = resources({ memoryLimitInBytes: 4096n, memorySwapLimitInBytes: 8192n });
    assert.deepEqual(toLinuxResources(both, { ...HOST, swapController: false }).memory, { limit: 4096 });
  });

  test('huge page limits are omitted without the controller', () => {
    const asked = resources({ hugepageLimits: [{ pageSize: '1GB', limit: 1n }] });
    assert.deepEqual(toLinuxResources(asked, { ...HOST, hugetlbController: false }), {});
  });

  test('unified needs cgroup v2', () => {
    const asked = resources({ unified: { 'memory.min': '1' } });
    assert.throws(() => toLinuxResources(asked, V1), { code: 'INVALID_REQUEST', message: /unified.*v2/ });
  });

  test('limits beyond 2^53 stay exact', () => {
    const limit = 9223372036854771712n; // cgroup v1's "none"
    const built = toLinuxResources(resources({ memoryLimitInBytes: limit }), V1);
    assert.equal(encodeSpec(built), '{"memory":{"limit":9223372036854771712,"swap":9223372036854771712}}');
    assert.deepEqual(decodeExact(encodeSpec(built)), built);
    assert.deepEqual(structuredClone(built), built);
  });
});

describe('an update of limits', () => {
  const old = resources({
    cpuPeriod: 100000n,
    cpuQuota: 50000n,
    cpuShares: 512n,
    memoryLimitInBytes: 100n,
    oomScoreAdj: 3n,
    cpusetCpus: '0',
    hugepageLimits: [
      { pageSize: '2MB', limit: 1n },
      { pageSize: '1GB', limit: 2n },
    ],
    unified: { a: '1', b: '2' },
  });

  test('zero keeps the old value', () => {
    assert.deepEqual(mergeResources(old, resources()), old);
    assert.deepEqual(mergeResources(undefined, old), old);
  });

  test('set fields replace the old value; huge pages by size, unified by file', () => {
    const update = resources({
      cpuQuota: -1n,
      cpusetCpus: '1',
      hugepageLimits: [{ pageSize: '1GB', limit: 9n }],
      unified: { b: '3', c: '4' },
    });
    assert.deepEqual(mergeResources(old, update), {
      ...old,
      cpuQuota: -1n,
      cpusetCpus: '1',
      hugepageLimits: [
        { pageSize: '2MB', limit: 1n },
        { pageSize: '1GB', limit: 9n },
      ],
      unified: { a: '1', b: '3', c: '4' },
    });
  });

  test('disabled swap stays disabled with a new memory limit; another swap limit stays', () => {
    const off = { ...old, memorySwapLimitInBytes: 100n };
    assert.equal(mergeResources(off, resources({ memoryLimitInBytes: 300n })).memorySwapLimitInBytes, 300n);
    const on = { ...old, memorySwapLimitInBytes: 500n };
    assert.equal(mergeResources(on, resources({ memoryLimitInBytes: 300n })).memorySwapLimitInBytes, 500n);
    const given = mergeResources(off, resources({ memoryLimitInBytes: 300n, memorySwapLimitInBytes: 400n }));
    assert.equal(given.memorySwapLimitInBytes, 400n);
    // Swap that nobody spoke of follows the limit by itself.
    const implied = mergeResources(old, resources({ memoryLimitInBytes: 300n }));
    assert.deepEqual(toLinuxResources(implied, HOST).memory, { limit: 300, swap: 300 });
  });
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addresses } from '../../src/node/network/addresses.ts';
import { inVersion, parseResult } from '../../src/workers/net/result.ts';

const parse = (value: unknown, requested = '1.0.0') => parseResult(JSON.stringify(value), requested);

test('0.3 and 0.4: the version of each address is dropped, everything else is kept', () => {
  for (const cniVersion of ['0.3.0', '0.3.1', '0.4.0']) {
    const { result } = parse({
      cniVersion,
      interfaces: [{ name: 'eth0', mac: '00:11:22:33:44:55', sandbox: '/ns' }],
      ips: [{ version: '4', address: '10.1.0.5/16', gateway: '10.1.0.1', interface: 0 }],
      routes: [{ dst: '0.0.0.0/0', gw: '10.1.0.1' }],
      dns: { nameservers: ['10.1.0.1'] },
    });
    assert.deepEqual(result, {
      cniVersion: '1.1.0',
      interfaces: [{ name: 'eth0', mac: '00:11:22:33:44:55', sandbox: '/ns' }],
      ips: [{ address: '10.1.0.5/16', gateway: '10.1.0.1', interface: 0 }],
      routes: [{ dst: '0.0.0.0/0', gw: '10.1.0.1' }],
      dns: { nameservers: ['10.1.0.1'] },
    });
  }
});

test('0.2.0: both families become addresses with their routes', () => {
  const { result } = parse({
    cniVersion: '0.2.0',
    ip4: { ip: '10.1.0.5/16', gateway: '10.1.0.1', routes: [{ dst: '0.0.0.0/0' }] },
    ip6: { ip: 'fd00::5/64', routes: [{ dst: '::/0', gw: 'fd00::1' }] },
  });
  assert.deepEqual(result.ips, [{ address: '10.1.0.5/16', gateway: '10.1.0.1' }, { address: 'fd00::5/64' }]);
  assert.deepEqual(result.routes, [{ dst: '0.0.0.0/0' }, { dst: '::/0', gw: 'fd00::1' }]);
  assert.deepEqual(addresses(result, 'eth0'), ['10.1.0.5', 'fd00::5']);
});

test('1.1.0 fields are kept, and null counts as absent', () => {
  const { result } = parse({
    cniVersion: '1.1.0',
    interfaces: [{ name: 'eth0', mtu: 1400, pciID: '0000:00:1f.6' }],
    ips: null,
    routes: [{ dst: '10.0.0.0/8', table: 7, priority: 3 }],
  });
  assert.deepEqual(result.interfaces, [{ name: 'eth0', mtu: 1400, pciID: '0000:00:1f.6' }]);
  assert.deepEqual(result.ips, []);
  assert.deepEqual(result.routes, [{ dst: '10.0.0.0/8', table: 7, priority: 3 }]);
});

test('a result without a version has the version of the request', () => {
  assert.equal(parse({ ips: [] }, '0.4.0').version, '0.4.0');
  assert.equal(parse({ cniVersion: '', ips: [] }, '0.3.1').version, '0.3.1');
});

test('prevResult: unchanged in the same version, converted for another one', () => {
  const own = { cniVersion: '1.0.0', ips: [{ address: 'fd00::5/64' }], vendor: { kept: 1 } };
  assert.deepEqual(inVersion(parse(own), '1.0.0'), own);
  const older = inVersion(parse(own), '0.4.0');
  assert.equal(older.cniVersion, '0.4.0');
  assert.deepEqual(older.ips, [{ version: '6', address: 'fd00::5/64' }]);
  const oldest = inVersion(parse({ ...own, ips: [{ address: '10.0.0.2/8', gateway: '10.0.0.1' }] }), '0.2.0');
  assert.deepEqual(oldest.ip4, { ip: '10.0.0.2/8', gateway: '10.0.0.1', routes: [] });
});

test('an invalid result is refused with a reason', () => {
  assert.throws(() => parseResult('', '1.0.0'), /printed no result/);
  assert.throws(
    () => parseResult(`Error: ${'x'.repeat(1000)}`, '1.0.0'),
    (error: Error) => {
      assert.match(error.message, /not JSON: Error: xxx/);
      return error.message.length < 300;
    },
  );
  assert.throws(() => parseResult('[1]', '1.0.0'), /not an object/);
  assert.throws(() => parse({ cniVersion: '3.0.0' }), /version "3.0.0", which is not supported/);
  assert.throws(() => parse({ ips: [{ address: '10.0.0.1' }] }), /not a CIDR/);
  assert.throws(() => parse({ ips: {} }), /"ips" is not a list/);
  assert.throws(
    () => parse({ interfaces: [], ips: [{ address: '10.0.0.1/8', interface: 0 }] }),
    /interface index is 0, but it has 0 interfaces/,
  );
});

test('addresses: IPv4 first, those of the interface and of no interface, each once', () => {
  const interfaces = [{ name: 'veth1' }, { name: 'eth0', sandbox: '/ns' }, { name: 'net1', sandbox: '/ns' }];
  const ips = [
    { address: 'fd00::5/64', interface: 1 },
    { address: '10.1.0.5/16', interface: 1 },
    { address: '192.168.0.9/24', interface: 2 },
    { address: '10.1.0.1/16', interface: 0 },
    { address: '10.1.0.5/32' },
  ];
  assert.deepEqual(addresses({ cniVersion: '1.1.0', interfaces, ips }, 'eth0'), ['10.1.0.5', 'fd00::5']);
  assert.deepEqual(addresses({ cniVersion: '1.1.0', interfaces }, 'eth0'), []);
  assert.deepEqual(addresses({ cniVersion: '1.1.0' }, 'eth0'), []);
});

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { endianness, tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { ownSubnet } from '../../src/node/network/own-subnet.ts';

const HEAD = 'Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n';

/** The text of /proc/net/route with these networks, in the byte order of this machine. */
function routes(...networks: [address: string, bits: number][]): string {
  const print = (value: number) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value >>> 0);
    return (endianness() === 'LE' ? bytes.reverse() : bytes).toString('hex').toUpperCase();
  };
  const number = (address: string) => address.split('.').reduce((sum, byte) => sum * 256 + Number(byte), 0);
  const line = ([address, bits]: [string, number]) =>
    `x0\t${print(number(address))}\t00000000\t0001\t0\t0\t0\t${print(bits === 0 ? 0 : -1 << (32 - bits))}\t0\t0\t0`;
  return `${HEAD}${networks.map(line).join('\n')}\n`;
}

function folder(t: TestContext): string {
  const root = mkdtempSync(join(tmpdir(), 'own-subnet-'));
  t.after(() => rmSync(root, { recursive: true }));
  return root;
}

const all = (except: number[] = []) =>
  Array.from({ length: 52 }, (_, i) => 192 + i)
    .filter((second) => !except.includes(second))
    .map((second): [string, number] => [`10.${second}.0.0`, 16]);

test('a subnet of 10.192 to 10.243 is chosen and kept', (t) => {
  const root = folder(t);
  const subnet = ownSubnet(root, routes());
  assert.match(subnet, /^10\.(19[2-9]|2[0-3]\d|24[0-3])\.0\.0\/16$/);
  // A route overlaps it now (of its own bridge, or a later one), but pods have addresses in it, so it stays.
  const second = Number(subnet.split('.')[1]);
  assert.equal(ownSubnet(root, routes([`10.${second}.0.0`, 16])), subnet);
});

test('a subnet that overlaps a wider or narrower route is not taken; the default route does not count', (t) => {
  assert.equal(ownSubnet(folder(t), routes(['0.0.0.0', 0], ...all([201]))), '10.201.0.0/16');
  assert.equal(ownSubnet(folder(t), routes(...all([201, 202]), ['10.202.7.0', 24])), '10.201.0.0/16');
  assert.equal(ownSubnet(folder(t), routes(['10.128.0.0', 10], ['10.192.0.0', 11], ...all([230]))), '10.230.0.0/16');
});

test('daemons start at different candidates', (t) => {
  const chosen = new Set(Array.from({ length: 12 }, () => ownSubnet(folder(t), routes())));
  assert.ok(chosen.size > 3, [...chosen].join(' '));
});

test('with every candidate taken it still returns one', (t) => {
  assert.match(ownSubnet(folder(t), routes(['10.0.0.0', 8])), /^10\.\d+\.0\.0\/16$/);
});

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import {
  addressText,
  contains,
  lastOf,
  neighbour,
  networkOf,
  parseAddress,
  parsePrefix,
  prefixText,
} from '../../src/sys/ip.ts';
import { C, check, libc, SysError } from '../../src/sys/libc.ts';
import { attribute, attributesOf, listOf, NetlinkError, nested } from '../../src/sys/netlink.ts';
import { addBridge, findLink, listAddresses, openRoute, setUp } from '../../src/sys/rtnetlink.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root: a network namespace of its own';

test('addresses: what is read is written in its canonical form', () => {
  const forms: [string, string | undefined][] = [
    ['10.0.0.1', '10.0.0.1'],
    ['::', '::'],
    ['::1', '::1'],
    ['fd00:0:0:1:0:0:0:1', 'fd00:0:0:1::1'],
    ['2001:DB8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['fd00:1:2:3:4:5:0:7', 'fd00:1:2:3:4:5:0:7'],
    ['::ffff:10.0.0.1', '10.0.0.1'],
    ['64:ff9b::192.0.2.1', '64:ff9b::c000:201'],
    ['10.0.0', undefined],
    ['010.0.0.1', undefined],
    ['fe80::1%eth0', undefined],
    ['', undefined],
  ];
  for (const [text, expected] of forms) {
    const address = parseAddress(text);
    assert.equal(address && addressText(address), expected, text);
  }
  for (const text of ['10.0.0.0/33', '10.0.0.0', '10.0.0.0/8/8', 'fd00::/129', '10.0.0.0/x']) {
    assert.equal(parsePrefix(text), undefined, text);
  }
});

test('prefixes: first, last, next and what is inside', () => {
  const prefix = parsePrefix('10.1.2.3/22');
  assert.ok(prefix);
  assert.equal(prefixText(prefix), '10.1.2.3/22');
  assert.equal(addressText(networkOf(prefix)), '10.1.0.0');
  assert.equal(addressText(lastOf(prefix)), '10.1.3.255');
  assert.equal(addressText(neighbour(lastOf(prefix))), '10.1.4.0');
  assert.equal(addressText(neighbour(networkOf(prefix), -1)), '10.0.255.255');
  assert.equal(contains(prefix, parseAddress('10.1.3.9') ?? Buffer.alloc(0)), true);
  assert.equal(contains(prefix, parseAddress('10.1.4.0') ?? Buffer.alloc(0)), false);
  assert.equal(contains(prefix, parseAddress('fd00::1') ?? Buffer.alloc(0)), false);
  assert.equal(addressText(neighbour(parseAddress('fd00::ffff:ffff') ?? Buffer.alloc(0))), 'fd00::1:0:0');
});

test('attributes: lengths are padded, nests are read back, broken ones end the list', () => {
  const bytes = Buffer.concat([attribute(1, Buffer.from('abc')), nested(2, [attribute(3, Buffer.from([7]))])]);
  assert.equal(bytes.length % 4, 0);
  assert.deepEqual(
    listOf(bytes).map(([type, payload]) => [type, payload.length]),
    [
      [1, 3],
      [2, 8],
    ],
  );
  assert.deepEqual(attributesOf(attributesOf(bytes).get(2) ?? Buffer.alloc(0)).get(3), Buffer.from([7]));
  assert.deepEqual(listOf(Buffer.from([2, 0, 1, 0, 0, 0, 0, 0])), []);
  assert.deepEqual(listOf(Buffer.from([40, 0, 1, 0, 0, 0, 0, 0])), []);
});

test('links over a real socket: made, found, refused twice in the words of the kernel', { skip }, () => {
  check('unshare', libc.unshare(C.CLONE_NEWNET));
  using socket = openRoute();
  assert.equal(findLink(socket, 'br0'), undefined);
  addBridge(socket, { name: 'br0', mtu: 1400, vlanFiltering: false });
  assert.throws(() => addBridge(socket, { name: 'br0', mtu: 0, vlanFiltering: false }), {
    name: 'NetlinkError',
    code: 'EEXIST',
    text: 'file exists',
  });
  const link = findLink(socket, 'br0');
  assert.ok(link);
  assert.deepEqual([link.kind, link.mtu, link.up, findLink(socket, link.index)?.name], ['bridge', 1400, false, 'br0']);
  assert.deepEqual(listAddresses(socket, link.index), []);
  // One batch: the refused request keeps none of the others from being carried out.
  const outcomes = socket.exchange([setUp(9999), setUp(link.index)]);
  assert.deepEqual([outcomes[0]?.error?.code, outcomes[1]?.error], ['ENODEV', undefined]);
  assert.equal(findLink(socket, 'br0')?.up, true);
  assert.throws(() => addBridge(socket, { name: 'a'.repeat(30), mtu: 0, vlanFiltering: false }), NetlinkError);
});

test('more answers than the socket holds (ENOBUFS) is an error, and the socket goes on working', { skip }, () => {
  using socket = openRoute();
  const many = Array.from({ length: 5000 }, () => setUp(1));
  assert.throws(
    () => socket.exchange(many),
    (error: SysError) => error instanceof SysError && error.code === 'ENOBUFS',
  );
  assert.equal(findLink(socket, 'lo')?.up, true);
  assert.equal(findLink(socket, 'nowhere'), undefined);
});

test('what a thread keeps open is closed when it ends, however it ends', async () => {
  const open = () => readdirSync('/proc/self/fd').length;
  const file = import.meta.resolve('../../src/workers/net/in-process/sockets.ts');
  const script = `const { routeSocket } = await import('${file}');
    routeSocket();
    (await import('node:worker_threads')).parentPort.postMessage('open');
    setInterval(() => {}, 60_000);`;
  const entry = new URL(`data:text/javascript,${encodeURIComponent(script)}`);
  const run = async () => {
    const thread = new Worker(entry);
    await once(thread, 'message');
    await thread.terminate();
  };
  await run();
  const before = open();
  for (let count = 0; count < 3; count++) await run();
  assert.equal(open(), before);
});

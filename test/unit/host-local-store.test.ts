/** The folder of host-local's addresses, with what a killed process leaves in it. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { parseAddress } from '../../src/sys/ip.ts';
import type { Owner } from '../../src/workers/net/in-process/call.ts';
import { type Store, withStore } from '../../src/workers/net/in-process/host-local-store.ts';

let folder = '';
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'sluice-test-host-local-'));
});
after(() => rmSync(folder, { recursive: true, force: true }));

const locked = <T>(work: (store: Store) => T) => withStore(folder, 1000, work);
const files = () => readdirSync(folder).filter((name) => /^\d/.test(name));
const owner = (containerId: string): Owner => ({ containerId, ifName: 'eth0' });
function address(text: string) {
  const parsed = parseAddress(text);
  assert.ok(parsed);
  return parsed;
}

test('an address is taken once, and given back by its owner alone', async () => {
  assert.equal(await locked((store) => store.reserve(owner('a'), address('10.1.0.2'), 0)), true);
  assert.equal(await locked((store) => store.reserve(owner('b'), address('10.1.0.2'), 0)), false);
  assert.equal(readFileSync(join(folder, '10.1.0.2'), 'utf8'), 'a\r\neth0');
  await locked((store) => store.release(owner('b')));
  assert.deepEqual(files(), ['10.1.0.2']);
  await locked((store) => store.release(owner('a')));
  assert.deepEqual(files(), []);
});

test('a file without an owner, which a killed process leaves, is taken over', async () => {
  writeFileSync(join(folder, '10.1.0.3'), '');
  assert.equal(await locked((store) => store.reserve(owner('c'), address('10.1.0.3'), 0)), true);
  assert.equal(readFileSync(join(folder, '10.1.0.3'), 'utf8'), 'c\r\neth0');
  await locked((store) => store.release(owner('c'), [address('10.1.0.3')]));
  assert.deepEqual(files(), []);
});

test('the DEL of the ADD that was cut off removes it', async () => {
  await locked((store) => store.reserve(owner('other'), address('10.1.0.4'), 0));
  writeFileSync(join(folder, '10.1.0.5'), '');
  await locked((store) => store.release(owner('cut')));
  assert.deepEqual(files(), ['10.1.0.4']);
});

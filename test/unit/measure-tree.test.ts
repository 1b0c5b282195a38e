import assert from 'node:assert/strict';
import { linkSync, lstatSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { measureTree } from '../../src/workers/measure-tree.ts';

const root = mkdtempSync(join(tmpdir(), 'sluice-measure-'));
after(() => rmSync(root, { recursive: true }));

test('names of any bytes count, hard links once, symbolic links are not followed', async () => {
  const inner = join(root, 'inner');
  mkdirSync(inner);
  writeFileSync(join(inner, 'file'), 'x'.repeat(10_000));
  linkSync(join(inner, 'file'), join(inner, 'again'));
  symlinkSync('/', join(inner, 'out'));
  const odd = Buffer.concat([Buffer.from(`${inner}/`), Buffer.from([0xff, 0xfe])]);
  mkdirSync(odd);
  writeFileSync(Buffer.concat([odd, Buffer.from('/deep')]), 'y'.repeat(5000));
  const blocks = [inner, join(inner, 'file'), join(inner, 'out'), odd, Buffer.concat([odd, Buffer.from('/deep')])]
    .map((path) => lstatSync(path).blocks)
    .reduce((sum, count) => sum + count, 0);
  assert.deepEqual(await measureTree(inner), { bytes: blocks * 512, inodes: 5 });
});

test('a file alone, and a folder that is absent', async () => {
  const file = join(root, 'alone');
  writeFileSync(file, 'x');
  assert.deepEqual(await measureTree(file), { bytes: lstatSync(file).blocks * 512, inodes: 1 });
  await assert.rejects(measureTree(join(root, 'absent')), { code: 'ENOENT' });
});

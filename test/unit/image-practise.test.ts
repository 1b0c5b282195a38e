import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { practise } from '../../src/workers/image/practise.ts';

test('a thread practises on a layer of its own, and leaves nothing behind', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-practise-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const own = join(folder, 'practise-0');
  mkdirSync(join(own, 'layer/fs'), { recursive: true });
  writeFileSync(join(own, 'layer/fs/left'), 'of a daemon that was killed');
  await practise({ folder: own });
  assert.deepEqual(readdirSync(folder), []);
});

test('where it cannot, it says why', async () => {
  await assert.rejects(practise({ folder: '/dev/null/here' }), { code: 'ENOTDIR' });
});

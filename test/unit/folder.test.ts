import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { namesIn, namesInSync } from '../../src/sys/folder.ts';

test('a folder that is missing has no names; one that cannot be read is an error', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-folder-'));
  try {
    const file = join(folder, 'file');
    writeFileSync(file, '');
    assert.deepEqual(namesInSync(folder), ['file']);
    assert.deepEqual(await namesIn(folder), ['file']);
    assert.deepEqual(namesInSync(join(folder, 'none')), []);
    assert.deepEqual(await namesIn(join(folder, 'none')), []);
    assert.throws(() => namesInSync(file), { code: 'ENOTDIR' });
    await assert.rejects(namesIn(file), { code: 'ENOTDIR' });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

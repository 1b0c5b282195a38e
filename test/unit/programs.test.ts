import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { findExecutable, firstExecutable } from '../../src/workers/programs.ts';

const root = mkdtempSync(join(tmpdir(), 'sluice-programs-'));
after(() => rmSync(root, { recursive: true }));
const folders = ['folder', 'plain', 'link', 'last'].map((name) => join(root, name));
for (const folder of folders) mkdirSync(folder);
const [folder = '', plain = '', link = '', last = ''] = folders;
mkdirSync(join(folder, 'tool'));
writeFileSync(join(plain, 'tool'), '', { mode: 0o644 });
writeFileSync(join(last, 'tool'), '#!/bin/sh\n', { mode: 0o755 });
symlinkSync(join(last, 'tool'), join(link, 'tool'));
symlinkSync('absent', join(plain, 'dangling'));

test('folders, files without the executable bit and dangling links are passed over', async () => {
  assert.equal((await findExecutable('tool', folders)).found?.path, join(link, 'tool'));
  assert.equal((await findExecutable('tool', ['.', 'bin', last])).found?.path, join(last, 'tool'));
  assert.deepEqual(await findExecutable('dangling', folders), { found: undefined, refused: undefined });
  assert.deepEqual(await findExecutable('tool', ['']), { found: undefined, refused: undefined });
});

test('a file that exists and may not be executed is the reason that is returned', async () => {
  const result = await firstExecutable([join(plain, 'tool'), join(root, 'absent')]);
  assert.equal(result.found, undefined);
  assert.equal(!result.found && (result.refused as NodeJS.ErrnoException).code, 'EACCES');
  chmodSync(join(plain, 'tool'), 0o755);
  assert.equal((await firstExecutable([join(plain, 'tool')])).found?.path, join(plain, 'tool'));
});

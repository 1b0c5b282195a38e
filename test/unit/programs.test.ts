import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { run } from '../../src/sys/spawn.ts';
import { HostMounts } from '../../src/workers/host-paths/host-mounts.ts';
import { commandOf, findExecutable, firstExecutable } from '../../src/workers/programs.ts';

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

test('on a mount that may hang a short-lived process looks, and a shell becomes the program', async (t) => {
  chmodSync(join(plain, 'tool'), 0o644);
  writeFileSync(join(last, 'says'), '#!/bin/sh\nprintf "%s|" "$0" "$@"\n', { mode: 0o755 });
  const table = `1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:40 / ${root} rw - nfs4 server:/share rw\n`;
  t.mock.method(HostMounts, 'recent', () => new HostMounts(table));
  const { found } = await findExecutable('says', folders);
  assert.ok(found?.remote);
  assert.equal(found.path, join(last, 'says'));
  const { stdout, code } = await run({ ...commandOf(found, ['a b', '$HOME', '-c']), env: {}, timeoutMs: 5000 });
  assert.deepEqual([stdout.toString(), code], [`${found.path}|a b|$HOME|-c|`, 0]);
  assert.equal((await firstExecutable([found.path])).found?.key, found.key);
  rmSync(found.path);
  assert.deepEqual(await firstExecutable([found.path]), { found: undefined, refused: undefined });
  assert.deepEqual(await findExecutable('tool', [folder]), { found: undefined, refused: undefined });
  const result = await firstExecutable([join(plain, 'tool')]);
  assert.equal(!result.found && (result.refused as NodeJS.ErrnoException).code, 'EACCES');
});

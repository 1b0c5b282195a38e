import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { groupLives, run } from '../../src/sys/spawn.ts';
import { abandoned } from '../../src/sys/wait.ts';
import { hangingFolder, SKIP_FUSE } from '../rig/hangfs.ts';
import { privateFolder } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';

test('a program that outlives its SIGKILL in uninterruptible sleep is given up, remembered, and collected later', {
  skip: SKIP_FUSE,
}, async () => {
  const folder = privateFolder('sluice-hung');
  try {
    await using hanging = await hangingFolder(folder);
    writeFileSync(join(hanging.behind, 'file'), 'words');
    const cat = (timeoutMs: number) =>
      run({ path: '/bin/cat', argv: ['cat', join(hanging.path, 'file')], env: {}, timeoutMs });
    const well = await cat(5000);
    assert.deepEqual([well.stdout.toString(), well.abandoned, well.code], ['words', false, 0]);
    hanging.hang();
    const began = performance.now();
    const hung = await cat(300);
    const seconds = (performance.now() - began) / 1000;
    assert.deepEqual([hung.timedOut, hung.abandoned, hung.code, hung.signal], [true, true, null, null]);
    assert.ok(seconds > 5 && seconds < 8, `given up after ${seconds} s`);
    assert.match(readFileSync(`/proc/${hung.pid}/stat`, 'latin1'), /\) D /);
    assert.deepEqual([...abandoned], [[hung.pid, '/bin/cat']]);
    assert.equal(await groupLives(hung.pid), true);
    hanging.resume();
    const state = () => /\) (.) /.exec(readFileSync(`/proc/${hung.pid}/stat`, 'latin1'))?.[1];
    await waitFor(
      'the program to be collected, or its end',
      6000,
      () => !abandoned.has(hung.pid) || state() === 'Z' || undefined,
    );
    assert.equal(await groupLives(hung.pid), false, 'it counts as ended at once');
    assert.deepEqual([...abandoned], []);

    hanging.hang();
    await cat(300);
    hanging.resume();
    await waitFor('a program that nobody asks for to be collected', 6000, () => abandoned.size === 0 || undefined);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

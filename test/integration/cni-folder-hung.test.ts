import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { loadFolder } from '../../src/node/network/conf.ts';
import { FolderWatch } from '../../src/node/network/folder-watch.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';
import { hangingFolder, SKIP_FUSE } from '../rig/hangfs.ts';
import { privateFolder } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';

const CONF = JSON.stringify({ cniVersion: '1.0.0', name: 'x', plugins: [{ type: 'bridge' }] });

test('a CNI folder on a mount that hangs: it is read and watched without blocking this thread', {
  skip: SKIP_FUSE,
}, async () => {
  const folder = privateFolder('sluice-cni-hung');
  try {
    await using hanging = await hangingFolder(folder);
    const confDir = join(hanging.path, 'net.d');
    mkdirSync(join(hanging.behind, 'net.d'));
    writeFileSync(join(hanging.behind, 'net.d/10-x.conflist'), CONF);
    let changes = 0;
    using watch = new FolderWatch(confDir, () => changes++);
    assert.equal((await loadFolder(confDir, hostFiles)).network?.name, 'x');
    assert.deepEqual(await loadFolder(join(hanging.path, 'none'), hostFiles), { files: 0, problems: [] });

    hanging.hang();
    const began = performance.now();
    const reading = loadFolder(confDir, hostFiles);
    watch.verify();
    using _late = new FolderWatch(confDir, () => {});
    assert.ok(performance.now() - began < 1000, 'this thread was not blocked');
    const failed = assert.rejects(reading, { code: 'TIMED_OUT' });
    const before = changes;
    await waitFor('the poll to report a possible change', 5000, () => changes > before || undefined);
    await failed;

    hanging.resume();
    await waitFor('the folder to be read again', 5000, async () => (await loadFolder(confDir, hostFiles)).network);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { spreadFolders } from '../../src/main/folders.ts';
import type { Log } from '../../src/node/observe/log.ts';
import { program } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { fake } from './fake.ts';

const NAMES = ['layers', 'sandboxes', 'snapshots'];
const EXT4 = 0xef53;
const TMPFS = 0x01021994;

/** What the daemon logged, by level. */
function recordingLog(): { log: Log; lines: [string, string][] } {
  const lines: [string, string][] = [];
  const write = (level: string) => (_fields: unknown, text?: unknown) => void lines.push([level, String(text)]);
  return { log: fake<Log>('log', { debug: write('debug'), warn: write('warn') }), lines };
}

test('layers, pods and containers have folders whose subfolders ext4 spreads over its block groups', async (t) => {
  const root = mkdtempSync(join(tmpdir(), 'sluice-spread-'));
  try {
    if (statfsSync(root).type !== EXT4) return t.skip(`${tmpdir()} is not on ext4`);
    const { log, lines } = recordingLog();
    // An earlier version made one of them without the flag.
    mkdirSync(join(root, 'snapshots'), { mode: 0o700 });
    spreadFolders({ root }, log);
    spreadFolders({ root }, log);
    for (const name of NAMES) {
      const { stdout } = await run(program('lsattr'), ['-d', join(root, name)]);
      assert.match(stdout, /^\S*T/, `${name} has the flag T`);
      assert.equal(statSync(join(root, name)).mode & 0o777, 0o700, `${name} is for root alone`);
    }
    assert.deepEqual(lines, []);
  } finally {
    rmSync(root, { recursive: true });
  }
});

test('a file system without that flag is no problem, and a folder that cannot be made is a warning', (t) => {
  if (statfsSync('/dev/shm').type !== TMPFS) return t.skip('/dev/shm is no tmpfs');
  const root = mkdtempSync('/dev/shm/sluice-spread-');
  try {
    writeFileSync(join(root, 'layers'), '');
    const { log, lines } = recordingLog();
    spreadFolders({ root }, log);
    assert.ok(statSync(join(root, 'snapshots')).isDirectory());
    assert.deepEqual(
      lines.map(([level]) => level),
      ['warn', 'debug', 'debug'],
    );
  } finally {
    rmSync(root, { recursive: true });
  }
});

import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { v8Threads } from '../../src/sys/nice.ts';
import { privateFolder } from '../rig/paths.ts';

test('V8’s threads are found, also while another thread ends', () => {
  const tasks = privateFolder('sluice-tasks');
  try {
    for (const tid of ['10', '11', '12', '13']) mkdirSync(join(tasks, tid));
    writeFileSync(join(tasks, '10/comm'), 'MainThread\n');
    writeFileSync(join(tasks, '11/comm'), 'V8Worker\n');
    writeFileSync(join(tasks, '13/comm'), 'V8Worker\n');
    // 12 has ended since the folder was listed.
    assert.deepEqual(v8Threads(tasks), [11, 13]);
    assert.ok(v8Threads().length > 0, 'this process has some');
  } finally {
    rmSync(tasks, { recursive: true });
  }
});

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { skipUnlessRoot } from '../rig/needs.ts';
import { ROOT } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';

const skip = skipUnlessRoot();

test('the demo launches, looks at, and takes away its pods', { skip, timeout: 120_000 }, async () => {
  const args = [join(ROOT, 'scripts/demo.ts'), '--pods', '8', '--parallel', '8'];
  const { code, stdout, stderr } = await run(process.execPath, args, { check: false });
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^Launched 8 pods/m);
  assert.match(stdout, /^network +net /m);
  assert.match(stdout, /^Seen from outside: 8 namespaces, 8 answers to ping, 8 shims$/m);
  assert.match(stdout, /^Nothing left/m);
});

test('the demo refuses numbers that are none', async () => {
  const { code, stderr } = await run(process.execPath, [join(ROOT, 'scripts/demo.ts'), '--pods', 'many'], {
    check: false,
  });
  assert.equal(code, 1);
  assert.match(stderr, /--pods/);
});

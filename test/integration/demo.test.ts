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
  assert.match(stdout, /^Seen from outside: 8 namespaces, 8 answers to ping, 0 shims$/m);
  assert.match(stdout, /^Nothing left/m);
  assert.match(
    stdout,
    /^containerd [\w.~-]+: [\d.]+ pods\/s, p50 \d+ ms; Sluice \(pinned\) launched [\d.]+ times as many a second$/m,
  );
});

test('the demo shows pods with a pause process, too', { skip, timeout: 120_000 }, async () => {
  const options = ['--pods', '2', '--parallel', '2', '--mode', 'pause', '--beside', 'none'];
  const { code, stdout, stderr } = await run(process.execPath, [join(ROOT, 'scripts/demo.ts'), ...options], {
    check: false,
  });
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^Seen from outside: 2 namespaces, 2 answers to ping, 2 shims$/m);
  assert.doesNotMatch(stdout, /^containerd/m);
});

test('the demo refuses numbers that are none', async () => {
  const { code, stderr } = await run(process.execPath, [join(ROOT, 'scripts/demo.ts'), '--pods', 'many'], {
    check: false,
  });
  assert.equal(code, 1);
  assert.match(stderr, /--pods/);
});

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { daemonId } from '../../src/node/network/daemon-id.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder, ROOT } from '../rig/paths.ts';
import { processesOf, run, waitFor } from '../rig/proc.ts';

const skip = skipUnlessRoot();

test('the demo launches, looks at, and takes away its pods', { skip, timeout: 120_000 }, async () => {
  const folder = privateFolder('sluice-demo');
  const report = join(folder, 'report.html');
  const args = [join(ROOT, 'scripts/demo.ts'), '--pods', '8', '--parallel', '8', '--report', report];
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
  assert.ok(stdout.indexOf('What this does to the machine') < stdout.indexOf('Launched'), 'it says first what it does');
  const page = readFileSync(report, 'utf8');
  assert.match(page, /<h1>8 pods, 8 at once<\/h1>/);
  assert.equal(page.match(/<svg /g)?.length, 4, 'a histogram and three charts');
  assert.doesNotMatch(page, /(?:src|href)=/, 'it needs no other file');
  rmSync(folder, { recursive: true });
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

test('a containerd that does not work here is said, and is no failure of the demo', {
  skip,
  timeout: 120_000,
}, async () => {
  const folder = privateFolder('sluice-demo');
  writeFileSync(join(folder, 'containerd'), '#!/bin/sh\necho "not on this machine" >&2\nexit 1\n', { mode: 0o755 });
  const { code, stdout, stderr } = await run(process.execPath, [join(ROOT, 'scripts/demo.ts'), '--pods', '2'], {
    check: false,
    env: { ...process.env, PATH: `${folder}:${process.env.PATH}` },
  });
  rmSync(folder, { recursive: true });
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^Nothing left/m);
  assert.match(stdout, /^nothing to compare with: the containerd that is here failed: .*not on this machine/m);
});

test('Ctrl-C ends the demo early, with everything taken away', { skip, timeout: 120_000 }, async () => {
  const args = [join(ROOT, 'scripts/demo.ts'), '--pods', '200', '--parallel', '4'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  child.stdout.on('data', (data) => {
    out += data;
  });
  child.stderr.on('data', (data) => {
    out += data;
  });
  const ended = once(child, 'exit');
  await waitFor('the daemon', 60_000, () => /^Sluice .*sluice\.sock$/m.test(out) || undefined);
  const folder = dirname(/^Sluice .* on (\S+)$/m.exec(out)?.[1] ?? '');
  const bridge = `/sys/class/net/sluice${daemonId(join(folder, 'root'))}`;
  await waitFor('its bridge', 60_000, () => existsSync(bridge) || undefined);
  child.kill('SIGINT');
  const [status] = await ended;
  assert.equal(status, 1);
  assert.match(out, /Interrupted: taking everything away/);
  assert.ok(!existsSync(bridge), `${bridge} is gone`);
  assert.ok(!existsSync(folder), `${folder} is gone`);
  assert.deepEqual(processesOf(folder), []);
});

test('Ctrl-C once its own pods are there: they are removed, and none is launched with containerd', {
  skip,
  timeout: 120_000,
}, async () => {
  const args = [join(ROOT, 'scripts/demo.ts'), '--pods', '12', '--parallel', '4'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (data) => {
      out += data;
    });
  const ended = once(child, 'exit');
  await waitFor('the pods', 60_000, () => /^Launched 12 pods/m.test(out) || undefined);
  child.kill('SIGINT');
  const [status] = await ended;
  assert.equal(status, 1, out);
  assert.match(out, /Interrupted: taking everything away/);
  assert.doesNotMatch(out, /^containerd/m);
  const folder = dirname(/^Sluice .* on (\S+)$/m.exec(out)?.[1] ?? '');
  assert.ok(!existsSync(folder), `${folder} is gone`);
  assert.deepEqual(processesOf(folder), []);
});

test('the demo refuses numbers that are none', async () => {
  const { code, stderr } = await run(process.execPath, [join(ROOT, 'scripts/demo.ts'), '--pods', 'many'], {
    check: false,
  });
  assert.equal(code, 1);
  assert.match(stderr, /--pods/);
});

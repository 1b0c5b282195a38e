import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { whyNotRealtime } from '../../src/sys/realtime.ts';
import { privateFolder } from '../rig/paths.ts';

test('on cgroup v2 a real-time thread is for the root cgroup, and for one that has the cpu controller', () => {
  const root = privateFolder('sluice-cgroup');
  try {
    const own = join(root, 'own');
    const service = join(root, 'system.slice/sluiced.service');
    mkdirSync(service, { recursive: true });
    writeFileSync(own, '12:cpu,cpuacct:/\n0::/\n');
    assert.equal(whyNotRealtime(root, own), undefined, 'cgroup v1');
    writeFileSync(join(root, 'cgroup.controllers'), 'cpu memory\n');
    assert.equal(whyNotRealtime(root, own), undefined, 'the root cgroup');
    writeFileSync(own, '0::/system.slice/sluiced.service\n');
    writeFileSync(join(service, 'cgroup.type'), 'domain\n');
    assert.match(whyNotRealtime(root, own) ?? '', /sluiced\.service has no cpu controller/);
    writeFileSync(join(service, 'cpu.weight'), '100\n');
    assert.equal(whyNotRealtime(root, own), undefined, 'with the controller');
  } finally {
    rmSync(root, { recursive: true });
  }
});

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseConfig } from '../../src/node/config/load.ts';
import type { MachineFiles } from '../../src/node/doctor/finding.ts';
import { kernelFindings } from '../../src/node/doctor/kernel.ts';
import { limitFindings } from '../../src/node/doctor/limits.ts';
import { nodeFindings } from '../../src/node/doctor/node.ts';
import { CAPABILITIES } from '../../src/node/oci/capabilities.ts';
import type { HostFacts } from '../../src/node/oci/host.ts';

const GOOD: HostFacts = {
  arch: 'x64',
  kernel: '6.18.0',
  hostname: 'n1',
  bootId: '',
  cgroupVersion: 2,
  cgroupDriver: 'systemd',
  cgroupMountOptions: [],
  swapController: true,
  hugetlbController: true,
  capabilities: CAPABILITIES,
  lowestOomScoreAdj: -1000,
  seccomp: true,
  apparmor: true,
  selinux: true,
};
const FILES: Record<string, string> = {
  '/proc/filesystems': 'nodev\ttmpfs\nnodev\toverlay',
  '/proc/sys/user/max_user_namespaces': '1000',
  '/sys/fs/cgroup/cgroup.controllers': 'cpuset cpu io memory hugetlb pids',
  '/sys/fs/selinux/enforce': '1',
  '/proc/self/limits': 'Max open files            1024                 1048576              files',
  '/proc/self/cgroup': '0::/system.slice/sluice.service',
  '/sys/fs/cgroup/system.slice/pids.max': 'max',
  '/sys/fs/cgroup/system.slice/sluice.service/pids.max': 'max',
  '/proc/pressure/cpu': '',
  '/run/systemd/system': '',
};
for (const name of ['net', 'mnt', 'pid', 'ipc', 'uts', 'user', 'cgroup']) FILES[`/proc/self/ns/${name}`] = '';

const machine = (change: Record<string, string | undefined> = {}): MachineFiles => {
  const all = { ...FILES, ...change };
  return { read: (path) => all[path], exists: (path) => all[path] !== undefined };
};
const wrong = (findings: { what: string; state: string }[]) =>
  findings.filter(({ state }) => state !== 'good').map(({ what, state }) => `${what}: ${state}`);

test('a good machine has no complaints about its kernel', () => {
  assert.deepEqual(wrong(kernelFindings(GOOD, machine())), []);
});

test('each thing that is missing is named, with what to do', () => {
  const host: HostFacts = {
    ...GOOD,
    kernel: '5.2.0',
    cgroupVersion: 1,
    cgroupDriver: 'cgroupfs',
    capabilities: CAPABILITIES.filter((name) => name !== 'CAP_NET_ADMIN'),
    lowestOomScoreAdj: 0,
    seccomp: false,
    swapController: false,
  };
  const files = machine({
    '/proc/filesystems': 'nodev\ttmpfs',
    '/proc/self/ns/user': undefined,
    '/proc/cgroups': '#subsys_name\thierarchy\ncpu\t1\ncpuset\t2\nmemory\t3',
    '/proc/pressure/cpu': undefined,
  });
  const findings = kernelFindings(host, files);
  assert.deepEqual(wrong(findings), [
    'release: poor',
    'overlayfs: bad',
    'namespaces: bad',
    'user namespaces: poor',
    'recursively read-only mounts: poor',
    'pidfd: poor',
    'seccomp: poor',
    'version: poor',
    'controllers: bad',
    'driver: poor',
    'swap: poor',
    'pressure: poor',
    'capabilities: bad',
    'oom_score_adj: poor',
  ]);
  for (const { state, advice, what } of findings) assert.equal(!!advice, state !== 'good', what);
});

test('the limit of processes is the lowest of all cgroups above', () => {
  const files = machine({ '/sys/fs/cgroup/system.slice/pids.max': '900' });
  const pids = limitFindings(files).find(({ what }) => what === 'pids of this cgroup');
  assert.deepEqual([pids?.state, pids?.found], ['poor', '900']);
  assert.equal(limitFindings(machine()).find(({ what }) => what === 'pids of this cgroup')?.state, 'good');
});

test('a runtime or shim that does not work: how it ended, bad where pods need it', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-doctor-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const script = (name: string, body: string) => {
    writeFileSync(join(folder, name), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
    return join(folder, name);
  };
  const good = script('good', 'echo good version 1');
  const config = parseConfig(
    `root = "${folder}"
state = "${folder}/run"
[runtimes.runc]
binary = "${good}"
shim = "${script('killed', 'kill -KILL $$')}"
[runtimes.other]
binary = "${script('failing', 'exit 3')}"
shim = "${good}"
`,
    'test',
  );
  const findings = (await nodeFindings(config, machine())).filter(({ area }) => area === 'runtimes');
  assert.deepEqual(
    findings.map(({ what, state, advice }) => `${what}: ${state}${advice ? `: ${advice}` : ''}`),
    [
      'runtime runc: good',
      `shim of runc: bad: ${folder}/killed -v ended with signal 9: install it again`,
      `runtime other: poor: ${folder}/failing --version ended with status 3: install it again`,
      'shim of other: good',
    ],
  );
  assert.equal(findings[0]?.found, `${good} (good version 1)`);
});

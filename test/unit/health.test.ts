import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cniConfigInfo, cniResultInfo } from '../../src/main/cri/cni-info.ts';
import { configInfo } from '../../src/main/cri/containerd-keys.ts';
import { healthVerbs } from '../../src/main/cri/health-service.ts';
import { Health } from '../../src/main/health.ts';
import { parseConfig } from '../../src/node/config/load.ts';
import { checkNode } from '../../src/workers/alive.ts';
import { waitFor } from '../rig/proc.ts';

const config = {
  root: '/',
  state: '/',
  default_runtime: 'runc',
  runtimes: { runc: { binary: '/bin/sh', shim: 'sh' } },
  images: { snapshotter: 'overlayfs' },
} as never;

test('healthy: no reasons; each part that does not answer, or fails, is one', async () => {
  const refusal = 'the file system of / takes no overlay';
  const answers = {
    checkNode: async (): Promise<string[]> => [],
    tryOverlay: async (): Promise<string[]> => [refusal],
    ping: async () => null,
    stdio: async () => ({}),
  };
  let trials = 0;
  const pool = {
    call: (op: 'checkNode' | 'tryOverlay' | 'ping') => {
      if (op === 'tryOverlay') trials++;
      return answers[op]();
    },
  } as never;
  const logged: string[] = [];
  const store: { trouble: string | undefined } = { trouble: undefined };
  using health = new Health({
    config,
    store,
    pools: { shim: pool, net: pool },
    stdio: { stats: () => answers.stdio() } as never,
    log: {
      error: (fields: unknown) => void logged.push((fields as { reasons: string[] }).reasons.join('; ')),
      info: (text: unknown) => void logged.push(String(text)),
    } as never,
    intervalMs: 5,
    answerMs: 20,
  });
  assert.deepEqual(health.problems, []);
  await waitFor('the refusal', 2000, () => health.reasons.length === 1 || undefined);
  assert.deepEqual(health.reasons, [refusal]);
  answers.tryOverlay = async () => [];
  await waitFor('the overlay', 2000, () => health.reasons.length === 0 || undefined);
  const tried = trials;
  store.trouble = 'SQLITE_FULL';
  assert.deepEqual([health.reasons, health.problems], [[], ['the store cannot be written: SQLITE_FULL']]);
  store.trouble = undefined;
  answers.checkNode = async () => ['the shim x: there is no such program'];
  await waitFor('the shim', 2000, () => health.reasons.length === 1 || undefined);
  assert.deepEqual(health.reasons, ['the shim x: there is no such program']);
  answers.checkNode = async () => [];
  answers.ping = () => new Promise(() => {});
  answers.stdio = () => Promise.reject(new Error('it died'));
  await waitFor('both', 2000, () => health.reasons.length === 2 || undefined);
  assert.deepEqual(health.reasons, ['the network workers have not answered for 0.02 s', 'the stdio worker: it died']);
  answers.ping = async () => null;
  answers.stdio = async () => ({});
  await waitFor('health', 2000, () => health.reasons.length === 0 || undefined);
  assert.equal(trials, tried, 'an overlay that was mounted is not tried again');
  assert.deepEqual(logged.slice(0, 3), [
    refusal,
    'the node can run pods again',
    'the shim x: there is no such program',
  ]);
});

test('a node without a writable folder or without a program cannot run pods', async () => {
  assert.deepEqual(await checkNode({ folders: ['/tmp'], programs: { 'the shim': 'sh' } }), []);
  const reasons = await checkNode({ folders: ['/proc/sys/nonesuch'], programs: { 'the runtime': '/nonesuch/runc' } });
  assert.match(
    reasons.join('\n'),
    /ENOENT.*\/proc\/sys\/nonesuch.*\n.*the runtime \/nonesuch\/runc: there is no such program/,
  );
});

test('CNI configurations and results in the shape that scripts read', () => {
  const network = { name: 'net', cniVersion: '1.0.0', plugins: [{ type: 'bridge' }], source: '/etc/cni/net.d/1' };
  const cni = { conf_dir: '/etc/cni/net.d', bin_dirs: ['/opt/cni/bin'] } as never;
  const shown = cniConfigInfo(cni, network) as { Networks: { IFName: string; Config: { Name: string } }[] };
  assert.deepEqual(
    shown.Networks.map(({ IFName, Config }) => [IFName, Config.Name]),
    [
      ['lo', 'cni-loopback'],
      ['eth0', 'net'],
    ],
  );
  const result = cniResultInfo(
    {
      cniVersion: '1.1.0',
      interfaces: [
        { name: 'cni0', mac: 'a' },
        { name: 'eth0', mac: 'b', sandbox: '/run/netns/x' },
      ],
      ips: [{ address: '10.1.2.3/24', gateway: '10.1.2.1', interface: 1 }, { address: 'fd00::3/64' }],
      routes: [{ dst: '0.0.0.0/0' }],
    },
    '/run/netns/x',
  );
  assert.deepEqual(result, {
    Interfaces: {
      lo: {
        IPConfigs: [
          { IP: '127.0.0.1', Gateway: '' },
          { IP: '::1', Gateway: '' },
        ],
        Mac: '00:00:00:00:00:00',
        PciID: '',
        SocketPath: '',
        Sandbox: '/run/netns/x',
      },
      cni0: { IPConfigs: [], Mac: 'a', Sandbox: '', PciID: '', SocketPath: '' },
      eth0: {
        IPConfigs: [
          { IP: '10.1.2.3', Gateway: '10.1.2.1' },
          { IP: 'fd00::3', Gateway: '' },
        ],
        Mac: 'b',
        Sandbox: '/run/netns/x',
        PciID: '',
        SocketPath: '',
      },
    },
    DNS: [],
    Routes: [{ dst: '0.0.0.0/0' }],
  });
});

test('gRPC’s health check says whether pods can be run', () => {
  const health = { reasons: [] as string[] };
  const { check } = healthVerbs(health, ['runtime.v1.RuntimeService']);
  assert.deepEqual(check({ service: '' }), { status: 1 });
  assert.deepEqual(check({ service: 'runtime.v1.RuntimeService' }), { status: 1 });
  assert.throws(() => check({ service: 'other' }), { code: 'SERVICE_NOT_FOUND' });
  health.reasons.push('a thread does not answer');
  assert.deepEqual(check({ service: '' }), { status: 2 });
});

test('the configuration has containerd’s names for what scripts read, and keeps its own', () => {
  const config = parseConfig(
    `[runtimes.crun]\nbinary = "crun"\n[cni]\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n`,
    'x.toml',
  );
  const shown = JSON.parse(JSON.stringify(configInfo(config, { systemd: true, snapshotter: 'overlayfs' })));
  assert.equal(shown.containerd.defaultRuntimeName, 'runc');
  assert.equal(shown.containerd.runtimes.crun.options.BinaryName, 'crun');
  assert.equal(shown.containerd.runtimes.runc.options.SystemdCgroup, true);
  assert.equal(shown.containerd.runtimes.runc.runtimeType, 'io.containerd.runc.v2');
  assert.equal(shown.containerd.snapshotter, 'overlayfs');
  assert.deepEqual(
    [shown.cni.confDir, shown.cni.binDir, shown.cni.binDirs.length],
    ['/etc/cni/net.d', '/opt/cni/bin', 2],
  );
  assert.deepEqual(shown.runtimes, config.runtimes);
});

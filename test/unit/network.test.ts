import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PodSandboxConfig } from '../../proto/gen/cri.ts';
import { SluiceError } from '../../src/errors.ts';
import { daemonId, isOwnNetns, netnsPath } from '../../src/node/network/daemon-id.ts';
import { type Loaded, type NetPool, Network, type NetworkOptions } from '../../src/node/network/network.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';
import type { NetworkConf, PluginRun } from '../../src/workers/net/types.ts';
import { podConfig } from '../rig/messages.ts';

interface Setup {
  dir: string;
  confDir: string;
  /** The calls of the pool: name and input. */
  calls: [op: string, input: unknown][];
  changes: Loaded[];
  runs: PluginRun[];
  start: () => Promise<Network>;
  write: (name: string, conf: unknown) => void;
  /** The keys that the network was started with; a reload changes them in place. */
  cni: NetworkOptions['cni'];
}

const RUN: PluginRun = { plugin: 'bridge', command: 'ADD', seconds: 0.1, spawnSeconds: 0.001, outcome: 'ok' };

/** A network in temporary folders, whose pool returns `answer` (by default an empty list of plugin runs). */
function setup(t: TestContext, answer: (op: string) => unknown = () => ({ plugins: [RUN] }), more: object = {}): Setup {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-net-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const confDir = join(dir, 'etc', 'net.d');
  mkdirSync(join(dir, 'bin'));
  for (const plugin of ['bridge', 'host-local', 'portmap', 'bandwidth']) {
    writeFileSync(join(dir, 'bin', plugin), '');
    chmodSync(join(dir, 'bin', plugin), 0o755);
  }
  const calls: Setup['calls'] = [];
  const changes: Loaded[] = [];
  const runs: PluginRun[] = [];
  const call = async (op: string, input: unknown): Promise<unknown> => {
    calls.push([op, input]);
    return answer(op);
  };
  const options: NetworkOptions = {
    cni: {
      conf_dir: confDir,
      bin_dirs: [join(dir, 'bin')],
      cache_dir: join(dir, 'cache'),
      netns_dir: join(dir, 'netns'),
      timeout_seconds: 5,
      loopback: 'builtin',
      in_process: false,
      builtin_subnet: '10.88.0.0/16',
      ip_ranges_annotation: false,
      gc: true,
      ...more,
    },
    root: join(dir, 'root'),
    pool: { call } as NetPool,
    files: hostFiles,
    onPlugin: (run) => runs.push(run),
    onChange: (loaded) => changes.push(loaded),
  };
  const start = async () => {
    const network = await Network.start(options);
    t.after(() => network[Symbol.asyncDispose]());
    return network;
  };
  const write = (name: string, conf: unknown) => {
    mkdirSync(confDir, { recursive: true });
    // The file appears complete, by a rename, as installers do it.
    writeFileSync(join(dir, 'draft'), typeof conf === 'string' ? conf : JSON.stringify(conf));
    renameSync(join(dir, 'draft'), join(confDir, name));
  };
  return { dir, confDir, calls, changes, runs, start, write, cni: options.cni };
}

const conf = (name: string, more: object = {}) => ({
  name,
  cniVersion: '1.0.0',
  plugins: [{ type: 'bridge' }],
  ...more,
});

const POD = podConfig('web', { namespace: 'shop', uid: 'u-1' });

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let waited = 0; !condition(); waited += 20) {
    assert.ok(waited < 5000, `${what} did not happen`);
    await sleep(20);
  }
}

test('without a configuration the built-in network is used, set up once, and named after the daemon', async (t) => {
  const { dir, calls, start } = setup(t);
  const network = await start();
  const { name, source, plugins } = network.current() as NetworkConf;
  assert.equal(source, 'built-in');
  assert.equal(name, `sluice${daemonId(join(dir, 'root'))}`);
  assert.ok(name.length <= 15);
  assert.deepEqual(plugins[0], {
    type: 'bridge',
    bridge: name,
    isDefaultGateway: true,
    hairpinMode: true,
    ipv6LinkLocal: false,
    ipam: { type: 'host-local', dataDir: join(dir, 'root', 'cni'), ranges: [[{ subnet: '10.88.0.0/16' }]] },
  });
  assert.ok(calls.filter(([op]) => op === 'openUplink').length <= 1);
  assert.equal((await network.status()).ready, true);
});

test('built-in: with an IPv6 subnet the links of pods have an IPv6 address of their own, too', async (t) => {
  const network = await setup(t, undefined, { builtin_subnet: '10.88.0.0/16,fd88::/64' }).start();
  assert.ok(!('ipv6LinkLocal' in ((network.current() as NetworkConf).plugins[0] ?? {})));
});

test('built-in: a plugin that serves a capability runs only for pods that use it', async (t) => {
  const { start } = setup(t);
  const network = await start();
  const types = (config: PodSandboxConfig) =>
    network.attachment({ id: 'x', netns: '/n', config }).network.plugins.map(({ type }) => type);
  assert.deepEqual(types(POD), ['bridge']);
  assert.deepEqual(types({ ...POD, annotations: { 'kubernetes.io/ingress-bandwidth': '1M' } }), [
    'bridge',
    'bandwidth',
  ]);
});

test('built-in: a subnet that another interface has as well is reported', async (t) => {
  const own = Object.entries(networkInterfaces()).flatMap(([name, all = []]) =>
    all.flatMap(({ family, address }) => (family === 'IPv4' ? [{ name, address }] : [])),
  )[0];
  if (!own) return t.skip('no IPv4 address on this machine');
  const network = await setup(t, undefined, { builtin_subnet: `${own.address}/28` }).start();
  assert.match(network.loaded.problems.join(), new RegExp(`is also on ${own.name};`));
  assert.doesNotMatch((await setup(t).start()).loaded.problems.join(), /is also on lo/);
});

test('without the plugins there is no built-in network, and the reason names the missing ones', async (t) => {
  const { dir, start } = setup(t);
  rmSync(join(dir, 'bin', 'host-local'));
  const network = await start();
  const { ready, reason, message } = await network.status();
  assert.deepEqual({ ready, reason }, { ready: false, reason: 'NetworkPluginNotReady' });
  assert.match(message, /no CNI configuration in .*net\.d, and the built-in network needs the plugins host-local/);
});

test('an empty builtin_subnet turns the built-in network off', async (t) => {
  const network = await setup(t, undefined, { builtin_subnet: '' }).start();
  assert.equal(network.current(), undefined);
  assert.throws(
    () => network.attachment({ id: 'x', netns: '/n', config: POD }),
    (error) => error instanceof SluiceError && error.code === 'NETWORK_NOT_READY',
  );
});

test('a broken configuration is not replaced by the built-in network', async (t) => {
  const { write, start } = setup(t);
  write('10.conflist', '{ torn');
  const network = await start();
  assert.equal(network.current(), undefined);
  assert.match((await network.status()).message, /10\.conflist: it is not JSON/);
});

test('a configuration that appears, changes, breaks and vanishes is followed; attachments keep theirs', async (t) => {
  const { changes, confDir, write, start } = setup(t);
  const network = await start(); // net.d and its parent do not exist yet
  assert.equal(network.current()?.source, 'built-in');
  write('10.conflist', conf('first'));
  await until(() => network.current()?.name === 'first', 'the first configuration');
  const attachment = network.attachment({ id: 'x', netns: '/n', config: POD });

  write('05.conflist', conf('second'));
  await until(() => network.current()?.name === 'second', 'the second configuration');
  assert.equal(attachment.network.name, 'first');
  assert.equal(changes.at(-1)?.network?.name, 'second');

  rmSync(confDir, { recursive: true });
  await until(() => network.current() === undefined, 'the end of the folder');
  assert.match((await network.status()).message, /no CNI configuration/, 'a cluster’s node does not fall back');

  write('10.conflist', conf('third'));
  await until(() => network.current()?.name === 'third', 'the folder made anew');
});

test('the attachment’s CNI_ARGS have the names that other runtimes use', async (t) => {
  const { write, start } = setup(t);
  write('1.conflist', conf('net', { plugins: [{ type: 'bridge', capabilities: { portMappings: true } }] }));
  const network = await start();
  const portMappings = [
    { protocol: 0, containerPort: 80, hostPort: 8080, hostIp: '' },
  ] as PodSandboxConfig['portMappings'];
  assert.deepEqual(network.attachment({ id: 'abc', netns: '/n/1', config: { ...POD, portMappings } }), {
    network: network.current(),
    containerId: 'abc',
    netns: '/n/1',
    ifName: 'eth0',
    args: [
      ['IgnoreUnknown', '1'],
      ['K8S_POD_NAMESPACE', 'shop'],
      ['K8S_POD_NAME', 'web'],
      ['K8S_POD_INFRA_CONTAINER_ID', 'abc'],
      ['K8S_POD_UID', 'u-1'],
    ],
    capabilityArgs: { portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp', hostIP: '' }] },
  });
});

test('status: one STATUS at a time, the last result while it runs, and its error when it ends', async (t) => {
  let asked = 0;
  let running = 0;
  let finish = Promise.withResolvers<object>();
  const { write, start } = setup(t, async (op) => {
    if (op !== 'cniStatus') return { plugins: [] };
    asked++;
    assert.equal(++running, 1);
    return finish.promise.finally(() => running--);
  });
  write('1.conflist', conf('net'));
  const network = await start();
  finish.resolve({ plugins: [] });
  assert.equal((await network.status()).ready, true);

  finish = Promise.withResolvers();
  const began = performance.now();
  const answers = await Promise.all([network.status(), network.status(), network.status()]);
  assert.ok(performance.now() - began < 2000);
  assert.deepEqual(
    answers.map(({ ready }) => ready),
    [true, true, true],
    'the last known answer',
  );
  assert.equal(asked, 2);
  finish.reject(new SluiceError('CNI_FAILED', 'plugin x: no agent'));
  await sleep(5);
  finish = Promise.withResolvers();
  finish.reject(new SluiceError('CNI_FAILED', 'plugin x: no agent'));
  const { ready, message } = await network.status();
  assert.equal(ready, false);
  assert.match(message, /no agent/);
});

test('status before the first result of a slow plugin is "not ready"', async (t) => {
  const never = Promise.withResolvers<object>();
  const { write, start } = setup(t, (op) => (op === 'cniStatus' ? never.promise : { plugins: [] }));
  write('1.conflist', conf('net'));
  const keepAlive = setInterval(() => {}, 1000); // in place of the daemon's sockets
  t.after(() => clearInterval(keepAlive));
  assert.match((await (await start()).status()).message, /have not answered STATUS/);
});

test('plugin runs are reported, those of a failed call too', async (t) => {
  const failed: PluginRun = { ...RUN, outcome: 'timeout' };
  const { write, runs, start } = setup(t, (op) => {
    if (op === 'cniDel') return { plugins: [RUN] };
    const error = new SluiceError('TIMED_OUT', 'too slow');
    error.details = { plugins: [failed] };
    throw error;
  });
  write('1.conflist', conf('net'));
  const network = await start();
  const attachment = network.attachment({ id: 'x', netns: '/n', config: POD });
  await assert.rejects(network.add(attachment), /too slow/);
  await network.del(attachment);
  assert.deepEqual(runs, [failed, RUN]);
});

test('GC: only where all attachments are known; ADDs wait while it calls programs, and it waits for them', async (t) => {
  const order: string[] = [];
  const adds: (() => void)[] = [];
  const gcs: (() => void)[] = [];
  const { write, calls, start } = setup(
    t,
    async (op) => {
      order.push(op);
      if (op === 'cniAdd') await new Promise<void>((resolve) => void adds.push(resolve));
      if (op === 'cniGc') await new Promise<void>((resolve) => void gcs.push(resolve));
      order.push(`${op} ended`);
      return op === 'cniGc'
        ? { released: ['x'], plugins: [] }
        : { result: { cniVersion: '1.1.0' }, plugins: [], notes: [] };
    },
    { cache_dir: '/var/lib/cni' },
  );
  write('1.conflist', conf('net'));
  const network = await start();
  const attachment = network.attachment({ id: 'x', netns: '/n', config: POD });
  const tick = () => new Promise((resolve) => setImmediate(resolve));

  const first = network.add(attachment);
  const gc = network.gc(() => [attachment], { programs: true });
  const second = network.add(attachment);
  await tick();
  assert.deepEqual(order, ['cniAdd'], 'GC waits for the first ADD, the second ADD for GC');
  adds.shift()?.();
  await first;
  await tick();
  assert.deepEqual(order, ['cniAdd', 'cniAdd ended', 'cniGc']);
  gcs.shift()?.();
  assert.deepEqual(await gc, ['x']);
  await tick();
  adds.shift()?.();
  await second;
  assert.deepEqual(order.slice(3), ['cniGc ended', 'cniAdd', 'cniAdd ended']);
  const input = calls.find(([op]) => op === 'cniGc')?.[1] as { valid: object[]; programs: boolean };
  assert.deepEqual([input.valid, input.programs], [[{ containerId: 'x', ifName: 'eth0' }], true]);

  const beside = [network.add(attachment), network.gc(() => [], { programs: false })] as const;
  await tick();
  gcs.shift()?.();
  await beside[1];
  adds.shift()?.();
  await beside[0];
});

test('GC leaves a network alone that other runtimes may share, whose records are elsewhere', async (t) => {
  const { write, calls, start } = setup(t, () => ({ released: [], plugins: [] }));
  const builtin = await start();
  await builtin.gc(() => [], { programs: true });
  assert.equal(calls.at(-1)?.[0], 'cniGc', 'the built-in network is nobody else’s');
  write('1.conflist', conf('net'));
  const network = await start();
  calls.length = 0;
  assert.deepEqual(await network.gc(() => [], { programs: true }), []);
  assert.deepEqual(calls, []);
});

test('loopback = "plugin" runs that plugin first, without a record', async (t) => {
  const { write, calls, start } = setup(t, () => ({ result: { cniVersion: '1.1.0' }, plugins: [], notes: [] }), {
    loopback: 'plugin',
  });
  write('1.conflist', conf('net'));
  const network = await start();
  await network.add(network.attachment({ id: 'x', netns: '/n', config: POD }));
  const inputs = calls.map(([, input]) => input as { cacheDir: string; attachment: { ifName: string } });
  assert.deepEqual(
    inputs.map(({ attachment }) => attachment.ifName),
    ['lo', 'eth0'],
  );
  assert.equal(inputs[0]?.cacheDir, '');
});

test('namespace names are UUIDs with the daemon’s id', () => {
  const [a, b] = [daemonId('/var/lib/sluice'), daemonId('/var/lib/other')];
  assert.notEqual(a, b);
  assert.equal(daemonId('/var/lib/../lib/sluice/'), a);
  const path = netnsPath('/run/netns', a);
  assert.match(path, /^\/run\/netns\/cni-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/);
  assert.notEqual(netnsPath('/run/netns', a), path);
  assert.equal(isOwnNetns(path, a), true);
  assert.equal(isOwnNetns(path, b), false);
});

test('strays: resources with the daemon’s id that the store does not have; never those of others', async (t) => {
  const { dir, write, start } = setup(t);
  write('1.conflist', conf('net'));
  const network = await start();
  assert.deepEqual(await network.strays({ hasSandbox: () => false, hasNetns: () => false }), {
    attachments: [],
    unreleased: [],
    netns: [],
  });

  const [known, lost] = [network.netnsPath(), network.netnsPath()];
  const foreign = netnsPath(join(dir, 'netns'), daemonId('/another/root'));
  mkdirSync(join(dir, 'netns'));
  mkdirSync(join(dir, 'cache', 'results'), { recursive: true });
  for (const path of [known, lost, foreign]) writeFileSync(path, '');
  const record = (containerId: string, netns: string | undefined, more = {}) =>
    writeFileSync(
      join(dir, 'cache', 'results', `net-${containerId}-eth0`),
      JSON.stringify({
        kind: 'cniCacheV1',
        containerId,
        netns,
        ifName: 'eth0',
        networkName: 'net',
        config: Buffer.from(JSON.stringify(conf('net'))).toString('base64'),
        cniArgs: [['K8S_POD_NAME', containerId]],
        ...more,
      }),
    );
  record('known', known);
  record('lost', lost);
  record('foreign', foreign);
  record('containerd', undefined);
  record('deleted', known, { deleted: true });
  writeFileSync(join(dir, 'cache', 'results', 'garbage'), '{');

  const strays = await network.strays({ hasSandbox: (id) => id === 'known', hasNetns: (path) => path === known });
  assert.deepEqual(strays, {
    netns: [lost],
    attachments: [
      {
        network: { ...conf('net'), source: join(dir, 'cache', 'results') },
        containerId: 'lost',
        netns: lost,
        ifName: 'eth0',
        args: [['K8S_POD_NAME', 'lost']],
        capabilityArgs: {},
      },
    ],
    unreleased: [
      {
        network: { ...conf('net'), source: join(dir, 'cache', 'results') },
        containerId: 'deleted',
        netns: known,
        ifName: 'eth0',
        args: [['K8S_POD_NAME', 'deleted']],
        capabilityArgs: {},
      },
    ],
  });
});

test('a reload: another folder and another built-in network count at once, and only the new folder is watched', async (t) => {
  const { dir, confDir, calls, start, write, cni } = setup(t);
  const network = await start();
  const rulesSet = () => calls.filter(([op]) => op === 'openUplink').length;
  const before = rulesSet();
  cni.builtin_subnet = '10.89.0.0/16';
  await network.reconfigure();
  assert.match(JSON.stringify(network.current()), /10\.89\.0\.0\/16/);
  assert.equal(rulesSet(), 2 * before);

  cni.builtin_subnet = '';
  await network.reconfigure();
  assert.equal(network.current(), undefined);
  assert.throws(() => network.attachment({ id: 'p', netns: '/n', config: POD }), { code: 'NETWORK_NOT_READY' });

  const other = join(dir, 'other');
  mkdirSync(other);
  writeFileSync(join(other, '10-b.conflist'), JSON.stringify(conf('there')));
  cni.conf_dir = other;
  cni.builtin_subnet = '10.88.0.0/16';
  await network.reconfigure();
  assert.equal(network.current()?.name, 'there');
  write('10-a.conflist', conf('here'));
  writeFileSync(join(other, '05-a.conflist'), JSON.stringify(conf('first')));
  await until(() => network.current()?.name === 'first', 'the new folder’s change');

  cni.conf_dir = confDir;
  await network.reconfigure();
  assert.equal(network.current()?.name, 'here');
});

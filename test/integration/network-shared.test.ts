/**
 * One network worked on from both sides: plugins as processes and the workers, in turns and at once; the errors are the
 * same, and nothing is left after a failure, a kill or a change of the configuration.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { explain } from '../../src/errors.ts';
import { Pool } from '../../src/node/threads/pool.ts';
import type { PluginConf, PluginRun } from '../../src/workers/net/types.ts';
import { handlers, type NetHandlers } from '../../src/workers/net.ts';
import { BIN_DIRS, type Lab, openLab, ownNamespace, type Pod, sh } from './network-lab.ts';

ownNamespace();

const MODES = [false, true];

function plugins(lab: Lab, more: object = {}, subnet = '10.70.0.0/24'): PluginConf[] {
  return [
    {
      type: 'bridge',
      bridge: 'share0',
      isGateway: true,
      ipMasq: true,
      ipam: lab.ipam([[{ subnet }]], { routes: [{ dst: '0.0.0.0/0' }] }),
      ...more,
    },
    { type: 'portmap', capabilities: { portMappings: true } },
  ];
}

const ports = (hostPort: number) => ({
  capabilityArgs: { portMappings: [{ hostPort, containerPort: 80, protocol: 'tcp', hostIP: '' }] },
});

const failure = async (call: Promise<unknown>): Promise<string> => {
  try {
    await call;
  } catch (error) {
    return explain(error);
  }
  return 'it succeeded';
};

/** What is left of pods in the rules, by plugins and ours. */
async function rulesOfPods(network: string): Promise<string> {
  const plugin = await sh(`iptables-save -t nat | grep -E "name: \\"${network}\\"|CNI-DN-" || true`);
  const own = await sh(`nft list ruleset 2>/dev/null | grep -E 'comment "${network}[0-9]+/eth0"' || true`);
  return plugin + own;
}

test('switching back and forth loses and doubles no address, and who made something takes it away', async (t) => {
  const lab = openLab(t, 'share');
  const pods: Pod[] = [];
  for (let index = 0; index < 12; index++) {
    const pod = await lab.pod(plugins(lab), { inProcess: index % 2 === 1, ...ports(9000 + index) });
    const { result } = await handlers.cniAdd(pod.call);
    assert.equal(result.ips?.[0]?.address, `10.70.0.${index + 2}/24`, 'one walk through the range');
    pods.push(pod);
  }
  assert.equal(lab.leases().length, 12);
  // The configuration says the opposite when they are removed.
  for (const [index, pod] of pods.entries()) await lab.remove(pod, index % 2 === 0);
  assert.deepEqual([lab.leases(), lab.records(), await rulesOfPods('share')], [[], [], '']);
  const next = await lab.pod(plugins(lab));
  const { result } = await handlers.cniAdd(next.call);
  assert.equal(result.ips?.[0]?.address, '10.70.0.14/24', 'the walk goes on where both of them had been');
});

test('64 ADDs at once, by two threads and by plugins, and 64 DELs', async (t) => {
  const lab = openLab(t, 'share');
  const pool = new Pool<NetHandlers>({
    name: 'net',
    file: new URL('../../src/workers/net.ts', import.meta.url),
    minThreads: 2,
    maxThreads: 2,
    callsPerThread: 32,
    maxQueue: 1000,
  });
  lab.onClose(() => pool[Symbol.asyncDispose]());
  const pods: Pod[] = [];
  for (let index = 0; index < 64; index++) {
    pods.push(await lab.pod(plugins(lab), { inProcess: index % 4 !== 0, timeoutMs: 60_000, ...ports(9100 + index) }));
  }
  const results = await Promise.all(pods.map(({ call }) => pool.call('cniAdd', call)));
  const addresses = results.map(({ result }) => result.ips?.[0]?.address.split('/')[0] ?? '');
  assert.equal(new Set(addresses).size, 64);
  assert.deepEqual(lab.leases().sort(), addresses.sort());
  for (const pod of pods) if (pod.call.inProcess) await handlers.cniCheck(pod.call);
  await Promise.all(pods.map(({ call }) => pool.call('cniDel', call)));
  assert.deepEqual([lab.leases(), lab.records(), await rulesOfPods('share')], [[], [], '']);
  assert.doesNotMatch(await sh('ip -br link'), /^veth/m);
});

test('the errors are those of the plugins, word for word, and nothing is left', async (t) => {
  const lab = openLab(t, 'share');
  mkdirSync(join(lab.dir, 'ipam'), { recursive: true });
  await sh('ip link add dummy7 type veth peer name dummy8');
  lab.onClose(async () => void (await sh('ip link del dummy7')));
  const cases: Record<
    string,
    { conf: PluginConf[]; before?: () => void; after?: () => void; args?: [string, string][] }
  > = {
    'a range that is used up': {
      conf: plugins(lab, {
        ipam: lab.ipam([[{ subnet: '10.70.0.0/24', rangeStart: '10.70.0.2', rangeEnd: '10.70.0.2' }]]),
      }),
    },
    'a bridge with another address': { conf: plugins(lab, {}, '10.71.0.0/24') },
    'a bridge that is none': { conf: plugins(lab, { bridge: 'dummy7' }, '10.72.0.0/24') },
    'hairpin and promiscuous mode': { conf: plugins(lab, { hairpinMode: true, promiscMode: true }) },
    'a VLAN that is none': { conf: plugins(lab, { vlan: 5000 }) },
    'a VLAN, on a kernel that has none': { conf: plugins(lab, { bridge: 'vlan0', vlan: 5 }) },
    'no range at all': { conf: plugins(lab, { ipam: lab.ipam([]) }) },
    'a subnet too small': { conf: plugins(lab, {}, '10.70.0.0/32') },
    'a folder that is a file': {
      conf: plugins(lab, { ipam: { type: 'host-local', dataDir: '/etc/hostname', subnet: '10.70.0.0/24' } }),
    },
    'an address that is the gateway': {
      conf: plugins(lab, { args: { cni: { ips: ['10.70.0.1'] } } }),
    },
    'an address of another range': { conf: plugins(lab, { args: { cni: { ips: ['10.99.0.5'] } } }) },
    'a namespace that is not there': { conf: plugins(lab) },
    'a sysctl outside of net': { conf: [...plugins(lab), { type: 'tuning', sysctl: { 'kernel.hostname': 'x' } }] },
    'a sysctl that is none': { conf: [...plugins(lab), { type: 'tuning', sysctl: { 'net.core.nothing': '1' } }] },
    'tuning before there is anything': { conf: [{ type: 'tuning', sysctl: {} }] },
    'portmap before there is anything': { conf: [{ type: 'portmap', capabilities: { portMappings: true } }] },
  };
  const holder = await lab.pod(plugins(lab));
  await handlers.cniAdd(holder.call);
  for (const [name, { conf }] of Object.entries(cases)) {
    const said: string[] = [];
    for (const inProcess of MODES) {
      const pod = await lab.pod(conf, { inProcess, ...ports(9300) });
      if (name === 'a namespace that is not there') await handlers.removeNetns({ path: pod.netns });
      const words = await failure(handlers.cniAdd(pod.call));
      said.push(words.replaceAll(pod.netns, 'NETNS').replaceAll(pod.call.attachment.containerId, 'ID'));
      // With a namespace, the bridge plugin's DEL after half an ADD fails at iptables: it deletes a rule of a chain
      // that was never made.
      await handlers.removeNetns({ path: pod.netns });
      try {
        await lab.remove(pod);
      } catch (error) {
        assert.equal(inProcess, false, `DEL in process: ${explain(error)}`);
        // The plugins refuse DEL with a configuration that they refused at ADD: nothing was made, and their record goes
        // by hand.
        rmSync(join(lab.dir, 'cache', 'results', `share-${pod.call.attachment.containerId}-eth0`));
        await lab.remove(pod, true);
      }
    }
    const [plugin, own] = said;
    assert.match(plugin ?? '', /failed/, name);
    // What the kernel adds to its errno is ours alone.
    const bare = own?.replaceAll(/ \((?!CNI)[^()]*\)(?= \(CNI)/g, '');
    assert.equal(own === plugin ? own : bare, plugin, name);
    assert.deepEqual(lab.leases(), ['10.70.0.2'], `${name}: the address of the pod that was there`);
  }
  assert.doesNotMatch(await rulesOfPods('share'), /share(?!1\/)\d+\/|CNI-/);
});

test('a lock that is held: ADD waits for it, and says so when it takes too long', async (t) => {
  const lab = openLab(t, 'share');
  const folder = join(lab.dir, 'ipam', 'share');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'lock'), '');
  const holder = spawn('flock', [join(folder, 'lock'), 'sleep', '0.8'], { stdio: 'ignore' });
  await sleep(150);
  const impatient = await lab.pod(plugins(lab), { timeoutMs: 200 });
  assert.match(await failure(handlers.cniAdd(impatient.call)), /share\/lock is held by another process for more than/);
  const patient = await lab.pod(plugins(lab), { timeoutMs: 5000 });
  const { result } = await handlers.cniAdd(patient.call);
  assert.equal(result.ips?.[0]?.address, '10.70.0.2/24');
  if (holder.exitCode === null) await once(holder, 'exit');
});

test('broken files in host-local’s folder stop nobody', async (t) => {
  const lab = openLab(t, 'share');
  const folder = join(lab.dir, 'ipam', 'share');
  mkdirSync(join(folder, '10.70.0.3'), { recursive: true });
  writeFileSync(join(folder, 'last_reserved_ip.0'), 'no address');
  writeFileSync(join(folder, '10.70.0.2'), 'somebody');
  const pod = await lab.pod(plugins(lab));
  const { result } = await handlers.cniAdd(pod.call);
  assert.equal(result.ips?.[0]?.address, '10.70.0.4/24');
  await lab.remove(pod);
  assert.deepEqual(lab.leases().sort(), ['10.70.0.2', '10.70.0.3'], 'what is not ours stays');
});

test('a container gets nothing a second time, by whichever side', async (t) => {
  const lab = openLab(t, 'share');
  for (const [first, second] of [MODES, MODES.toReversed()]) {
    const pod = await lab.pod(plugins(lab), { inProcess: first });
    await handlers.cniAdd(pod.call);
    await sh('ip link del eth0', pod.netns);
    const words = await failure(handlers.cniAdd({ ...pod.call, inProcess: second }));
    assert.match(words, /10\.70\.0\.\d+ has been allocated to share\d+, duplicate allocation is not allowed/);
    await lab.remove(pod);
  }
});

test('killed at any moment of ADD, it leaves what DEL removes', async (t) => {
  const lab = openLab(t, 'share');
  const net = new URL('../../src/workers/net.ts', import.meta.url).href;
  const script = join(lab.dir, 'daemon.mjs');
  writeFileSync(
    script,
    `import { readSync } from 'node:fs';
     import { handlers } from '${net}';
     const call = JSON.parse(process.argv[2]);
     await handlers.cniAdd({ ...call, attachment: { ...call.attachment, containerId: 'warm' + call.attachment.containerId, netns: call.warm } });
     process.stdout.write('ready');
     readSync(0, Buffer.alloc(1));
     await handlers.cniAdd(call);
     process.stdout.write('done');
     setTimeout(() => {}, 60_000);`,
  );
  const stages = new Set<string>();
  for (let round = 0; round < 14; round++) {
    const pod = await lab.pod(plugins(lab), ports(9400 + round));
    const warm = await lab.pod(plugins(lab));
    const daemon = spawn(process.execPath, [script, JSON.stringify({ ...pod.call, warm: warm.netns })], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    await once(daemon.stdout, 'data');
    daemon.stdin.write('x');
    const until = performance.now() + round * 0.35;
    while (performance.now() < until) {} // a timer has steps of a millisecond
    daemon.kill('SIGKILL');
    await once(daemon, 'exit');
    const link = await sh('ip -br link show eth0 2>/dev/null || true', pod.netns);
    stages.add(
      `${lab.records().length} ${lab.leases().length} ${link !== ''} ${(await rulesOfPods('share')).length > 0}`,
    );
    await lab.remove(pod);
    const warmAttachment = { ...warm.call.attachment, containerId: `warm${pod.call.attachment.containerId}` };
    await handlers.cniDel({ ...warm.call, attachment: warmAttachment });
    await lab.remove(warm);
    assert.deepEqual([lab.leases(), lab.records(), await rulesOfPods('share')], [[], [], '']);
  }
  t.diagnostic(`killed at ${stages.size} different states: ${[...stages].join(', ')}`);
  assert.ok(stages.size >= 2, 'the kills came at different moments');
});

test('only reference plugins are taken over, and only with keys that are known', async (t) => {
  const lab = openLab(t, 'share');
  const bin = join(lab.dir, 'bin');
  mkdirSync(bin);
  const wrapper = (name: string) => {
    writeFileSync(join(bin, name), `#!/bin/sh\nexec /usr/lib/cni/${name}\n`);
    chmodSync(join(bin, name), 0o755);
  };
  const ran = async (conf: PluginConf[], more: { inProcess?: boolean | 'auto'; binDirs?: string[] }) => {
    const pod = await lab.pod(conf, { inProcess: 'auto', ...more });
    const { plugins: runs } = await handlers.cniAdd(pod.call);
    await lab.remove(pod);
    return processes(runs);
  };
  const dirs = [bin, ...BIN_DIRS];
  assert.deepEqual(await ran(plugins(lab), { binDirs: dirs }), [], 'all of them are the reference plugins');
  wrapper('portmap');
  assert.deepEqual(await ran(plugins(lab), { binDirs: dirs }), ['portmap'], 'a script is a script');
  assert.deepEqual(await ran(plugins(lab), { binDirs: dirs, inProcess: true }), [], 'true forces it');
  assert.deepEqual(await ran(plugins(lab), { binDirs: dirs, inProcess: false }), ['bridge', 'portmap']);
  rmSync(join(bin, 'portmap'));
  wrapper('host-local');
  assert.deepEqual(await ran(plugins(lab), { binDirs: dirs }), ['host-local'], 'IPAM alone is a process');
  rmSync(join(bin, 'host-local'));
  // Another program under the name, by a rename: the answer is that of the file that is there now.
  copyFileSync('/usr/lib/cni/ptp', join(bin, 'portmap'));
  assert.deepEqual(await ran([{ type: 'loopback' }, ...plugins(lab).slice(0, 1)], { binDirs: dirs }), []);
  rmSync(join(bin, 'portmap'));
  assert.deepEqual(await ran(plugins(lab, { fancy: true }), {}), ['bridge'], 'an unknown key');
  assert.deepEqual(await ran(plugins(lab, { IPMASQ: false }), {}), ['bridge'], 'Go takes keys in any case');
  assert.deepEqual(await ran(plugins(lab, { ipam: { ...lab.ipam([[{ subnet: '10.70.0.0/24' }]]), more: 1 } }), {}), [
    'bridge',
  ]);
  const chain: PluginConf[] = [...plugins(lab), { type: 'bandwidth', ingressRate: 1_000_000, ingressBurst: 1_000_000 }];
  assert.deepEqual(await ran(chain, {}), ['bandwidth'], 'chains mix');
});

const processes = (runs: PluginRun[]): string[] =>
  runs.flatMap(({ plugin, spawnSeconds }) => (spawnSeconds > 0 ? [plugin] : []));

test('a network whose table of nf_tables is refused: the plugin runs instead, and a note says so', async (t) => {
  const lab = openLab(t, 'share');
  // A table with an owner is nobody else's; it goes when its owner ends.
  const owner = spawn('nft', ['-i'], { stdio: ['pipe', 'ignore', 'ignore'] });
  owner.stdin.write('add table ip sluice_share { flags owner; }\n');
  while (!(await sh('nft list tables')).includes('sluice_share')) await sleep(20);
  const script = join(lab.dir, 'add.mjs');
  writeFileSync(
    script,
    `import { handlers } from '${new URL('../../src/workers/net.ts', import.meta.url).href}';
     const { notes, plugins } = await handlers.cniAdd(JSON.parse(process.argv[2]));
     process.stdout.write(JSON.stringify({ notes, plugins }));`,
  );
  const pod = await lab.pod(plugins(lab), ports(9500));
  // In a process of its own, which does not know the table from before.
  const { notes, plugins: runs } = JSON.parse(await sh([process.execPath, script, JSON.stringify(pod.call)])) as {
    notes: string[];
    plugins: PluginRun[];
  };
  assert.deepEqual(processes(runs), ['bridge', 'portmap']);
  assert.equal(notes.length, 2);
  assert.match(
    notes[0] ?? '',
    /^network share: the plugin bridge runs as a process, since nf_tables is refused \(operation not permitted/,
  );
  assert.match(await sh('iptables-save -t nat'), /--dport 9500 -j DNAT/);
  owner.stdin.end();
  await once(owner, 'exit');
  await lab.remove(pod);
  assert.deepEqual([lab.leases(), await rulesOfPods('share')], [[], '']);
});

test('rules that somebody flushed are made again for the next pod', async (t) => {
  const lab = openLab(t, 'share');
  const [one, two] = [await lab.pod(plugins(lab), ports(9600)), await lab.pod(plugins(lab), ports(9601))];
  await handlers.cniAdd(one.call);
  await sh('nft flush ruleset');
  assert.match(await failure(handlers.cniCheck(one.call)), /10\.70\.0\.2\/24 is not masqueraded any more/);
  await handlers.cniAdd(two.call);
  await handlers.cniCheck(two.call);
  await lab.remove(one);
  await handlers.cniCheck(two.call);
});

test('CHECK: what is missing is named', async (t) => {
  const lab = openLab(t, 'share');
  const conf = plugins(lab);
  const spoil: [string, RegExp][] = [
    ['ip route del default', /Expected Route \{Dst:0\.0\.0\.0\/0/],
    ['ip addr flush dev eth0', /Failed to match addr 10\.70\.0\.\d+\/24 on interface eth0/],
    ['ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:07', /doesn't match container Mac/],
    ['ip link del eth0', /Interface name eth0 not found/],
  ];
  for (const [command, words] of spoil) {
    const pod = await lab.pod(conf, ports(9700));
    await handlers.cniAdd(pod.call);
    await handlers.cniCheck(pod.call);
    await sh(command, pod.netns);
    assert.match(await failure(handlers.cniCheck(pod.call)), words);
    await lab.remove(pod);
  }
  const pod = await lab.pod(conf);
  await handlers.cniAdd(pod.call);
  rmSync(join(lab.dir, 'ipam', 'share', lab.leases()[0] ?? ''));
  assert.match(await failure(handlers.cniCheck(pod.call)), /host-local: Failed to find address added by container/);
});

test('GC gives back what belongs to no attachment, and nothing else', async (t) => {
  const lab = openLab(t, 'share');
  const pods: Pod[] = [];
  for (const [index, inProcess] of [true, true, false].entries()) {
    const pod = await lab.pod(plugins(lab), { inProcess, ...ports(9800 + index) });
    await handlers.cniAdd(pod.call);
    pods.push(pod);
  }
  const [lost, kept, plugin] = pods;
  assert.ok(lost && kept && plugin);
  const { cacheDir, attachment, binDirs, timeoutMs } = lost.call;
  // Everything of the first pod is forgotten: its record, its namespace.
  rmSync(join(cacheDir, 'results', `share-${attachment.containerId}-eth0`));
  const input = { network: attachment.network, binDirs, cacheDir, valid: [], timeoutMs, programs: true, minAgeMs: 0 };
  const gc = (more: Partial<Parameters<typeof handlers.cniGc>[0]>) => handlers.cniGc({ ...input, ...more });
  const id = attachment.containerId;
  const all = [
    `address 10.70.0.2 of ${id}/eth0`,
    `host port 9800/tcp of ${id}/eth0`,
    `masquerading of 10.70.0.2 of ${id}/eth0`,
  ];
  assert.deepEqual((await gc({ inProcess: true, dryRun: true })).released.sort(), all);
  assert.deepEqual((await gc({ inProcess: true, valid: [attachment] })).released, [], 'a row names it');
  const young = await gc({ inProcess: true, minAgeMs: undefined });
  assert.deepEqual(young.released.sort(), all.slice(1), 'another runtime may be at its ADD');
  assert.equal(lab.leases().length, 3);
  const { released } = await gc({ inProcess: true });
  assert.deepEqual(released, all.slice(0, 1));
  assert.deepEqual(lab.leases().sort(), ['10.70.0.3', '10.70.0.4']);
  await handlers.cniCheck(kept.call);
  const rules = await rulesOfPods('share');
  assert.doesNotMatch(rules, new RegExp(`comment "${attachment.containerId}/`));
  assert.match(rules, new RegExp(`comment "${kept.call.attachment.containerId}/`));
  // Processes are asked since 1.1; those of 1.1.1 do not know the verb.
  await gc({ inProcess: false });
  await gc({ inProcess: false, network: { ...attachment.network, cniVersion: '1.1.0' } });
});

test('flannel: the bridge gets the subnet that flanneld has leased, and DEL goes by what ADD went by', async (t) => {
  const lab = openLab(t, 'share');
  const subnetFile = join(lab.dir, 'subnet.env');
  const conf: PluginConf[] = [
    {
      type: 'flannel',
      subnetFile,
      dataDir: join(lab.dir, 'flannel'),
      delegate: { bridge: 'share0', hairpinMode: true, isDefaultGateway: true, ipv6LinkLocal: false },
      ipam: { dataDir: join(lab.dir, 'ipam') },
    },
  ];
  const early = await lab.pod(conf);
  assert.match(
    await failure(handlers.cniAdd(early.call)),
    /plugin flannel \(ADD.*subnet\.env: no such file or directory/,
  );
  await lab.remove(early);
  const lease = (subnet: string) =>
    writeFileSync(
      subnetFile,
      `FLANNEL_NETWORK=10.74.0.0/16\nFLANNEL_SUBNET=${subnet}\nFLANNEL_MTU=1410\nFLANNEL_IPMASQ=false\n`,
    );
  lease('10.74.3.1/24');
  const pod = await lab.pod(conf);
  const { result } = await handlers.cniAdd(pod.call);
  assert.equal(result.ips?.[0]?.address, '10.74.3.2/24');
  assert.match(await sh('ip link show eth0', pod.netns), /mtu 1410/);
  assert.equal(await sh('ip -6 addr show dev eth0', pod.netns), '', 'the delegate has the keys of the bridge');
  assert.match(await sh('ip route', pod.netns), /10\.74\.0\.0\/16 via 10\.74\.3\.1 dev eth0/);
  assert.match(await rulesOfPods('share'), /10\.74\.3\.2/, 'flanneld does not masquerade: the bridge does');
  await handlers.cniCheck(pod.call);
  lease('10.74.9.1/24');
  await lab.remove(pod);
  assert.deepEqual([lab.leases(), lab.records(), await rulesOfPods('share')], [[], [], '']);
  assert.equal(await sh(`ls ${lab.dir}/flannel`), '');
});

test('a namespace that belongs to a user namespace gets its network too', async (t) => {
  const lab = openLab(t, 'share');
  const pod = await lab.pod(plugins(lab));
  await handlers.removeNetns({ path: pod.netns });
  const ids = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
  const userns = join(lab.dir, 'userns');
  await handlers.createNetns({ path: pod.netns, loopback: true, userns: { path: userns, uids: ids, gids: ids } });
  lab.onClose(async () => void (await handlers.removeNetns({ path: pod.netns, userns })));
  const { result } = await handlers.cniAdd(pod.call);
  assert.match(await sh('ip -br addr show eth0', pod.netns), new RegExp(result.ips?.[0]?.address ?? 'none'));
  await handlers.cniCheck(pod.call);
});

test('DEL that is left to the end of the namespace: the address is taken until the link is gone', async (t) => {
  const lab = openLab(t, 'share');
  const pod = await lab.pod(plugins(lab), ports(9900));
  await handlers.cniAdd(pod.call);
  const { deferred } = await handlers.cniDel({ ...pod.call, lazy: true });
  assert.ok(deferred);
  assert.doesNotMatch(await rulesOfPods('share'), /9900/, 'the host port is free at once');
  const release = { call: pod.call, deferred, force: false };
  assert.deepEqual((await handlers.cniRelease({ releases: [release] })).left, [0]);
  assert.deepEqual([lab.leases().length, lab.records().length], [1, 1]);
  await handlers.removeNetns({ path: pod.netns });
  for (let waited = 0; (await handlers.cniRelease({ releases: [release] })).left.length > 0; waited += 10) {
    assert.ok(waited < 3000, 'the link stays');
    await sleep(10);
  }
  assert.deepEqual([lab.leases(), lab.records(), await rulesOfPods('share')], [[], [], '']);

  // A namespace that somebody keeps: the link is deleted after all.
  const kept = await lab.pod(plugins(lab));
  await handlers.cniAdd(kept.call);
  const held = await handlers.cniDel({ ...kept.call, lazy: true });
  assert.ok(held.deferred);
  await handlers.cniRelease({ releases: [{ call: kept.call, deferred: held.deferred, force: true }] });
  assert.deepEqual([lab.leases(), await sh('ip -br link show eth0 2>/dev/null || true', kept.netns)], [[], '']);
});

/**
 * Namespaces and the real plugins, through a real worker pool. Everything runs in a network namespace of this process,
 * so that neither the bridges nor the iptables rules of the machine change.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { PodSandboxConfig } from '../../proto/gen/cri.ts';
import { explain, type SluiceError } from '../../src/errors.ts';
import { addresses } from '../../src/node/network/addresses.ts';
import { daemonId } from '../../src/node/network/daemon-id.ts';
import { Network } from '../../src/node/network/network.ts';
import { Pool } from '../../src/node/threads/pool.ts';
import { C, check, libc } from '../../src/sys/libc.ts';
import { setLink } from '../../src/sys/link.ts';
import { netnsExists } from '../../src/sys/netns.ts';
import { run } from '../../src/sys/spawn.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';
import type { CniAttachment, CniResult, PluginRun } from '../../src/workers/net/types.ts';
import { closeUplink, openUplink } from '../../src/workers/net/uplink.ts';
import type { NetHandlers } from '../../src/workers/net.ts';
import { emptyPod } from '../rig/messages.ts';

// Threads inherit the namespace of the thread that starts them, so the workers run in the new one.
check('unshare', libc.unshare(C.CLONE_NEWNET));
setLink('lo', true);

const BIN_DIRS = ['/opt/cni/bin', '/usr/lib/cni'];
const ENV = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' };

interface Rig {
  dir: string;
  pool: Pool<NetHandlers>;
  network: Network;
  runs: PluginRun[];
  pods: (count: number, config?: Partial<PodSandboxConfig>) => CniAttachment[];
  up: (pod: CniAttachment) => Promise<CniResult>;
  down: (pod: CniAttachment) => Promise<void>;
  /** Addresses that host-local has given out. */
  leases: () => string[];
  records: () => string[];
}

/**
 * Registers a test that runs twice: with the plugins as processes, and with the network made by the workers themselves.
 */
function both(name: string, work: (t: TestContext, inProcess: boolean) => Promise<void>): void {
  test(`${name} (plugins)`, (t) => work(t, false));
  test(`${name} (in process)`, (t) => work(t, true));
}

interface RigOptions {
  inProcess: boolean;
  subnet?: string;
  conf?: (dir: string) => object;
}

async function rig(t: TestContext, { inProcess, subnet = '10.232.0.0/16', conf }: RigOptions): Promise<Rig> {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-net-'));
  const confDir = join(dir, 'net.d');
  if (conf) {
    execFileSync('mkdir', [confDir]);
    writeFileSync(join(confDir, '1.conflist'), JSON.stringify(conf(dir)));
  }
  const pool = new Pool<NetHandlers>({
    name: 'net',
    file: new URL('../../src/workers/net.ts', import.meta.url),
    minThreads: 1,
    maxThreads: 2,
    callsPerThread: 16,
    maxQueue: 1000,
  });
  const runs: PluginRun[] = [];
  const root = join(dir, 'root');
  const cni = {
    conf_dir: confDir,
    bin_dirs: BIN_DIRS,
    cache_dir: join(dir, 'cache'),
    netns_dir: join(dir, 'netns'),
    timeout_seconds: 30,
    loopback: 'builtin' as const,
    in_process: inProcess,
    builtin_subnet: subnet,
    ip_ranges_annotation: false,
    gc: true,
  };
  const network = await Network.start({ cni, root, pool, files: hostFiles, onPlugin: (each) => runs.push(each) });
  const made: CniAttachment[] = [];
  const down = async (pod: CniAttachment) => {
    await network.del(pod);
    await pool.call('removeNetns', { path: pod.netns });
    await network.settled();
  };
  t.after(async () => {
    for (const pod of made) await down(pod);
    await network[Symbol.asyncDispose]();
    await closeUplink(`sluice${daemonId(root)}`);
    await pool[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true });
  });
  return {
    dir,
    pool,
    network,
    runs,
    pods: (count, config = {}) =>
      Array.from({ length: count }, (_, index) => {
        const id = `pod${made.length}`;
        const metadata = { name: `p${index}`, namespace: 'test', uid: id, attempt: 0 };
        const pod = network.attachment({ id, netns: network.netnsPath(), config: emptyPod({ metadata, ...config }) });
        made.push(pod);
        return pod;
      }),
    async up(pod) {
      await pool.call('createNetns', { path: pod.netns, loopback: true });
      return network.add(pod);
    },
    down,
    leases: () =>
      listed(join(root, 'cni', network.current()?.name ?? '')).filter((name) => /^[0-9a-f.:_]+$/.test(name)),
    records: () => listed(join(dir, 'cache', 'results')),
  };
}

const listed = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder) : []);

/** Runs a program, in a pod's namespace where one is given. */
async function sh(command: string[], netns?: string): Promise<string> {
  const argv = netns === undefined ? command : ['nsenter', `--net=${netns}`, ...command];
  const ended = await run({ path: '/usr/bin/env', argv: ['env', ...argv], env: ENV, timeoutMs: 10_000 });
  assert.equal(ended.code, 0, `${argv.join(' ')}: ${ended.stderr}`);
  return ended.stdout.toString();
}

const links = async (): Promise<string[]> =>
  (await sh(['ip', '-br', 'link'])).split('\n').flatMap((line) => (line.startsWith('veth') ? [line] : []));

both(
  'a namespace: lo is up, it is pinned and removed; no thread of the daemon stays in another namespace',
  async (t, inProcess) => {
    const { dir, pool } = await rig(t, { inProcess });
    const home = readlinkSync('/proc/thread-self/ns/net');
    const path = join(dir, 'netns', 'one');
    await pool.call('createNetns', { path, loopback: true });
    assert.match(await sh(['ip', '-br', 'addr'], path), /^lo\s+UNKNOWN\s+127\.0\.0\.1\/8/);
    const quiet = join(dir, 'netns', 'two');
    await pool.call('createNetns', { path: quiet, loopback: false });
    assert.match(await sh(['ip', '-br', 'addr'], quiet), /^lo\s+DOWN/);

    await assert.rejects(pool.call('createNetns', { path, loopback: true }), (error: SluiceError) => {
      assert.equal(error.code, 'NAMESPACE_FAILED');
      assert.match(explain(error), /one could not be made.*EEXIST/);
      return true;
    });
    assert.equal(netnsExists(path), true, 'the one that was there stays');
    writeFileSync(join(dir, 'file'), '');
    const nowhere = join(dir, 'file', 'ns');
    await assert.rejects(pool.call('createNetns', { path: nowhere, loopback: true }), /could not be made/);

    const workers = readdirSync('/proc/self/task').map((tid) => readlinkSync(`/proc/self/task/${tid}/ns/net`));
    assert.ok(workers.filter((ns) => ns === home).length >= 2, 'this thread and the worker');
    const pods = [path, quiet].map((each) => execFileSync('stat', ['-Lc', 'net:[%i]', each]).toString().trim());
    for (const pod of pods) assert.ok(!workers.includes(pod));

    for (const each of [path, path, quiet]) await pool.call('removeNetns', { path: each });
    assert.deepEqual(readdirSync(join(dir, 'netns')), []);
    assert.doesNotMatch(readFileSync('/proc/self/mounts', 'utf8'), new RegExp(`${dir}/netns`));
  },
);

both(
  'a user namespace: it has its mappings, owns the network namespace, and both are removed',
  async (t, inProcess) => {
    const { dir, pool } = await rig(t, { inProcess });
    const path = join(dir, 'netns', 'net');
    const userns = {
      path: join(dir, 'netns', 'user'),
      uids: [{ containerID: 0, hostID: 100_000, size: 65_536 }],
      gids: [{ containerID: 0, hostID: 200_000, size: 65_536 }],
    };
    await pool.call('createNetns', { path, loopback: true, userns });
    assert.match(await sh(['ip', '-br', 'addr'], path), /^lo\s+UNKNOWN\s+127\.0\.0\.1\/8/);
    const inside = (command: string) => sh(['nsenter', `--user=${userns.path}`, `--net=${path}`, 'sh', '-c', command]);
    assert.deepEqual(
      (await inside('cat /proc/self/uid_map /proc/self/gid_map')).trim().split(/\s+/).map(Number),
      [0, 100_000, 65_536, 0, 200_000, 65_536],
    );
    // Only a process in the owning user namespace may change the links.
    assert.equal(await inside('ip link add dummy0 type bridge && echo made'), 'made\n');

    const [NS_GET_USERNS, fd] = [0xb701, openSync(path, 'r')];
    const owner = check('ioctl', libc.ioctl(fd, NS_GET_USERNS, null));
    assert.equal(fstatSync(owner).ino, statSync(userns.path).ino);
    closeSync(owner);
    closeSync(fd);

    await assert.rejects(pool.call('createNetns', { path: `${path}2`, loopback: true, userns }), /could not be made/);
    assert.equal(netnsExists(userns.path), true, 'that of the other pod stays');
    const overlap = { ...userns, path: join(dir, 'netns', 'bad'), uids: [...userns.uids, ...userns.uids] };
    await assert.rejects(
      pool.call('createNetns', { path: `${path}3`, loopback: true, userns: overlap }),
      (error: SluiceError) => /uid_map|EINVAL/.test(explain(error)),
    );

    for (let time = 0; time < 2; time++) await pool.call('removeNetns', { path, userns: userns.path });
    assert.deepEqual(readdirSync(join(dir, 'netns')), []);
  },
);

both(
  'many pods at once on the built-in bridge get an address each, and nothing is left afterwards',
  async (t, inProcess) => {
    const { network, runs, pods, up, down, leases, records } = await rig(t, { inProcess });
    assert.deepEqual(await network.status(), { ready: true, reason: '', message: '' });
    const all = pods(16);
    const results = await Promise.all(all.map(up));
    const ips = results.flatMap((result) => addresses(result, 'eth0'));
    assert.equal(new Set(ips).size, 16);
    assert.ok(ips.every((ip) => ip.startsWith('10.232.0.')));
    assert.deepEqual(leases().sort(), ips.sort());
    assert.equal((await links()).length, 16);
    const [first, second] = all;
    assert.ok(first && second);
    assert.match(await sh(['ip', 'route'], first.netns), /^default via 10\.232\.0\.1 dev eth0/);

    await Promise.all(all.map(down));
    assert.deepEqual([leases(), records(), await links()], [[], [], []]);
    await down(first);
    assert.deepEqual(
      [...new Set(runs.map(({ plugin, command, outcome }) => `${plugin} ${command} ${outcome}`))],
      ['bridge ADD ok', 'bridge DEL ok'],
    );
  },
);

both('a host port leads into the pod, a bandwidth limit is set, and both are removed with it', async (t, inProcess) => {
  const { pods, up, down } = await rig(t, { inProcess });
  const [server] = pods(1, {
    portMappings: [{ protocol: 0, containerPort: 80, hostPort: 18_080, hostIp: '' }],
    annotations: { 'kubernetes.io/ingress-bandwidth': '10M', 'kubernetes.io/egress-bandwidth': '20M' },
  });
  assert.ok(server);
  const { interfaces } = await up(server);
  const veth = interfaces?.find(({ name }) => name.startsWith('veth'))?.name ?? '';
  assert.match(await sh(['tc', 'qdisc', 'show', 'dev', veth]), /tbf .*rate 10Mbit/);

  const serving = sh(['busybox', 'nc', '-l', '-p', '80', '-e', 'busybox', 'echo', 'from the pod'], server.netns);
  assert.equal(await reply('10.232.0.1', 18_080), 'from the pod\n');
  await serving;

  await down(server);
  const nat = await sh(['iptables', '-t', 'nat', '-S']);
  assert.doesNotMatch(nat, /18080/);
  await assert.rejects(reply('10.232.0.1', 18_080, { attempts: 1 }), { code: 'ECONNREFUSED' });
  assert.match(await sh(['iptables', '-S', 'FORWARD']), /-A FORWARD -s 10\.232\.0\.0\/16 -i sluice\S+ .*-j ACCEPT/);
  assert.match(nat, /-A POSTROUTING -s 10\.232\.0\.0\/16 ! -d 10\.232\.0\.0\/16 ! -o sluice\S+ .*-j MASQUERADE/);
});

/** What a TCP server sends; connecting is retried until the server listens. */
async function reply(host: string, port: number, { attempts = 50 } = {}): Promise<string> {
  for (let attempt = 0; ; attempt++) {
    try {
      let text = '';
      for await (const chunk of connect({ host, port, timeout: 5000 })) text += chunk;
      return text;
    } catch (error) {
      if (attempt >= attempts - 1) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

both('removing the built-in network leaves neither bridge nor rules, also the second time', async (t, inProcess) => {
  const { network, pods, up, down } = await rig(t, { inProcess });
  const [pod] = pods(1, { portMappings: [{ protocol: 0, containerPort: 80, hostPort: 18_081, hostIp: '' }] });
  assert.ok(pod);
  await up(pod);
  await down(pod);
  const bridge = network.current()?.name ?? '';
  assert.match(await sh(['ip', '-br', 'link']), new RegExp(bridge));
  // What a daemon of this root left that had another subnet.
  await openUplink({ bridge, subnets: ['10.231.0.0/16', 'fd00:231::/64'] });
  for (let time = 0; time < 2; time++) await closeUplink(bridge);
  assert.doesNotMatch(await sh(['ip', '-br', 'link']), new RegExp(bridge));
  for (const table of ['nat', 'filter']) {
    assert.doesNotMatch(await sh(['iptables', '-t', table, '-S']), /-A |CNI/);
    assert.doesNotMatch(await sh(['ip6tables', '-t', table, '-S']), /-A |CNI/);
  }
});

both('a forwarding chain that drops by default does not cut pods off', async (t, inProcess) => {
  await sh(['iptables', '-P', 'FORWARD', 'DROP']);
  t.after(() => sh(['iptables', '-P', 'FORWARD', 'ACCEPT']));
  const { dir, pool, pods, up } = await rig(t, { inProcess });
  const [pod] = pods(1);
  assert.ok(pod);
  await up(pod);
  // Another network: a namespace behind a link of this node, without a route back to the pods.
  const far = join(dir, 'far');
  await pool.call('createNetns', { path: far, loopback: true });
  try {
    await sh(['ip', 'link', 'add', 'near0', 'type', 'veth', 'peer', 'name', 'far0']);
    await sh(['sh', '-c', `exec 3<${far}; ip link set far0 netns /proc/self/fd/3`]);
    await sh(['sh', '-c', 'ip addr add 192.0.2.1/24 dev near0; ip link set near0 up']);
    await sh(['sh', '-c', 'ip addr add 192.0.2.2/24 dev far0; ip link set far0 up'], far);
    const serving = sh(['busybox', 'nc', '-l', '-p', '80', '-e', 'busybox', 'echo', 'far away'], far);
    const ask = 'for i in 1 2 3 4 5 6 7 8 9; do busybox nc -w 1 192.0.2.2 80 && exit; sleep 0.1; done; exit 1';
    assert.equal(await sh(['sh', '-c', ask], pod.netns), 'far away\n');
    await serving;
  } finally {
    await pool.call('removeNetns', { path: far });
  }
});

both('two address families: IPv4 comes first, and both can be used', async (t, inProcess) => {
  const { pods, up } = await rig(t, { inProcess, subnet: '10.233.0.0/24, fd99:1::/64' });
  const [one, two] = pods(2);
  assert.ok(one && two);
  await up(one);
  const [four, six, ...others] = addresses(await up(two), 'eth0');
  assert.match(four ?? '', /^10\.233\.0\.\d+$/);
  assert.match(six ?? '', /^fd99:1::/);
  assert.deepEqual(others, []);
  const routes = await sh(['ip', '-6', 'route'], one.netns);
  assert.match(routes, /default via fd99:1::1/);
});

both(
  'the DEL after an ADD that failed late frees the address, with the namespace and without',
  async (t, inProcess) => {
    const conf = (dir: string) => ({
      name: 'late',
      cniVersion: '1.0.0',
      plugins: [
        {
          type: 'bridge',
          bridge: 'late0',
          ipam: { type: 'host-local', dataDir: join(dir, 'ipam'), ranges: [[{ subnet: '10.234.0.0/24' }]] },
        },
        { type: 'tuning', sysctl: { 'net.core.no_such_thing': '1' } },
      ],
    });
    const { dir, pool, pods, up, down, records } = await rig(t, { inProcess, conf });
    const leases = () => listed(join(dir, 'ipam', 'late')).filter((name) => name.startsWith('10.'));
    const [one, two] = pods(2);
    assert.ok(one && two);
    for (const pod of [one, two]) {
      await assert.rejects(up(pod), /plugin tuning \(ADD, network late\) failed.*no_such_thing/);
    }
    assert.equal(leases().length, 2);
    assert.equal(records().length, 2, 'a trace for whoever cleans up after us');
    await down(one);
    await pool.call('removeNetns', { path: two.netns });
    await down(two);
    assert.deepEqual([leases(), records()], [[], []]);
    // The kernel deletes a namespace and its links asynchronously, after the last reference is dropped.
    for (let waited = 0; (await links()).length > 0; waited += 20) {
      assert.ok(waited < 3000, 'a veth is left');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  },
);

both('strays are found without the store, and DEL works with them', async (t, inProcess) => {
  const { pool, network, pods, up, leases } = await rig(t, { inProcess });
  const [kept, lost] = pods(2);
  assert.ok(kept && lost);
  await Promise.all([up(kept), up(lost)]);
  const strays = await network.strays({
    hasSandbox: (id) => id === kept.containerId,
    hasNetns: (path) => path === kept.netns,
  });
  assert.deepEqual(strays.netns, [lost.netns]);
  assert.deepEqual(
    strays.attachments.map(({ containerId }) => containerId),
    [lost.containerId],
  );
  for (const attachment of strays.attachments) await network.del(attachment);
  for (const path of strays.netns) await pool.call('removeNetns', { path });
  await network.settled();
  assert.equal(leases().length, 1);
});

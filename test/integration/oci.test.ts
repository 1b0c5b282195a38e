/**
 * The specs, accepted and obeyed by the real runtimes: a pod and its containers with a busybox root file system, by
 * `runc` and `crun` as the shim calls them. Root only; a runtime that is missing is skipped by name.
 */
import assert from 'node:assert/strict';
import { type SpawnSyncOptions, spawnSync } from 'node:child_process';
import {
  accessSync,
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type ContainerConfig,
  type LinuxContainerSecurityContext,
  MountPropagation,
  NamespaceMode,
  type PodSandboxConfig,
  SecurityProfile_ProfileType as Profile,
} from '../../proto/gen/cri.ts';
import { cdiEdits, cdiRegistry } from '../../src/node/oci/cdi.ts';
import { buildContainerSpec, type ContainerSpecInput } from '../../src/node/oci/container.ts';
import { encodeSpec } from '../../src/node/oci/encode.ts';
import { buildExecProcess } from '../../src/node/oci/exec-process.ts';
import type { HostFacts, RuntimeFeatures } from '../../src/node/oci/host.ts';
import { resolveCdiEdits } from '../../src/node/oci/read-cdi.ts';
import { readHostFacts, readRuntimeFeatures } from '../../src/node/oci/read-host.ts';
import { mergeResources, toLinuxResources } from '../../src/node/oci/resources.ts';
import { buildSandboxSpec } from '../../src/node/oci/sandbox.ts';
import { parseSeccompProfile } from '../../src/node/oci/seccomp.ts';
import type { Spec, User } from '../../src/node/oci/types.ts';
import { C } from '../../src/sys/libc.ts';
import { mount, unmount } from '../../src/sys/mount.ts';
import { parseMountinfo } from '../../src/sys/mountinfo.ts';
import { readDevices } from '../../src/workers/host-paths/devices.ts';
import { cgroupsOf, removeCgroupTree } from '../rig/leftovers.ts';
import { containerSecurity, mount as mountMessage, namespaces, podSecurity, resources } from '../rig/messages.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { findProgram } from '../rig/paths.ts';
import * as cri from '../unit/oci-fixtures.ts';

const ROOT: User = { uid: 0, gid: 0, additionalGids: [0] };
const IMAGE = { reference: 'busybox', config: { Entrypoint: ['/bin/sleep', '600'], Env: ['FROM_IMAGE=yes'] } };
const BUSYBOX = ['/bin/busybox', '/usr/bin/busybox'].find(isStatic);

for (const name of ['runc', 'crun']) {
  const missing = skipUnlessRoot(name) || (BUSYBOX === undefined && 'needs busybox-static');
  describe(`specs under ${name}`, { skip: missing }, () => suite(findProgram(name) ?? ''));
}

function suite(binary: string): void {
  let rig: Rig;
  let pod: Pod;
  before(async () => {
    rig = await Rig.make(binary);
    pod = rig.pod('plain', {
      linux: cri.podLinux({
        cgroupParent: rig.parent,
        sysctls: { 'kernel.shm_rmid_forced': '1' },
        securityContext: podSecurity({ namespaceOptions: namespaces({ pid: NamespaceMode.CONTAINER }) }),
      }),
    });
  });
  after(() => rig?.end());

  test('the pod has its own name, sysctls and limits, and no write access to its root', () => {
    assert.equal(read(`/proc/${pod.pid}/oom_score_adj`).trim(), String(Math.max(-998, rig.host.lowestOomScoreAdj)));
    assert.match(read(`/proc/${pod.pid}/limits`), /Max open files\s+4096\s+8192/);
    assert.match(read(`/proc/${pod.pid}/status`), /NoNewPrivs:\s+1/);
    assert.match(read(`/proc/${pod.pid}/mountinfo`), / \S+ \/ ro,/);
    const out = rig.exec(
      pod.id,
      buildExecProcess(pod.spec, {
        cmd: [
          '/bin/sh',
          '-c',
          'hostname; cat /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /etc/resolv.conf; echo $FROM_IMAGE',
        ],
        tty: false,
      }),
    );
    assert.deepEqual(out.split(/\s+/).filter(Boolean), [
      'web-0',
      '0',
      '2147483647',
      '0',
      '1',
      'nameserver',
      '192.0.2.1',
      'yes',
    ]);
  });

  test('a container shares the pod’s namespaces but the pid one, and has what it asked for', async () => {
    const out = await rig.output(
      pod,
      {
        ...shell(
          'for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; id; pwd; cat /proc/self/oom_score_adj; ulimit -n; echo $HOSTNAME $GIVEN $FROM_IMAGE; echo pid $$',
        ),
        workingDir: '/tmp',
        envs: [{ key: 'GIVEN', value: Buffer.from('grüße') }],
        linux: {
          resources: resources({ oomScoreAdj: 500n }),
          securityContext: containerSecurity({ namespaceOptions: namespaces({ pid: NamespaceMode.CONTAINER }) }),
        },
      },
      { user: { uid: 1000, gid: 2000, additionalGids: [2000, 3000] } },
    );
    const lines = out.trim().split('\n');
    const ofPause = ['net', 'ipc', 'uts', 'pid'].map((ns) => readlinkSync(`/proc/${pod.pid}/ns/${ns}`));
    assert.deepEqual(lines.slice(0, 3), ofPause.slice(0, 3));
    assert.notEqual(lines[3], ofPause[3]);
    assert.equal(lines[4], 'uid=1000 gid=2000 groups=2000,3000');
    assert.deepEqual(lines.slice(5), ['/tmp', '500', '4096', 'web-0 grüße yes', 'pid 1']);
  });

  test('pid POD sees the pause process, TARGET another container', async () => {
    const sees = await rig.output(pod, shell('cat /proc/1/cmdline'));
    assert.equal(sees.replaceAll('\0', ' ').trim(), '/bin/sleep 600');
    const target = rig.start(
      pod,
      container('target', ['/bin/sleep', '601'], {
        namespaceOptions: namespaces({ pid: NamespaceMode.CONTAINER }),
      }),
    );
    const out = await rig.output(
      pod,
      {
        ...shell('cat /proc/1/cmdline'),
        linux: {
          resources: undefined,
          securityContext: containerSecurity({
            namespaceOptions: namespaces({ pid: NamespaceMode.TARGET, targetId: 'target' }),
          }),
        },
      },
      { targetPid: target.pid },
    );
    assert.equal(out.replaceAll('\0', ' ').trim(), '/bin/sleep 601');
    rig.remove(target.id);
  });

  const CAPS = "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | awk '{print $2}' | tr '\\n' ' '";

  test('capabilities: the default set, and NET_ADMIN alone', async () => {
    const given = await rig.output(pod, shell(CAPS));
    assert.equal(given.trim(), '0000000000000000 00000000a80425fb 00000000a80425fb 00000000a80425fb 0000000000000000');
    const single = await rig.output(
      pod,
      withContext(shell(CAPS), {
        capabilities: { addCapabilities: ['NET_ADMIN'], dropCapabilities: ['ALL'], addAmbientCapabilities: [] },
      }),
    );
    assert.equal(single.trim(), '0000000000000000 0000000000001000 0000000000001000 0000000000001000 0000000000000000');
    const ambient = await rig.output(
      pod,
      withContext(shell(CAPS), {
        capabilities: { addCapabilities: [], dropCapabilities: ['ALL'], addAmbientCapabilities: ['NET_BIND_SERVICE'] },
      }),
      { user: { uid: 1000, gid: 1000, additionalGids: [1000] } },
    );
    assert.equal(ambient.trim(), Array(5).fill('0000000000000400').join(' '));
  });

  test('seccomp: unconfined without a word, the default profile, a profile of the node, no_new_privs', async () => {
    const probe =
      "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | awk '{print $2}' | tr '\\n' ' '; unshare -U true 2>&1 | grep -o 'not permitted'; mkdir /tmp/made$$ 2>&1 | grep -o 'not permitted'; true";
    assert.equal((await rig.output(pod, shell(probe))).trim(), '0 0');
    const standard = await rig.output(
      pod,
      withContext(shell(probe), {
        seccomp: { profileType: Profile.RuntimeDefault, localhostRef: '' },
        noNewPrivs: true,
      }),
    );
    assert.deepEqual(standard.split(/\s+/).slice(0, 4), ['1', '2', 'not', 'permitted']);
    assert.equal(standard.match(/not permitted/g)?.length, 1);
    const own = await rig.output(
      pod,
      withContext(shell(probe), { seccomp: { profileType: Profile.Localhost, localhostRef: '/x.json' } }),
      {
        seccomp: parseSeccompProfile(
          '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":18446744073709551615,"op":"SCMP_CMP_NE"}]}]}',
          '/x.json',
        ),
      },
    );
    assert.match(own, /^0 2 not permitted/);
  });

  test('a read-only root, masked and read-only paths', async () => {
    const probe =
      "touch /made 2>&1 | grep -o 'Read-only'; wc -c </proc/timer_list; cat /proc/acpi 2>/dev/null | wc -l; sh -c 'echo 1 >/proc/sys/vm/drop_caches' 2>&1 | grep -o Read-only; touch /etc/hosts 2>&1 | grep -o Read-only; touch /dev/shm/ok && echo shm";
    const out = await rig.output(
      pod,
      withContext(shell(probe), {
        readonlyRootfs: true,
        maskedPaths: ['/proc/timer_list', '/proc/acpi', '/nowhere'],
        readonlyPaths: ['/proc/sys'],
      }),
    );
    assert.deepEqual(out.trim().split(/\s+/), ['Read-only', '0', '0', 'Read-only', 'Read-only', 'shm']);
  });

  test('privileged: all the daemon has, host devices, writable /sys', async () => {
    const boss = rig.pod('boss', {
      linux: cri.podLinux({ cgroupParent: rig.parent, securityContext: podSecurity({ privileged: true }) }),
    });
    const out = await rig.output(
      boss,
      withContext(
        shell(
          `${CAPS}; ls /dev/kmsg /dev/null; grep -c ' /sys .*sysfs.*rw' /proc/self/mountinfo; grep ' - sysfs' /proc/self/mountinfo | grep -c ' rw,'; grep Seccomp: /proc/self/status; head -c 0 /dev/kmsg && echo opened`,
        ),
        {
          privileged: true,
          maskedPaths: ['/proc'],
          seccomp: { profileType: Profile.RuntimeDefault, localhostRef: '' },
        },
      ),
      { hostDevices: await readDevices('/dev', '/dev') },
    );
    const own = /CapEff:\s+(\w+)/.exec(read('/proc/self/status'))?.[1];
    assert.equal(out.split(' ')[2], own);
    assert.match(out, /\/dev\/kmsg\n\/dev\/null/);
    assert.match(out, /Seccomp:\s+0\nopened/);
    rig.remove(boss.id);
  });

  test('devices: what is granted opens, what is not does not', async (t) => {
    if (!existsSync('/dev/fuse')) return t.skip('this host has no /dev/fuse');
    const devices = (await readDevices('/dev/fuse', '/dev/mine')).map((device) => ({ ...device, permissions: 'r' }));
    assert.equal(devices.length, 1);
    const opens = (how: string) => `sh -c "exec 3${how}" 2>&1 | grep -o "not permitted" || echo opened`;
    const granted = await rig.output(pod, shell([opens('</dev/mine'), opens('>/dev/mine')].join('; ')), { devices });
    assert.deepEqual(granted.trim().split('\n'), ['opened', 'not permitted']);
    const none = await rig.output(pod, shell(`mknod /tmp/fuse c 10 229; ${opens('</tmp/fuse')}`));
    assert.equal(none.trim(), 'not permitted');
  });

  test('mounts: outer before inner, read-only, recursively read-only, propagation', async () => {
    const base = rig.folder('mounts');
    // A mount of our own, shared, with another one below it.
    mount({ source: 'tmpfs', target: base, type: 'tmpfs' });
    try {
      mount({ source: 'none', target: base, flags: C.MS_SHARED });
      mkdirSync(join(base, 'inner'));
      mount({ source: 'tmpfs', target: join(base, 'inner'), type: 'tmpfs' });
      const on = (containerPath: string, more: Partial<ContainerConfig['mounts'][number]>) =>
        mountMessage({ containerPath, hostPath: base, ...more });
      const mounts = [
        on('/data/deep/er', { readonly: true }),
        on('/data', {}),
        on('/slave', { propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER }),
      ];
      if (rig.features.recursiveReadOnly) mounts.push(on('/rro', { readonly: true, recursiveReadOnly: true }));
      mkdirSync(join(base, 'deep/er'), { recursive: true });
      const files = ['/data/a', '/data/deep/er/b', '/data/deep/er/inner/c', '/rro/d', '/rro/inner/e'];
      const peers = (path: string) =>
        `grep " ${path} " /proc/self/mountinfo | grep -oE "shared:|master:"; echo of ${path}`;
      const probe = `for f in ${files.join(' ')}; do touch $f 2>/dev/null && echo $f; done; ${peers('/data')}; ${peers('/slave')}`;
      const mountTable = parseMountinfo(read('/proc/self/mountinfo'));
      const out = await rig.output(pod, { ...shell(probe), mounts }, { mountTable });
      assert.deepEqual(out.trim().split('\n'), [
        '/data/a',
        '/data/deep/er/inner/c',
        'of /data',
        'master:',
        'of /slave',
      ]);

      const both = [on('/both', { propagation: MountPropagation.PROPAGATION_BIDIRECTIONAL })];
      const shared = await rig.output(pod, { ...shell(peers('/both')), mounts: both }, { mountTable });
      assert.deepEqual(shared.trim().split('\n'), ['shared:', 'of /both']);
    } finally {
      unmount(join(base, 'inner'));
      unmount(base);
    }
  });

  test('a terminal', async () => {
    const socket = join(rig.dir, 'console.sock');
    // Nobody reads the message with the terminal in it: in flight, the terminal stays open.
    const server = createServer({ pauseOnConnect: true });
    await new Promise<void>((done) => server.listen(socket, done));
    const connections = new Set<{ destroy(): void }>();
    server.on('connection', (connection) => connections.add(connection));
    try {
      const out = rig.folder('tty');
      const config = {
        ...shell('tty >/out/tty; echo $TERM >>/out/tty; mv /out/tty /out/done; sleep 5'),
        tty: true,
        mounts: [mountMessage({ containerPath: '/out', hostPath: out })],
      };
      const { id } = rig.start(pod, config, {}, ['--console-socket', socket]);
      await until(() => existsSync(join(out, 'done')));
      assert.equal(read(join(out, 'done')), '/dev/pts/0\nxterm\n');
      rig.remove(id);
    } finally {
      for (const connection of connections) connection.destroy();
      server.close();
    }
  });

  test('limits reach the cgroup, an update changes them and keeps the rest, exec joins in', async () => {
    const asked = resources({
      memoryLimitInBytes: 64n << 20n,
      cpuShares: 512n,
      cpuQuota: 20000n,
      cpuPeriod: 100000n,
    });
    const running = rig.start(pod, {
      ...container('limited', ['/bin/sleep', '602']),
      linux: { resources: asked, securityContext: undefined },
    });
    assert.equal(rig.cgroupFile(running.pid, 'memory', 'memory.limit_in_bytes', 'memory.max'), String(64 << 20));
    assert.equal(rig.cgroupFile(running.pid, 'cpu', 'cpu.cfs_quota_us', 'cpu.max').split(' ')[0], '20000');
    if (rig.host.swapController) {
      const swap = rig.cgroupFile(running.pid, 'memory', 'memory.memsw.limit_in_bytes', 'memory.swap.max');
      assert.equal(swap, rig.host.cgroupVersion === 1 ? String(64 << 20) : '0');
    }
    const update = mergeResources(asked, resources({ memoryLimitInBytes: 128n << 20n }));
    const file = join(rig.dir, 'update.json');
    writeFileSync(file, encodeSpec(toLinuxResources(update, rig.host)));
    rig.call(['update', '--resources', file, running.id]);
    assert.equal(rig.cgroupFile(running.pid, 'memory', 'memory.limit_in_bytes', 'memory.max'), String(128 << 20));
    assert.equal(rig.cgroupFile(running.pid, 'cpu', 'cpu.cfs_quota_us', 'cpu.max').split(' ')[0], '20000');

    const said = rig.exec(
      running.id,
      buildExecProcess(running.spec, { cmd: ['/bin/sh', '-c', 'echo $FROM_IMAGE; cat /proc/1/cmdline'], tty: false }),
    );
    assert.match(said, /^yes\n\/bin\/sleep/);
    rig.remove(running.id);
  });

  test('host network, pid and IPC', async () => {
    const NODE = NamespaceMode.NODE;
    const options = namespaces({ network: NODE, pid: NODE, ipc: NODE });
    const open = rig.pod('open', {
      hostname: '',
      linux: cri.podLinux({ cgroupParent: rig.parent, securityContext: podSecurity({ namespaceOptions: options }) }),
    });
    const out = await rig.output(
      open,
      withContext(shell('for n in net ipc uts pid; do readlink /proc/self/ns/$n; done'), { namespaceOptions: options }),
    );
    assert.deepEqual(
      out.trim().split('\n'),
      ['net', 'ipc', 'uts', 'pid'].map((ns) => readlinkSync(`/proc/self/ns/${ns}`)),
    );
    rig.remove(open.id);
  });

  test('a user namespace of the pod, joined by its containers', async () => {
    const options = namespaces({ pid: NamespaceMode.CONTAINER, ...cri.userns(1_000_000, 65536) });
    const mapped = rig.pod('mapped', {
      linux: cri.podLinux({ cgroupParent: rig.parent, securityContext: podSecurity({ namespaceOptions: options }) }),
    });
    assert.equal(read(`/proc/${mapped.pid}/uid_map`).trim().split(/\s+/).join(' '), '0 1000000 65536');
    const out = await rig.output(
      mapped,
      withContext(
        shell(
          'id -u; cat /proc/self/gid_map; readlink /proc/self/ns/user; cat /proc/sys/net/ipv4/ip_unprivileged_port_start',
        ),
        { namespaceOptions: options },
      ),
    );
    const lines = out
      .trim()
      .split('\n')
      .map((line) => line.trim().split(/\s+/).join(' '));
    assert.deepEqual(lines, ['0', '0 1000000 65536', readlinkSync(`/proc/${mapped.pid}/ns/user`), '0']);
    rig.remove(mapped.id);
  });

  test('a CDI device: environment, node, mount and hook', async () => {
    const folder = rig.folder('cdi');
    writeFileSync(join(folder, 'lib.so'), 'library\n');
    const text = `
cdiVersion: "0.6.0"
kind: example.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/gpu0
      hostPath: /dev/zero
containerEdits:
  env: ["GPU=yes", HOSTNAME=changed]
  mounts:
  - containerPath: /usr/lib/lib.so
    hostPath: ${join(folder, 'lib.so')}
    options: [ro, nosuid, bind]
  hooks:
  - hookName: createRuntime
    path: ${BUSYBOX}
    args: [busybox, touch, ${join(folder, 'hooked')}]
`;
    const registry = await cdiRegistry([{ path: '/etc/cdi/gpu.yaml', text, priority: 0 }]);
    const edits = await resolveCdiEdits(cdiEdits(registry, ['example.com/gpu=0']), async (from, to) =>
      readDevices(from, to),
    );
    const out = await rig.output(pod, shell('head -c 2 /dev/gpu0 | wc -c; echo $GPU $HOSTNAME; cat /usr/lib/lib.so'), {
      cdi: edits,
    });
    assert.deepEqual(out.trim().split('\n'), ['2', 'yes changed', 'library']);
    assert.ok(existsSync(join(folder, 'hooked')));
  });
}

interface Running {
  id: string;
  pid: number;
  spec: Spec;
}

interface Pod extends Running {
  config: PodSandboxConfig;
}

/** One runtime with a state folder and a root file system of its own, and a cgroup that goes at the end. */
class Rig {
  readonly dir = mkdtempSync(join(tmpdir(), 'sluice-oci-'));
  /** The runtime, and its global flags. */
  readonly #command: string[];
  readonly host: HostFacts;
  readonly features: RuntimeFeatures;
  readonly parent: string;
  readonly #rootfs: string;
  readonly #ids = new Set<string>();
  #count = 0;

  static async make(binary: string): Promise<Rig> {
    const host = await readHostFacts('auto');
    return new Rig(binary, host, await readRuntimeFeatures({ path: binary, key: '', remote: false }, host.kernel));
  }

  private constructor(binary: string, host: HostFacts, features: RuntimeFeatures) {
    this.host = host;
    this.features = features;
    this.#command = [...commandOf(binary, host), '--root', join(this.dir, 'state')];
    if (host.cgroupDriver === 'systemd') this.#command.push('--systemd-cgroup');
    const name = `sluice-oci-${process.pid}`;
    this.parent = host.cgroupDriver === 'systemd' ? `/${name}.slice` : `/${name}`;
    chmodSync(this.dir, 0o711); // user namespaces must get through
    this.#rootfs = this.folder('rootfs');
    for (const name of ['bin', 'tmp', 'etc', 'proc', 'sys', 'dev', 'usr/lib'])
      mkdirSync(join(this.#rootfs, name), { recursive: true });
    chmodSync(join(this.#rootfs, 'tmp'), 0o1777);
    copyFileSync(BUSYBOX ?? '', join(this.#rootfs, 'bin/busybox'));
    const applets = spawnSync(BUSYBOX ?? '', ['--list'], { encoding: 'utf8' })
      .stdout.split('\n')
      .filter(Boolean);
    for (const applet of applets) if (applet !== 'busybox') symlinkSync('busybox', join(this.#rootfs, 'bin', applet));
    // The mount points that a read-only root or a user namespace could not make.
    for (const file of ['etc/hosts', 'etc/hostname', 'etc/resolv.conf']) writeFileSync(join(this.#rootfs, file), '');
    chmodSync(this.folder('shm'), 0o1777);
    writeFileSync(join(this.dir, 'resolv.conf'), 'nameserver 192.0.2.1\n');
    writeFileSync(join(this.dir, 'hosts'), '127.0.0.1 localhost\n');
    writeFileSync(join(this.dir, 'hostname'), 'web-0\n');
  }

  folder(name: string): string {
    const path = join(this.dir, name);
    mkdirSync(path, { recursive: true });
    return realpathSync(path);
  }

  pod(name: string, over: Partial<PodSandboxConfig>): Pod {
    const config = cri.pod(over);
    const spec = buildSandboxSpec({
      id: name,
      config,
      image: IMAGE,
      user: ROOT,
      netns: '',
      shm: join(this.dir, 'shm'),
      resolvConf: join(this.dir, 'resolv.conf'),
      openFiles: { soft: 4096, hard: 8192 },
      podAnnotations: [],
      features: this.features,
      host: this.host,
    });
    return { ...this.#launch(name, spec), config };
  }

  start(pod: Pod, config: ContainerConfig, more: Partial<ContainerSpecInput> = {}, flags: string[] = []): Running {
    const id = `${config.metadata?.name}-${this.#count++}`;
    const spec = buildContainerSpec({
      id,
      config,
      image: IMAGE,
      user: ROOT,
      sandbox: {
        id: pod.id,
        config: pod.config,
        pid: pod.pid,
        netns: '',
        files: {
          hostname: join(this.dir, 'hostname'),
          hosts: join(this.dir, 'hosts'),
          resolvConf: join(this.dir, 'resolv.conf'),
          shm: join(this.dir, 'shm'),
        },
      },
      openFiles: { soft: 4096, hard: 8192 },
      runtime: {
        podAnnotations: [],
        containerAnnotations: [],
        privilegedWithoutHostDevices: false,
        features: this.features,
      },
      host: this.host,
      ...more,
    });
    return this.#launch(id, spec, flags);
  }

  /** Runs a container to its end and gives what it printed. */
  async output(pod: Pod, config: ContainerConfig, more: Partial<ContainerSpecInput> = {}): Promise<string> {
    const { id } = this.start(pod, config, more);
    await until(() => this.#state(id).status === 'stopped');
    const text = read(join(this.dir, id, 'output'));
    this.remove(id);
    return text;
  }

  exec(id: string, process: unknown): string {
    const path = join(this.dir, 'process.json');
    writeFileSync(path, JSON.stringify(process));
    return this.call(['exec', '--process', path, id]);
  }

  call(args: string[]): string {
    const { status, stdout, stderr } = this.#spawn(args);
    assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
    return stdout;
  }

  remove(id: string): void {
    this.call(['delete', '--force', id]);
    this.#ids.delete(id);
  }

  /** A file of a process's cgroup, by its names in v1 and v2. */
  cgroupFile(pid: number, controller: string, v1: string, v2: string): string {
    const lines = read(`/proc/${pid}/cgroup`);
    if (this.host.cgroupVersion === 2)
      return read(join('/sys/fs/cgroup', /^0::(.*)$/m.exec(lines)?.[1] ?? '', v2)).trim();
    const path = new RegExp(`^\\d+:(?:.*,)?${controller}(?:,.*)?:(.*)$`, 'm').exec(lines)?.[1] ?? '';
    return read(join('/sys/fs/cgroup', controller, path, v1)).trim();
  }

  end(): void {
    for (const id of this.#ids) this.#spawn(['delete', '--force', id]);
    // Each is tried: what stays in one hierarchy must not keep the rest.
    const left = cgroupsOf(this.parent).flatMap((folder) => {
      try {
        removeCgroupTree(folder);
        return [];
      } catch (error) {
        return [`${folder}: ${error}`];
      }
    });
    rmSync(this.dir, { recursive: true, force: true });
    assert.deepEqual(left, []);
  }

  #spawn(args: string[], options: SpawnSyncOptions = {}) {
    const [program = '', ...flags] = this.#command;
    return spawnSync(program, [...flags, ...args], { ...options, encoding: 'utf8' });
  }

  #launch(id: string, spec: Spec, flags: string[] = []): Running {
    const bundle = this.folder(id);
    spec.root.path = this.#rootfs;
    writeFileSync(join(bundle, 'config.json'), encodeSpec(spec));
    const output = openSync(join(bundle, 'output'), 'w');
    this.#ids.add(id);
    try {
      const log = join(bundle, 'log');
      const { status } = this.#spawn(['--log', log, 'create', '--bundle', bundle, ...flags, id], {
        stdio: ['ignore', output, output],
      });
      assert.equal(status, 0, `create ${id}: ${existsSync(log) ? read(log) : ''} ${read(join(bundle, 'output'))}`);
    } finally {
      closeSync(output);
    }
    const { pid } = this.#state(id);
    this.call(['start', id]);
    return { id, pid, spec };
  }

  #state(id: string): { status: string; pid: number } {
    return JSON.parse(this.call(['state', id]));
  }
}

/** crun refuses the hybrid of cgroup v1 and v2; there it runs in a mount namespace that has v1 alone. */
function commandOf(binary: string, host: HostFacts): string[] {
  if (basename(binary) !== 'crun' || host.cgroupVersion === 2 || !existsSync('/sys/fs/cgroup/unified')) return [binary];
  const unified = '/sys/fs/cgroup/unified';
  // crun makes folders there all the same, which would stay: they go with the tmpfs.
  const hide = `mount --make-rprivate /sys/fs/cgroup && umount ${unified} && mount -t tmpfs oci ${unified} && exec "$@"`;
  return ['unshare', '--mount', '--propagation', 'unchanged', 'sh', '-c', hide, 'sh', binary];
}

function container(
  name: string,
  command: string[],
  context: Partial<LinuxContainerSecurityContext> = {},
): ContainerConfig {
  return cri.containerWith(context, { metadata: { name, attempt: 0 }, command });
}

function shell(script: string): ContainerConfig {
  return container('shell', ['/bin/sh', '-c', script]);
}

function withContext(config: ContainerConfig, over: Partial<LinuxContainerSecurityContext>): ContainerConfig {
  return { ...config, linux: { resources: undefined, securityContext: containerSecurity(over) } };
}

async function until(done: () => boolean): Promise<void> {
  for (const end = performance.now() + 10_000; !done(); await sleep(15)) {
    assert.ok(performance.now() < end, 'took longer than 10 s');
  }
}

function read(path: string): string {
  return readFileSync(path, 'utf8');
}

function isStatic(path: string): boolean {
  try {
    accessSync(path);
  } catch {
    return false;
  }
  return spawnSync(path, ['true']).status === 0;
}

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { NamespaceMode, SecurityProfile_ProfileType as Profile } from '../../proto/gen/cri.ts';
import { buildSandboxSpec } from '../../src/node/oci/sandbox.ts';
import { namespaces, resources } from '../rig/messages.ts';
import { HOST, pod, podLinux, podWith, sandboxInput, userns } from './oci-fixtures.ts';

const NODE = NamespaceMode.NODE;
const DEFAULT_CAPS = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FSETID',
  'CAP_FOWNER',
  'CAP_MKNOD',
  'CAP_NET_RAW',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETFCAP',
  'CAP_SETPCAP',
  'CAP_NET_BIND_SERVICE',
  'CAP_SYS_CHROOT',
  'CAP_KILL',
  'CAP_AUDIT_WRITE',
];

describe('the spec of a pause container', () => {
  test('the whole spec of a minimal pod', () => {
    const spec = buildSandboxSpec(sandboxInput({ openFiles: { soft: 1024, hard: 524288 } }));
    assert.deepEqual(spec, {
      ociVersion: '1.0.2',
      process: {
        terminal: false,
        user: { uid: 65535, gid: 65535, additionalGids: [65535] },
        args: ['/pause'],
        env: ['A=b'],
        cwd: '/',
        capabilities: {
          bounding: DEFAULT_CAPS,
          effective: DEFAULT_CAPS,
          permitted: DEFAULT_CAPS,
          inheritable: [],
          ambient: [],
        },
        noNewPrivileges: true,
        oomScoreAdj: -998,
        rlimits: [{ type: 'RLIMIT_NOFILE', soft: 1024, hard: 524288 }],
      },
      root: { path: 'rootfs', readonly: true },
      hostname: 'web-0',
      mounts: [
        { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
        {
          destination: '/dev',
          type: 'tmpfs',
          source: 'tmpfs',
          options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
        },
        {
          destination: '/dev/pts',
          type: 'devpts',
          source: 'devpts',
          options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
        },
        { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
        { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
        {
          destination: '/dev/shm',
          type: 'bind',
          source: '/run/sluice/sandboxes/sb1/shm',
          options: ['rbind', 'ro', 'nosuid', 'nodev', 'noexec'],
        },
        {
          destination: '/etc/resolv.conf',
          type: 'bind',
          source: '/var/lib/sluice/sandboxes/sb1/resolv.conf',
          options: ['rbind', 'ro', 'nosuid', 'nodev', 'noexec'],
        },
      ],
      annotations: {
        'io.kubernetes.cri.container-type': 'sandbox',
        'io.kubernetes.cri.sandbox-id': 'sb1',
        'io.kubernetes.cri.sandbox-name': 'web',
        'io.kubernetes.cri.sandbox-namespace': 'shop',
        'io.kubernetes.cri.sandbox-uid': 'u-1',
        'io.kubernetes.cri.sandbox-log-directory': '/var/log/pods/web',
        'io.kubernetes.cri.podsandbox.image-name': 'registry.k8s.io/pause:3.10',
      },
      linux: {
        resources: { devices: [{ allow: false, access: 'rwm' }], cpu: { shares: 2 } },
        cgroupsPath: 'kubepods-pod1.slice:sluice:sb1',
        namespaces: [
          { type: 'mount' },
          { type: 'pid' },
          { type: 'ipc' },
          { type: 'uts' },
          { type: 'network', path: '/run/netns/cni-1' },
        ],
        sysctl: { 'net.ipv4.ip_unprivileged_port_start': '0', 'net.ipv4.ping_group_range': '0 2147483647' },
        maskedPaths: [
          '/proc/acpi',
          '/proc/asound',
          '/proc/kcore',
          '/proc/keys',
          '/proc/latency_stats',
          '/proc/timer_list',
          '/proc/timer_stats',
          '/proc/sched_debug',
          '/proc/scsi',
          '/sys/firmware',
          '/sys/devices/virtual/powercap',
        ],
        readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
      },
    });
  });

  test('host network: no network and UTS namespace, no host name, no sysctls of its own', () => {
    const config = podWith({ namespaceOptions: namespaces({ network: NODE }) });
    const spec = buildSandboxSpec(sandboxInput({ config, netns: '' }));
    assert.deepEqual(spec.linux.namespaces, [{ type: 'mount' }, { type: 'pid' }, { type: 'ipc' }]);
    assert.equal(spec.hostname, undefined);
    assert.deepEqual(spec.linux.sysctl, {});
  });

  test('host pid and host IPC', () => {
    const config = podWith({ namespaceOptions: namespaces({ pid: NODE, ipc: NODE }) });
    const types = buildSandboxSpec(sandboxInput({ config })).linux.namespaces.map(({ type }) => type);
    assert.deepEqual(types, ['mount', 'uts', 'network']);
  });

  test('a user namespace: pinned or new, mapped, without ping_group_range', () => {
    const config = podWith({ namespaceOptions: namespaces(userns(200000, 65536)) });
    const mapping = [{ containerID: 0, hostID: 200000, size: 65536 }];
    const pinned = buildSandboxSpec(sandboxInput({ config, userns: '/run/userns/sb1' }));
    assert.deepEqual(pinned.linux.namespaces.at(-1), { type: 'user', path: '/run/userns/sb1' });
    assert.deepEqual([pinned.linux.uidMappings, pinned.linux.gidMappings], [mapping, mapping]);
    assert.deepEqual(pinned.linux.sysctl, { 'net.ipv4.ip_unprivileged_port_start': '0' });
    assert.deepEqual(buildSandboxSpec(sandboxInput({ config })).linux.namespaces.at(-1), { type: 'user' });
    assert.equal(pinned.mounts.find(({ destination }) => destination === '/sys')?.type, 'sysfs');
  });

  test('a user namespace on the host network cannot mount sysfs and gets the host’s /sys, read-only', () => {
    const config = podWith({ namespaceOptions: namespaces({ network: NODE, ...userns() }) });
    const sys = (recursiveReadOnly: boolean) =>
      buildSandboxSpec(sandboxInput({ config, features: { recursiveReadOnly, idmap: true } })).mounts.filter(
        ({ destination }) => destination === '/sys',
      );
    const options = ['nosuid', 'nodev', 'noexec'];
    assert.deepEqual(sys(true), [
      { destination: '/sys', type: 'bind', source: '/sys', options: ['rbind', 'rro', ...options] },
    ]);
    assert.deepEqual(sys(false), [
      { destination: '/sys', type: 'bind', source: '/sys', options: ['rbind', 'ro', ...options] },
    ]);
  });

  test('devpts has no gid option in a user namespace without group 5', () => {
    const config = podWith({ namespaceOptions: namespaces(userns(200000, 5)) });
    const pts = buildSandboxSpec(sandboxInput({ config })).mounts.find(({ destination }) => destination === '/dev/pts');
    assert.deepEqual(pts?.options, ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620']);
  });

  test('privileged: /sys is writable, nothing is masked, no seccomp, no labels', () => {
    const seccomp = { profileType: Profile.RuntimeDefault, localhostRef: '' };
    const spec = buildSandboxSpec(
      sandboxInput({
        config: podWith({ privileged: true, seccomp }),
        selinux: { process: 'p', mount: 'm' },
        host: { ...HOST, selinux: true },
      }),
    );
    assert.deepEqual(spec.mounts.find(({ destination }) => destination === '/sys')?.options, [
      'nosuid',
      'noexec',
      'nodev',
      'rw',
    ]);
    assert.deepEqual([spec.linux.maskedPaths, spec.linux.readonlyPaths], [[], []]);
    assert.equal(spec.linux.seccomp, undefined);
    assert.equal(spec.process.selinuxLabel, undefined);
  });

  test('seccomp: RuntimeDefault, the deprecated field, unconfined by default', () => {
    const given = (context: Parameters<typeof podWith>[0]) =>
      buildSandboxSpec(sandboxInput({ config: podWith(context) })).linux.seccomp?.defaultAction;
    assert.equal(given({}), undefined);
    assert.equal(given({ seccomp: { profileType: Profile.RuntimeDefault, localhostRef: '' } }), 'SCMP_ACT_ERRNO');
    assert.equal(given({ seccompProfilePath: 'runtime/default' }), 'SCMP_ACT_ERRNO');
    assert.equal(given({ seccompProfilePath: 'unconfined' }), undefined);
  });

  test('labels, unless the pod shares pids or IPC with the host', () => {
    const labels = {
      process: 'system_u:system_r:container_t:s0:c1',
      mount: 'system_u:object_r:container_file_t:s0:c1',
    };
    const input = { selinux: labels, host: { ...HOST, selinux: true } };
    const spec = buildSandboxSpec(sandboxInput(input));
    assert.deepEqual([spec.process.selinuxLabel, spec.linux.mountLabel], [labels.process, labels.mount]);
    const shared = podWith({ namespaceOptions: namespaces({ ipc: NODE }) });
    assert.equal(buildSandboxSpec(sandboxInput({ ...input, config: shared })).process.selinuxLabel, undefined);
    assert.equal(buildSandboxSpec(sandboxInput({ ...input, host: HOST })).process.selinuxLabel, undefined);
  });

  test('oom_score_adj is not below the lowest that the host allows', () => {
    const spec = buildSandboxSpec(sandboxInput({ host: { ...HOST, lowestOomScoreAdj: -500 } }));
    assert.equal(spec.process.oomScoreAdj, -500);
  });

  test('capabilities are limited to those of the daemon', () => {
    const spec = buildSandboxSpec(sandboxInput({ host: { ...HOST, capabilities: ['CAP_KILL', 'CAP_SYS_ADMIN'] } }));
    assert.deepEqual(spec.process.capabilities.bounding, ['CAP_KILL']);
  });

  test('annotations: resources, and those that match the patterns; they cannot replace Sluice’s', () => {
    const annotations = {
      'io.katacontainers.x': '1',
      'io.katacontainers.config/y': '2',
      other: '3',
      'io.kubernetes.cri.sandbox-id': 'forged',
    };
    const limits = resources({ cpuPeriod: 100000n, cpuQuota: -1n, cpuShares: 2n, memoryLimitInBytes: 1n << 30n });
    const config = pod({ annotations, linux: podLinux({ resources: limits }) });
    const passed = buildSandboxSpec(
      sandboxInput({ config, podAnnotations: ['io.kata*', 'io.kubernetes.cri.*'] }),
    ).annotations;
    assert.equal(passed['io.katacontainers.x'], '1');
    assert.equal(passed['io.katacontainers.config/y'], undefined);
    assert.equal(passed.other, undefined);
    assert.equal(passed['io.kubernetes.cri.sandbox-id'], 'sb1');
    assert.equal(passed['io.kubernetes.cri.sandbox-cpu-period'], '100000');
    assert.equal(passed['io.kubernetes.cri.sandbox-cpu-quota'], '-1');
    assert.equal(passed['io.kubernetes.cri.sandbox-cpu-shares'], '2');
    assert.equal(passed['io.kubernetes.cri.sandbox-memory'], '1073741824');
  });

  test('sysctls: those of the request win; those of the host are refused by name', () => {
    const sysctl = (sysctls: Record<string, string>, options = namespaces()) =>
      buildSandboxSpec(sandboxInput({ config: podWith({ namespaceOptions: options }, { sysctls }) })).linux.sysctl;
    assert.deepEqual(sysctl({ 'net.ipv4.ip_unprivileged_port_start': '1024', 'kernel.shm_rmid_forced': '1' }), {
      'net.ipv4.ip_unprivileged_port_start': '1024',
      'net.ipv4.ping_group_range': '0 2147483647',
      'kernel.shm_rmid_forced': '1',
    });
    assert.equal(sysctl({ 'fs.mqueue.msg_max': '20' })?.['fs.mqueue.msg_max'], '20');
    assert.equal(sysctl({ 'net/ipv4/conf/eth0.1/forwarding': '1' })?.['net.ipv4.conf.eth0/1.forwarding'], '1');
    const refused = (message: RegExp) => ({ code: 'INVALID_REQUEST', message });
    assert.throws(() => sysctl({ 'vm.swappiness': '1' }), refused(/"vm\.swappiness" is not a namespaced sysctl/));
    assert.throws(() => sysctl({ 'kernel.hostname': 'x' }), refused(/"kernel\.hostname" is not/));
    assert.throws(
      () => sysctl({ 'kernel.sem': '1' }, namespaces({ ipc: NODE })),
      refused(/"kernel\.sem" belongs to the IPC/),
    );
    assert.throws(
      () => sysctl({ 'net.core.somaxconn': '1' }, namespaces({ network: NODE })),
      refused(/"net\.core\.somaxconn" belongs to the network namespace, which this pod shares/),
    );
    assert.throws(
      () => sysctl({ 'kernel.domainname': 'x' }, namespaces({ network: NODE })),
      refused(/"kernel\.domainname" belongs to the UTS/),
    );
  });

  test('cgroupfs takes a path', () => {
    const host = { ...HOST, cgroupDriver: 'cgroupfs' as const };
    const config = pod({ linux: podLinux({ cgroupParent: '/kubepods/pod1' }) });
    assert.equal(buildSandboxSpec(sandboxInput({ config, host })).linux.cgroupsPath, '/kubepods/pod1/sb1');
  });

  test('an image without a command is refused', () => {
    const image = { reference: 'pause', config: {} };
    assert.throws(() => buildSandboxSpec(sandboxInput({ image })), { code: 'IMAGE_INVALID', message: /pause/ });
  });
});

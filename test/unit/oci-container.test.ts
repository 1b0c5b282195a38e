import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type LinuxContainerSecurityContext,
  NamespaceMode,
  SecurityProfile_ProfileType as Profile,
} from '../../proto/gen/cri.ts';
import { CAPABILITIES, DEFAULT_CAPABILITIES } from '../../src/node/oci/capabilities.ts';
import { buildContainerSpec, type ContainerSpecInput } from '../../src/node/oci/container.ts';
import { buildExecProcess } from '../../src/node/oci/exec-process.ts';
import type { Spec } from '../../src/node/oci/types.ts';
import { namespaces, resources } from '../rig/messages.ts';
import {
  container,
  containerInput,
  containerWith,
  HOST,
  HOST_DEVICES,
  pod,
  podLinux,
  podWith,
  userns,
} from './oci-fixtures.ts';

const { CONTAINER, NODE, POD, TARGET } = NamespaceMode;
const V1 = { ...HOST, cgroupVersion: 1 as const, cgroupDriver: 'cgroupfs' as const, cgroupMountOptions: [] };

function build(over: Partial<ContainerSpecInput> = {}): Spec {
  return buildContainerSpec(containerInput(over));
}

function withContext(over: Partial<LinuxContainerSecurityContext>, input: Partial<ContainerSpecInput> = {}): Spec {
  return build({ config: containerWith(over), ...input });
}

function inPod(config: ReturnType<typeof pod>): Pick<ContainerSpecInput, 'sandbox'> {
  return { sandbox: { ...containerInput().sandbox, config } };
}

const PRIVILEGED_POD = inPod(podWith({ privileged: true }));

describe('the spec of a container', () => {
  test('the whole spec of a minimal container', () => {
    const spec = build();
    assert.deepEqual(spec, {
      ociVersion: '1.0.2',
      process: {
        terminal: false,
        user: { uid: 0, gid: 0, additionalGids: [0] },
        args: ['/bin/app'],
        env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOSTNAME=web-0'],
        cwd: '/',
        capabilities: {
          bounding: DEFAULT_CAPABILITIES,
          effective: DEFAULT_CAPABILITIES,
          permitted: DEFAULT_CAPABILITIES,
          inheritable: [],
          ambient: [],
        },
        noNewPrivileges: false,
        oomScoreAdj: 0,
        apparmorProfile: 'sluice-default',
      },
      root: { path: 'rootfs', readonly: false },
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
          destination: '/sys/fs/cgroup',
          type: 'cgroup',
          source: 'cgroup',
          options: ['nosuid', 'noexec', 'nodev', 'relatime', 'ro'],
        },
        { destination: '/etc/hostname', type: 'bind', source: '/sb/hostname', options: ['rbind', 'rprivate', 'rw'] },
        { destination: '/etc/hosts', type: 'bind', source: '/sb/hosts', options: ['rbind', 'rprivate', 'rw'] },
        {
          destination: '/etc/resolv.conf',
          type: 'bind',
          source: '/sb/resolv.conf',
          options: ['rbind', 'rprivate', 'rw'],
        },
        { destination: '/dev/shm', type: 'bind', source: '/sb/shm', options: ['rbind', 'rprivate', 'rw'] },
      ],
      annotations: {
        'io.kubernetes.cri.container-type': 'container',
        'io.kubernetes.cri.sandbox-id': 'sb1',
        'io.kubernetes.cri.sandbox-name': 'web',
        'io.kubernetes.cri.sandbox-namespace': 'shop',
        'io.kubernetes.cri.sandbox-uid': 'u-1',
        'io.kubernetes.cri.container-name': 'app',
        'io.kubernetes.cri.image-name': 'nginx:1',
      },
      linux: {
        resources: { devices: [{ allow: false, access: 'rwm' }] },
        cgroupsPath: 'kubepods-pod1.slice:sluice:c1',
        namespaces: [
          { type: 'mount' },
          { type: 'network', path: '/run/netns/cni-1' },
          { type: 'ipc', path: '/proc/4711/ns/ipc' },
          { type: 'uts', path: '/proc/4711/ns/uts' },
          { type: 'pid', path: '/proc/4711/ns/pid' },
          { type: 'cgroup' },
        ],
        maskedPaths: [],
        readonlyPaths: [],
      },
    });
  });

  test('command, arguments, entrypoint, Cmd', () => {
    const image = { Entrypoint: ['/entry', '-e'], Cmd: ['cmd'] };
    const args = (command: string[], given: string[], config: ContainerSpecInput['image']['config'] = image) =>
      build({ config: container({ command, args: given }), image: { reference: 'x', config } }).process.args;
    assert.deepEqual(args([], []), ['/entry', '-e', 'cmd']);
    assert.deepEqual(args([], ['a']), ['/entry', '-e', 'a']);
    assert.deepEqual(args(['c'], []), ['c']);
    assert.deepEqual(args(['c'], ['a']), ['c', 'a']);
    assert.deepEqual(args([], [], { Entrypoint: [''], Cmd: ['only'] }), ['only']);
    assert.deepEqual(args([], [], { Entrypoint: null, Cmd: ['only'] }), ['only']);
    assert.throws(() => args([], [], {}), { code: 'INVALID_REQUEST', message: /^no command specified/ });
    assert.throws(() => args(['a\0b'], []), { code: 'INVALID_REQUEST', message: /NUL/ });
  });

  test('environment: a later value replaces an earlier one of the same name', () => {
    const envs = [
      { key: 'B', value: Buffer.from('from pod') },
      { key: 'EMPTY', value: Buffer.alloc(0) },
      { key: 'PATH', value: Buffer.from('/opt') },
    ];
    const image = { reference: 'x', config: { Env: ['A=1=2', 'B=image', 'HOSTNAME', 'TERM=vt100'] } };
    const spec = build({ config: container({ envs, tty: true }), image });
    assert.deepEqual(spec.process.env, ['PATH=/opt', 'TERM=vt100', 'A=1=2', 'B=from pod', 'EMPTY=']);
    assert.equal(spec.process.terminal, true);
    const bad = container({ envs: [{ key: 'X', value: Buffer.from('a\0') }] });
    assert.throws(() => build({ config: bad }), { code: 'INVALID_REQUEST', message: /envs: X: contains a NUL/ });
  });

  test('environment from the store, where a Buffer has become plain data', () => {
    const stored = JSON.parse(JSON.stringify({ key: 'X', value: Buffer.from('ü') }));
    assert.ok(build({ config: container({ envs: [stored] }) }).process.env.includes('X=ü'));
  });

  test('HOSTNAME is the node’s in a pod without a host name', () => {
    assert.ok(build(inPod(pod({ hostname: '' }))).process.env.includes('HOSTNAME=node-1'));
  });

  test('working directory: the request’s, the image’s, the root', () => {
    const image = { reference: 'x', config: { WorkingDir: '/srv' } };
    assert.equal(build({ config: container({ workingDir: '/w' }), image }).process.cwd, '/w');
    assert.equal(build({ image }).process.cwd, '/srv');
  });

  test('user, no_new_privs, read-only root, files limit', () => {
    const user = { uid: 7, gid: 8, additionalGids: [8, 9] };
    const spec = withContext({ noNewPrivs: true, readonlyRootfs: true }, { user, openFiles: { soft: 10, hard: 20 } });
    assert.deepEqual(spec.process.user, user);
    assert.equal(spec.process.noNewPrivileges, true);
    assert.equal(spec.root.readonly, true);
    assert.deepEqual(spec.process.rlimits, [{ type: 'RLIMIT_NOFILE', soft: 10, hard: 20 }]);
    assert.deepEqual(spec.mounts.find(({ destination }) => destination === '/etc/hosts')?.options, [
      'rbind',
      'rprivate',
      'ro',
    ]);
    assert.deepEqual(spec.mounts.find(({ destination }) => destination === '/dev/shm')?.options, [
      'rbind',
      'rprivate',
      'rw',
    ]);
  });

  test('masked and read-only paths are those of the request', () => {
    const spec = withContext({ maskedPaths: ['/proc/kcore'], readonlyPaths: ['/proc/sys'] });
    assert.deepEqual([spec.linux.maskedPaths, spec.linux.readonlyPaths], [['/proc/kcore'], ['/proc/sys']]);
  });
});

describe('capabilities of a container', () => {
  const caps = (addCapabilities: string[], dropCapabilities: string[], addAmbientCapabilities: string[] = []) =>
    withContext({ capabilities: { addCapabilities, dropCapabilities, addAmbientCapabilities } }).process.capabilities;
  const without = (...names: string[]) => DEFAULT_CAPABILITIES.filter((name) => !names.includes(name));

  test('adds and drops, in any spelling', () => {
    assert.deepEqual(caps(['net_admin'], []).bounding, [...DEFAULT_CAPABILITIES, 'CAP_NET_ADMIN']);
    assert.deepEqual(caps(['CAP_NET_ADMIN'], ['CHOWN', 'Cap_Kill']).effective, [
      ...without('CAP_CHOWN', 'CAP_KILL'),
      'CAP_NET_ADMIN',
    ]);
    assert.deepEqual(caps(['CHOWN'], ['CHOWN']).permitted, without('CAP_CHOWN'));
  });

  test('ALL applies before single names', () => {
    assert.deepEqual(caps(['SYS_TIME'], ['ALL']).bounding, ['CAP_SYS_TIME']);
    assert.deepEqual(
      caps(['all'], ['SYS_TIME']).bounding,
      CAPABILITIES.filter((name) => name !== 'CAP_SYS_TIME'),
    );
    assert.deepEqual(caps(['ALL'], ['ALL']).bounding, []);
    assert.deepEqual(caps([], ['ALL']), { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] });
  });

  test('ambient capabilities are in all sets', () => {
    const list = ['CAP_NET_BIND_SERVICE'];
    assert.deepEqual(caps([], ['ALL'], ['NET_BIND_SERVICE']), {
      bounding: list,
      effective: list,
      permitted: list,
      inheritable: list,
      ambient: list,
    });
    assert.deepEqual(caps([], ['KILL'], ['KILL']).ambient, []);
  });

  test('refuses unknown names and capabilities that the daemon does not have', () => {
    assert.throws(() => caps([], ['NET_RAWW']), {
      code: 'INVALID_REQUEST',
      message: /drop_capabilities: unknown "NET_RAWW"/,
    });
    assert.throws(() => caps(['FLY'], []), { code: 'INVALID_REQUEST', message: /add_capabilities: unknown "FLY"/ });
    assert.throws(() => caps([], [], ['ALL']), { code: 'INVALID_REQUEST' });
    const poor = { ...HOST, capabilities: HOST.capabilities.filter((name) => name !== 'CAP_SYS_TIME') };
    const capabilities = { addCapabilities: ['SYS_TIME'], dropCapabilities: [], addAmbientCapabilities: [] };
    const config = containerWith({ capabilities });
    assert.throws(() => build({ config, host: poor }), {
      code: 'INVALID_REQUEST',
      message: /CAP_SYS_TIME cannot be added/,
    });
    const options = namespaces(userns());
    const mapped = inPod(podWith({ namespaceOptions: options }));
    const inUserns = containerWith({ capabilities, namespaceOptions: options });
    const spec = build({ config: inUserns, host: poor, ...mapped });
    assert.ok(spec.process.capabilities.bounding.includes('CAP_SYS_TIME'));
  });
});

describe('a privileged container', () => {
  test('has all capabilities of the daemon, all devices, and no confinement', () => {
    const spec = withContext(
      {
        privileged: true,
        maskedPaths: ['/proc/kcore'],
        readonlyPaths: ['/proc/sys'],
        seccomp: { profileType: Profile.RuntimeDefault, localhostRef: '' },
        apparmor: { profileType: Profile.RuntimeDefault, localhostRef: '' },
        capabilities: { addCapabilities: [], dropCapabilities: ['ALL'], addAmbientCapabilities: [] },
      },
      { ...PRIVILEGED_POD, host: { ...HOST, selinux: true }, selinux: { process: 'p', mount: 'm' } },
    );
    assert.deepEqual(spec.process.capabilities.bounding, CAPABILITIES);
    assert.deepEqual([spec.linux.maskedPaths, spec.linux.readonlyPaths], [[], []]);
    assert.equal(spec.linux.seccomp, undefined);
    assert.equal(spec.process.apparmorProfile, undefined);
    assert.equal(spec.process.selinuxLabel, undefined);
    assert.deepEqual(spec.linux.resources.devices, [{ allow: true, access: 'rwm' }]);
    assert.deepEqual(spec.linux.devices, HOST_DEVICES);
    assert.deepEqual(spec.mounts.find(({ destination }) => destination === '/sys')?.options, [
      'nosuid',
      'noexec',
      'nodev',
      'rw',
    ]);
    // No cgroup namespace: the host's superblock, whose options must be repeated.
    assert.deepEqual(spec.mounts.find(({ destination }) => destination === '/sys/fs/cgroup')?.options, [
      'nosuid',
      'noexec',
      'nodev',
      'relatime',
      'rw',
      'nsdelegate',
    ]);
    assert.ok(!spec.linux.namespaces.some(({ type }) => type === 'cgroup'));
  });

  test('needs a privileged pod', () => {
    assert.throws(() => withContext({ privileged: true }), {
      code: 'INVALID_REQUEST',
      message: /no privileged container allowed/,
    });
  });

  test('gets no host devices with privileged_without_host_devices', () => {
    const runtime = { ...containerInput().runtime, privilegedWithoutHostDevices: true };
    const spec = withContext({ privileged: true }, { ...PRIVILEGED_POD, runtime });
    assert.equal(spec.linux.devices, undefined);
    assert.deepEqual(spec.linux.resources.devices, [{ allow: false, access: 'rwm' }]);
  });

  test('keeps the AppArmor profile of its request', () => {
    const apparmor = { profileType: Profile.Localhost, localhostRef: 'mine' };
    const spec = withContext({ privileged: true, apparmor }, { ...PRIVILEGED_POD, appArmorProfiles: ['mine'] });
    assert.equal(spec.process.apparmorProfile, 'mine');
  });
});

describe('namespaces of a container', () => {
  const types = (spec: Spec) => spec.linux.namespaces.filter(({ type }) => type !== 'mount' && type !== 'cgroup');
  const ofPid = (spec: Spec) => spec.linux.namespaces.find(({ type }) => type === 'pid');

  test('pid modes', () => {
    const withPid = (pid: NamespaceMode, over: Partial<ContainerSpecInput> = {}) =>
      ofPid(withContext({ namespaceOptions: namespaces({ pid, targetId: 'other' }) }, over));
    assert.deepEqual(withPid(CONTAINER), { type: 'pid' });
    assert.deepEqual(withPid(POD), { type: 'pid', path: '/proc/4711/ns/pid' });
    assert.deepEqual(withPid(NODE), { type: 'pid', path: '/proc/4711/ns/pid' });
    assert.deepEqual(withPid(TARGET, { targetPid: 99 }), { type: 'pid', path: '/proc/99/ns/pid' });
    assert.throws(() => withPid(TARGET), { code: 'INVALID_REQUEST', message: /target_id: container "other"/ });
  });

  test('a pod in host namespaces: shared namespaces are omitted', () => {
    const options = namespaces({ network: NODE, pid: NODE, ipc: NODE });
    const host = inPod(podWith({ namespaceOptions: options }));
    const spec = withContext({ namespaceOptions: options }, { ...host });
    assert.deepEqual(types(spec), []);
    const own = withContext({ namespaceOptions: { ...options, pid: CONTAINER } }, { ...host });
    assert.deepEqual(types(own), [{ type: 'pid' }]);
  });

  test('without a pinned network namespace: the pause process’s', () => {
    const sandbox = { ...containerInput().sandbox, netns: '' };
    assert.deepEqual(types(build({ sandbox }))[0], { type: 'network', path: '/proc/4711/ns/net' });
  });

  test('cgroup v1 has no cgroup namespace and no superblock options', () => {
    const config = pod({ linux: podLinux({ cgroupParent: '/kubepods/pod1' }) });
    const spec = build({ host: V1, ...inPod(config) });
    assert.ok(!spec.linux.namespaces.some(({ type }) => type === 'cgroup'));
    assert.equal(spec.linux.cgroupsPath, '/kubepods/pod1/c1');
  });

  test('the user namespace of the container must equal the pod’s', () => {
    const options = namespaces(userns(300000));
    const mapped = inPod(podWith({ namespaceOptions: options }));
    const spec = withContext({ namespaceOptions: options }, { ...mapped });
    assert.deepEqual(types(spec)[3], { type: 'user', path: '/proc/4711/ns/user' });
    const mapping = [{ containerID: 0, hostID: 300000, size: 65536 }];
    assert.deepEqual(spec.linux.uidMappings, mapping);
    const hosts = spec.mounts.find(({ destination }) => destination === '/etc/hosts');
    assert.deepEqual([hosts?.uidMappings, hosts?.gidMappings], [mapping, mapping]);
    assert.equal(spec.mounts.find(({ destination }) => destination === '/dev/shm')?.uidMappings, undefined);

    const pinned = { sandbox: { ...mapped.sandbox, userns: '/run/userns/sb1' } };
    assert.deepEqual(types(withContext({ namespaceOptions: options }, pinned))[3], {
      type: 'user',
      path: '/run/userns/sb1',
    });

    const runtime = { ...containerInput().runtime, features: { recursiveReadOnly: true, idmap: false } };
    const plain = withContext({ namespaceOptions: options }, { ...mapped, runtime });
    assert.equal(plain.mounts.find(({ destination }) => destination === '/etc/hosts')?.uidMappings, undefined);

    const differs = { code: 'INVALID_REQUEST', message: /differs from the pod's/ };
    assert.throws(() => withContext({}, { ...mapped }), differs);
    assert.throws(() => withContext({ namespaceOptions: options }), differs);
    assert.throws(() => withContext({ namespaceOptions: namespaces(userns(400000)) }, { ...mapped }), differs);
  });

  test('a user namespace on the host network: the host’s /sys', () => {
    const options = namespaces({ network: NODE, ...userns() });
    const spec = withContext({ namespaceOptions: options }, inPod(podWith({ namespaceOptions: options })));
    assert.deepEqual(
      spec.mounts.find(({ destination }) => destination === '/sys'),
      {
        destination: '/sys',
        type: 'bind',
        source: '/sys',
        options: ['rbind', 'rro', 'nosuid', 'nodev', 'noexec'],
      },
    );
  });
});

describe('confinement of a container', () => {
  const apparmor = (over: Partial<LinuxContainerSecurityContext>, input: Partial<ContainerSpecInput> = {}) =>
    withContext(over, input).process.apparmorProfile;

  test('AppArmor: both fields, all kinds', () => {
    const localhost = { apparmor: { profileType: Profile.Localhost, localhostRef: 'mine' } };
    assert.equal(apparmor({ apparmor: { profileType: Profile.RuntimeDefault, localhostRef: '' } }), 'sluice-default');
    assert.equal(apparmor({ apparmor: { profileType: Profile.Unconfined, localhostRef: '' } }), undefined);
    assert.equal(apparmor(localhost, { appArmorProfiles: ['other', 'mine'] }), 'mine');
    assert.equal(apparmor({ apparmorProfile: 'localhost/mine' }, { appArmorProfiles: ['mine'] }), 'mine');
    assert.equal(apparmor({ apparmorProfile: 'unconfined' }), undefined);
    assert.equal(apparmor({ apparmorProfile: 'runtime/default' }), 'sluice-default');
    assert.throws(() => apparmor(localhost), { code: 'INVALID_REQUEST', message: /profile "mine" is not loaded/ });
    assert.throws(() => apparmor({ apparmorProfile: 'what' }), {
      code: 'INVALID_REQUEST',
      message: /apparmor_profile: unknown profile "what"/,
    });
    assert.throws(() => apparmor({ apparmor: { profileType: Profile.Unconfined, localhostRef: 'x' } }), {
      code: 'INVALID_REQUEST',
    });
  });

  test('AppArmor on a host without it', () => {
    const host = { ...HOST, apparmor: false };
    assert.equal(apparmor({}, { host }), undefined);
    assert.equal(apparmor({ apparmor: { profileType: Profile.Unconfined, localhostRef: '' } }, { host }), undefined);
    assert.throws(() => apparmor({ apparmor: { profileType: Profile.RuntimeDefault, localhostRef: '' } }, { host }), {
      code: 'INVALID_REQUEST',
      message: /not supported on this host/,
    });
  });

  test('seccomp: the default profile allows more with capabilities', () => {
    const seccomp = { profileType: Profile.RuntimeDefault, localhostRef: '' };
    const allows = (spec: Spec, name: string) =>
      spec.linux.seccomp?.syscalls?.some(
        (rule) => rule.action === 'SCMP_ACT_ALLOW' && rule.args === undefined && rule.names.includes(name),
      );
    assert.equal(allows(withContext({ seccomp }), 'mount'), false);
    const capabilities = { addCapabilities: ['SYS_ADMIN'], dropCapabilities: [], addAmbientCapabilities: [] };
    assert.equal(allows(withContext({ seccomp, capabilities }), 'mount'), true);
    assert.equal(withContext({}).linux.seccomp, undefined);
    const localhost = { profileType: Profile.Localhost, localhostRef: '/p.json' };
    const profile = { defaultAction: 'SCMP_ACT_ALLOW' };
    assert.deepEqual(withContext({ seccomp: localhost }, { seccomp: profile }).linux.seccomp, profile);
    assert.throws(() => withContext({ seccomp: localhost }), {
      code: 'INVALID_REQUEST',
      message: /"\/p\.json" could not be read/,
    });
    assert.throws(() => withContext({ seccomp }, { host: { ...HOST, seccomp: false } }), {
      code: 'INVALID_REQUEST',
      message: /no seccomp/,
    });
  });

  test('SELinux labels', () => {
    const spec = build({ host: { ...HOST, selinux: true }, selinux: { process: 'p', mount: 'm' } });
    assert.deepEqual([spec.process.selinuxLabel, spec.linux.mountLabel], ['p', 'm']);
  });
});

describe('limits, devices, annotations of a container', () => {
  test('limits of the request; oom_score_adj not below the host’s lowest', () => {
    const config = container({
      linux: { resources: resources({ cpuShares: 512n, oomScoreAdj: -999n }), securityContext: undefined },
    });
    const spec = build({ config, host: { ...HOST, lowestOomScoreAdj: -500 } });
    assert.deepEqual(spec.linux.resources, { devices: [{ allow: false, access: 'rwm' }], cpu: { shares: 512 } });
    assert.equal(spec.process.oomScoreAdj, -500);
  });

  test('devices: the node and the rule', () => {
    const device = { path: '/dev/x', type: 'b' as const, major: 8, minor: 1, fileMode: 0o660, uid: 0, gid: 6 };
    const spec = build({ devices: [{ ...device, permissions: 'rw' }] });
    assert.deepEqual(spec.linux.devices, [device]);
    assert.deepEqual(spec.linux.resources.devices, [
      { allow: false, access: 'rwm' },
      { allow: true, type: 'b', major: 8, minor: 1, access: 'rw' },
    ]);
    const override = { ...device, path: '/dev/fuse', permissions: 'r' };
    const privileged = withContext({ privileged: true }, { ...PRIVILEGED_POD, devices: [override] });
    assert.deepEqual(
      privileged.linux.devices?.map(({ path, minor }) => [path, minor]),
      [
        ['/dev/null', 3],
        ['/dev/fuse', 1],
      ],
    );
  });

  test('annotations of pod and container by their patterns; the image as the user wrote it, else its reference', () => {
    const runtime = { ...containerInput().runtime, podAnnotations: ['pod.*'], containerAnnotations: ['ctr.?'] };
    const config = container({
      annotations: { 'ctr.a': '1', 'ctr.ab': '2', 'pod.x': 'not here' },
      image: { image: 'sha256:abc', userSpecifiedImage: '', annotations: {}, runtimeHandler: '', imageRef: '' },
    });
    const { annotations } = build({
      config,
      runtime,
      ...inPod(pod({ annotations: { 'pod.x': '3', 'ctr.a': 'not here' } })),
    });
    assert.equal(annotations['ctr.a'], '1');
    assert.equal(annotations['ctr.ab'], undefined);
    assert.equal(annotations['pod.x'], '3');
    assert.equal(annotations['io.kubernetes.cri.image-name'], 'docker.io/library/nginx@sha256:abc');
  });

  test('CDI edits are applied last', () => {
    const cdi = {
      env: ['GPU=0', 'PATH=/gpu'],
      devices: [{ path: '/dev/gpu', type: 'c' as const, major: 195, minor: 0, permissions: 'rw' }],
      mounts: [
        { destination: '/etc', type: 'bind', source: '/gpu/etc', options: ['ro', 'rbind'] },
        { destination: '/dev/shm', type: 'bind', source: '/gpu/shm', options: ['rbind'] },
      ],
      hooks: [{ name: 'createRuntime' as const, hook: { path: '/hook', args: ['hook'] } }],
      additionalGids: [44, 0, 44],
      intelRdt: { closID: 'c' },
    };
    const spec = build({ cdi, user: { uid: 1000, gid: 1000, additionalGids: [1000] } });
    assert.ok(spec.process.env.includes('GPU=0') && spec.process.env.includes('PATH=/gpu'));
    assert.deepEqual(spec.linux.devices, [{ path: '/dev/gpu', type: 'c', major: 195, minor: 0, uid: 1000, gid: 1000 }]);
    assert.deepEqual(spec.linux.resources.devices?.at(-1), {
      allow: true,
      type: 'c',
      major: 195,
      minor: 0,
      access: 'rw',
    });
    assert.deepEqual(spec.hooks, { createRuntime: [{ path: '/hook', args: ['hook'] }] });
    assert.deepEqual(spec.process.user.additionalGids, [1000, 44]);
    assert.deepEqual(spec.linux.intelRdt, { closID: 'c' });
    const order = spec.mounts.map(({ destination }) => destination);
    assert.ok(order.indexOf('/etc') < order.indexOf('/etc/hosts'));
    assert.deepEqual(
      spec.mounts.filter(({ destination }) => destination === '/dev/shm').map(({ source }) => source),
      ['/gpu/shm'],
    );
  });
});

describe('the process of an exec', () => {
  const spec = withContext(
    { noNewPrivs: true },
    { user: { uid: 5, gid: 6, additionalGids: [6] }, openFiles: { soft: 1, hard: 2 } },
  );

  test('equals the container’s process except for its command', () => {
    const process = buildExecProcess(spec, { cmd: ['ls', '-l'], tty: false });
    assert.deepEqual(process, { ...spec.process, args: ['ls', '-l'] });
    assert.notEqual(process.user, spec.process.user);
  });

  test('TERM is set for terminals without one, whether or not the container has a terminal', () => {
    assert.equal(buildExecProcess(spec, { cmd: ['sh'], tty: true }).env.at(-1), 'TERM=xterm');
    const terminal = build({ config: container({ tty: true, envs: [{ key: 'TERM', value: Buffer.from('foot') }] }) });
    const process = buildExecProcess(terminal, { cmd: ['sh'], tty: true });
    assert.deepEqual(
      process.env.filter((entry) => entry.startsWith('TERM')),
      ['TERM=foot'],
    );
    assert.equal(buildExecProcess(terminal, { cmd: ['sh'], tty: false }).terminal, false);
  });

  test('needs a command', () => {
    assert.throws(() => buildExecProcess(spec, { cmd: [], tty: false }), {
      code: 'INVALID_REQUEST',
      message: /cmd: is empty/,
    });
  });
});

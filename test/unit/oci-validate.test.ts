import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type ContainerConfig,
  type IDMapping,
  MountPropagation,
  NamespaceMode,
  SecurityProfile_ProfileType as Profile,
  Signal,
} from '../../proto/gen/cri.ts';
import { defaultProfileText } from '../../src/node/oci/apparmor.ts';
import { capabilitiesOf } from '../../src/node/oci/capabilities.ts';
import { cgroupsPath } from '../../src/node/oci/cgroups-path.ts';
import { kernelAtLeast, parseRuntimeFeatures } from '../../src/node/oci/host.ts';
import { selinuxLabels } from '../../src/node/oci/selinux.ts';
import { criSignal, signalName, signalNumber, stopSignal } from '../../src/node/oci/signals.ts';
import { containerName, sandboxName } from '../../src/node/oci/unique-names.ts';
import { logPathOf, validateContainer, validateSandbox } from '../../src/node/oci/validate.ts';
import { deviceNumbers } from '../../src/workers/host-paths/devices.ts';
import { mount, namespaces } from '../rig/messages.ts';
import { container, containerWith, pod, podWith, userns } from './oci-fixtures.ts';

const { CONTAINER, NODE, POD, TARGET } = NamespaceMode;

function refused(act: () => void, message: RegExp): void {
  assert.throws(act, { code: 'INVALID_REQUEST', message });
}

const podFails = (config: Parameters<typeof validateSandbox>[0], message: RegExp) =>
  refused(() => validateSandbox(config), message);
const fails = (config: ContainerConfig | undefined, message: RegExp) =>
  refused(() => validateContainer(config, pod()), message);

describe('a pod’s configuration', () => {
  test('valid configurations', () => {
    validateSandbox(pod());
    validateSandbox(pod({ linux: undefined }));
    validateSandbox(podWith({ namespaceOptions: namespaces({ pid: CONTAINER, ...userns() }) }));
  });

  test('metadata and host name', () => {
    podFails(undefined, /^config: is missing/);
    podFails(pod({ metadata: undefined }), /^metadata: is missing/);
    podFails(pod({ metadata: { name: '', namespace: 'n', uid: 'u', attempt: 0 } }), /^metadata\.name: is empty/);
    podFails(pod({ hostname: 'x'.repeat(65) }), /^hostname: is longer/);
    podFails(pod({ hostname: 'a\nb' }), /^hostname/);
  });

  test('namespace modes', () => {
    podFails(
      podWith({ namespaceOptions: namespaces({ network: CONTAINER }) }),
      /namespace_options\.network: mode CONTAINER/,
    );
    podFails(podWith({ namespaceOptions: namespaces({ ipc: TARGET }) }), /namespace_options\.ipc: mode TARGET/);
    podFails(
      podWith({ namespaceOptions: namespaces({ pid: TARGET, targetId: 'x' }) }),
      /namespace_options\.pid: mode TARGET/,
    );
    podFails(podWith({ namespaceOptions: namespaces({ pid: 7 as NamespaceMode }) }), /pid: mode 7/);
  });

  test('user namespaces', () => {
    const map = (over: Partial<IDMapping> = {}) => ({ hostId: 1000, containerId: 0, length: 10, ...over });
    const withUserns = (mode: NamespaceMode, uids: IDMapping[], gids: IDMapping[]) =>
      podWith({ namespaceOptions: namespaces({ usernsOptions: { mode, uids, gids } }) });
    validateSandbox(withUserns(NODE, [], []));
    podFails(withUserns(NODE, [map()], []), /NODE takes no mappings/);
    podFails(withUserns(CONTAINER, [map()], [map()]), /mode CONTAINER is not supported/);
    podFails(withUserns(TARGET, [map()], [map()]), /mode TARGET is not supported/);
    podFails(withUserns(POD, [], []), /uids: exactly one mapping is supported, got 0/);
    podFails(
      withUserns(POD, [map(), map({ containerId: 10 })], [map()]),
      /uids: exactly one mapping is supported, got 2/,
    );
    podFails(withUserns(POD, [map()], [map(), map()]), /gids: exactly one/);
    podFails(withUserns(POD, [map({ containerId: 1 })], [map()]), /uids: id 0 of the container is not mapped/);
    podFails(withUserns(POD, [map()], [map({ length: 0 })]), /gids: the range of ids/);
    podFails(withUserns(POD, [map({ hostId: 2 ** 32 - 1, length: 2 })], [map()]), /uids: the range of ids/);
  });

  test('sysctls, users, profiles', () => {
    podFails(podWith({}, { sysctls: { 'kernel.panic': '1' } }), /"kernel\.panic" is not a namespaced/);
    podFails(podWith({ runAsGroup: { value: 1n } }), /^user group "1" is specified without user$/);
    podFails(podWith({ seccompProfilePath: 'nope' }), /seccomp_profile_path: unknown profile "nope"/);
    podFails(podWith({ seccomp: { profileType: Profile.Localhost, localhostRef: '' } }), /localhost_ref/);
    podFails(podWith({ seccomp: { profileType: 9 as Profile, localhostRef: '' } }), /unknown profile type 9/);
  });
});

describe('a container’s configuration', () => {
  test('valid configurations', () => {
    validateContainer(container(), pod());
    validateContainer(containerWith({ namespaceOptions: namespaces({ pid: TARGET, targetId: 'c' }) }), pod());
  });

  test('metadata, image, signal', () => {
    fails(undefined, /^config: is missing/);
    fails(container({ metadata: undefined }), /^metadata: is missing/);
    fails(container({ metadata: { name: '', attempt: 0 } }), /^metadata\.name/);
    fails(container({ image: undefined }), /^image\.image/);
    fails(container({ stopSignal: 99 as Signal }), /^stop_signal: unknown value 99/);
  });

  test('log paths stay in the folder', () => {
    assert.equal(logPathOf('/var/log/pods/x/', 'app/0.log'), '/var/log/pods/x/app/0.log');
    assert.equal(logPathOf('', 'app/0.log'), '');
    assert.equal(logPathOf('/var/log', ''), '');
    assert.equal(logPathOf('/', 'a.log'), '/a.log');
    fails(container({ logPath: '../../../etc/passwd' }), /^log_path: .* leads out/);
    fails(container({ logPath: 'a/../..' }), /leads out/);
    fails(container({ logPath: '.' }), /leads out/);
    refused(() => logPathOf('logs', 'a'), /^log_directory/);
    refused(() => logPathOf('/var/log/pod', '../pod-2/a.log'), /leads out/);
  });

  test('mounts', () => {
    const withMount = (over: Parameters<typeof mount>[0]) =>
      container({ mounts: [mount({ containerPath: '/data', hostPath: '/data', ...over })] });
    const image = { image: 'i', annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' };
    validateContainer(withMount({ image, hostPath: '', readonly: true, imageSubPath: 'a/b' }), pod());
    fails(withMount({ containerPath: '' }), /container_path is empty/);
    fails(withMount({ containerPath: '/..' }), /is the root/);
    fails(withMount({ hostPath: 'data' }), /host_path "data" is not absolute/);
    fails(withMount({ hostPath: '/a\0' }), /NUL/);
    fails(withMount({ recursiveReadOnly: true }), /\/data: recursive_read_only needs readonly/);
    fails(
      withMount({ recursiveReadOnly: true, readonly: true, propagation: MountPropagation.PROPAGATION_BIDIRECTIONAL }),
      /needs private propagation/,
    );
    fails(withMount({ image, hostPath: '/x', readonly: true }), /exclude each other/);
    fails(withMount({ image, hostPath: '' }), /must be readonly/);
    fails(withMount({ image, hostPath: '', readonly: true, imageSubPath: '../x' }), /leads out of the image/);
  });

  test('devices', () => {
    const withDevice = (hostPath: string, containerPath: string, permissions: string) =>
      container({ devices: [{ hostPath, containerPath, permissions }] });
    validateContainer(withDevice('/dev/a', '/dev/b', 'mrw'), pod());
    fails(withDevice('dev/a', '/dev/b', 'r'), /host_path/);
    fails(withDevice('/dev/a', 'b', 'r'), /container_path/);
    fails(withDevice('/dev/a', '/dev/b', 'x'), /permissions "x"/);
  });

  test('security context', () => {
    fails(containerWith({ privileged: true }), /no privileged container allowed/);
    fails(containerWith({ runAsGroup: { value: 5n } }), /^user group "5" is specified without user$/);
    fails(containerWith({ namespaceOptions: namespaces({ pid: TARGET }) }), /target_id: is empty/);
    fails(containerWith({ namespaceOptions: namespaces({ network: TARGET }) }), /network: mode TARGET/);
    fails(containerWith({ namespaceOptions: namespaces(userns()) }), /differs from the pod's/);
    fails(containerWith({ apparmorProfile: 'nope' }), /apparmor_profile: unknown profile "nope"/);
    fails(containerWith({ apparmor: { profileType: Profile.Localhost, localhostRef: '' } }), /apparmor: localhost_ref/);
  });
});

describe('signals', () => {
  test('accepted spellings', () => {
    assert.equal(signalNumber('SIGTERM'), 15);
    assert.equal(signalNumber('term'), 15);
    assert.equal(signalNumber(' 9 '), 9);
    assert.equal(signalNumber('SIGRTMIN'), 34);
    assert.equal(signalNumber('SIGRTMIN+3'), 37);
    assert.equal(signalNumber('rtmax-1'), 63);
    assert.equal(signalNumber('RTMAX'), 64);
    for (const bad of ['', 'SIGNOPE', '0', '65', 'SIGRTMIN+31', 'RTMAX+1', '-1', 'SIGRTMIN+']) {
      refused(() => signalNumber(bad), /is not a signal/);
    }
  });

  test('every value of CRI has a name that is a signal', () => {
    assert.equal(signalName(Signal.SIGNAL_RUNTIME_DEFAULT), undefined);
    const numbers = Object.values(Signal)
      .filter((value) => value !== Signal.SIGNAL_RUNTIME_DEFAULT)
      .map((value) => signalNumber(signalName(value) ?? ''));
    assert.equal(numbers.length, 65);
    // 31 ordinary ones, four of them with a second name; 31 of the real-time ones.
    assert.equal(new Set(numbers).size, 62);
    assert.equal(signalNumber(signalName(Signal.SIGNAL_SIGRTMINPLUS15) ?? ''), 49);
    assert.equal(signalNumber(signalName(Signal.SIGNAL_SIGRTMAXMINUS14) ?? ''), 50);
  });

  test('back to CRI', () => {
    assert.equal(criSignal('SIGUSR1'), Signal.SIGNAL_SIGUSR1);
    assert.equal(criSignal('iot'), Signal.SIGNAL_SIGIOT);
    assert.equal(criSignal('6'), Signal.SIGNAL_SIGABRT);
    assert.equal(criSignal('37'), Signal.SIGNAL_SIGRTMINPLUS3);
    assert.equal(criSignal('SIGRTMIN+16'), Signal.SIGNAL_SIGRTMAXMINUS14);
  });

  test('the first signal of a stop', () => {
    assert.equal(stopSignal(Signal.SIGNAL_SIGINT, 'SIGQUIT'), 'SIGINT');
    assert.equal(stopSignal(0, 'SIGQUIT'), 'SIGQUIT');
    assert.equal(stopSignal(0, ''), 'SIGTERM');
    assert.equal(stopSignal(0, undefined), 'SIGTERM');
    refused(() => stopSignal(0, 'SIGWHAT'), /"SIGWHAT" is not a signal/);
  });
});

describe('names and the host', () => {
  test('keys of pods and containers', () => {
    const metadata = { name: 'web', namespace: 'shop', uid: 'u', attempt: 3 };
    assert.equal(sandboxName(metadata), 'web_shop_u_3');
    assert.equal(containerName({ name: 'app', attempt: 1 }, metadata), 'app_web_shop_u_1');
  });

  test('cgroup paths by driver', () => {
    assert.equal(cgroupsPath('/kubepods/burstable/pod1', 'id', 'cgroupfs'), '/kubepods/burstable/pod1/id');
    assert.equal(cgroupsPath('', 'id', 'cgroupfs'), '/sluice/id');
    assert.equal(cgroupsPath('/../../etc', 'id', 'cgroupfs'), '/etc/id');
    assert.equal(cgroupsPath('/kubepods.slice/kubepods-pod1.slice', 'id', 'systemd'), 'kubepods-pod1.slice:sluice:id');
    assert.equal(cgroupsPath('', 'id', 'systemd'), 'system.slice:sluice:id');
    refused(
      () => cgroupsPath('/kubepods/pod1', 'id', 'systemd'),
      /"\/kubepods\/pod1" is not a systemd slice.*cgroupDriver/,
    );
  });

  test('capability bits', () => {
    assert.deepEqual(capabilitiesOf('0000000000000000'), []);
    assert.deepEqual(capabilitiesOf('0000000000200001'), ['CAP_CHOWN', 'CAP_SYS_ADMIN']);
    assert.equal(capabilitiesOf('000001ffffffffff').length, 41);
    assert.equal(capabilitiesOf('ffffffffffffffff').length, 41);
  });

  test('kernel versions and runtime features', () => {
    assert.equal(kernelAtLeast('6.1.0-13-amd64', 5, 12), true);
    assert.equal(kernelAtLeast('5.4.0', 5, 12), false);
    assert.equal(kernelAtLeast('5.12', 5, 12), true);
    const text = JSON.stringify({
      mountOptions: ['ro', 'rro'],
      linux: { mountExtensions: { idmap: { enabled: true } } },
    });
    assert.deepEqual(parseRuntimeFeatures(text, '6.1'), { recursiveReadOnly: true, idmap: true });
    assert.deepEqual(parseRuntimeFeatures(text, '5.18'), { recursiveReadOnly: true, idmap: false });
    assert.deepEqual(parseRuntimeFeatures(text, '5.19.0'), { recursiveReadOnly: true, idmap: true });
    assert.deepEqual(parseRuntimeFeatures(text, '5.4'), { recursiveReadOnly: false, idmap: false });
    assert.deepEqual(parseRuntimeFeatures('{}', '6.1'), { recursiveReadOnly: false, idmap: false });
    assert.throws(() => parseRuntimeFeatures('unknown command', '6.1'), SyntaxError);
  });

  test('device numbers', () => {
    assert.deepEqual(deviceNumbers(0x0103n), { major: 1, minor: 3 });
    assert.deepEqual(deviceNumbers(0x100103n), { major: 1, minor: 0x103 });
    assert.deepEqual(deviceNumbers(((0x12345n & 0xfffn) << 8n) | ((0x12345n & 0xfffff000n) << 32n)), {
      major: 0x12345,
      minor: 0,
    });
  });

  test('SELinux labels', () => {
    assert.deepEqual(selinuxLabels(undefined, 's0:c1,c2'), {
      process: 'system_u:system_r:container_t:s0:c1,c2',
      mount: 'system_u:object_r:container_file_t:s0:c1,c2',
    });
    const given = selinuxLabels({ user: 'u', role: 'r', type: 't', level: 's0:c9' }, 's0:c1');
    assert.deepEqual(given, { process: 'u:r:t:s0:c9', mount: 'u:object_r:container_file_t:s0:c9' });
  });
});

describe('the default AppArmor profile', () => {
  const input = { tunables: true, abstractions: true, abi: true, daemonProfile: 'unconfined' };

  test('has the syntax of apparmor_parser and the deny rules', () => {
    const text = defaultProfileText(input);
    assert.match(text, /^abi <abi\/3\.0>,\n/);
    assert.match(text, /^include <tunables\/global>$/m);
    assert.match(text, /^profile sluice-default flags=\(attach_disconnected,mediate_deleted\) \{$/m);
    for (const rule of [
      'deny mount,',
      'deny @{PROC}/* w,',
      'deny @{PROC}/sysrq-trigger rwklx,',
      'deny /sys/firmware/** rwklx,',
      'signal (receive) peer=runc,',
      'signal (receive) peer=crun,',
      'signal (send, receive) peer=sluice-default,',
    ]) {
      assert.ok(text.includes(`\n  ${rule}\n`), rule);
    }
    assert.equal(text.match(/peer=unconfined/g)?.length, 1);
    assert.equal(text.match(/[{]/g)?.length, text.match(/[}]/g)?.length);
    // Every rule ends with a comma.
    for (const line of text.split('\n').filter((l) => /^ {2}[a-z]/.test(l) && !l.includes('include')))
      assert.match(line, /,$/);
  });

  test('on hosts without the includes, with a confined daemon', () => {
    const text = defaultProfileText({
      tunables: false,
      abstractions: false,
      abi: false,
      daemonProfile: 'sluiced',
      name: 'x',
    });
    assert.match(text, /^@\{PROC\}=\/proc\/$/m);
    assert.doesNotMatch(text, /include|abi </);
    assert.match(text, /signal \(receive\) peer=sluiced,/);
    assert.match(text, /ptrace \(trace, read, tracedby, readby\) peer=x,/);
  });
});

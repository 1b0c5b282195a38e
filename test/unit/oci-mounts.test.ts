import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Mount as CriMount, MountPropagation } from '../../proto/gen/cri.ts';
import { cgroupMount, containerMounts, destinationOf, type MountInput } from '../../src/node/oci/mounts.ts';
import type { Mount } from '../../src/node/oci/types.ts';
import { mountOf, parseMountinfo } from '../../src/sys/mountinfo.ts';
import { mount } from '../rig/messages.ts';
import { FEATURES } from './oci-fixtures.ts';

const { PROPAGATION_BIDIRECTIONAL: BOTH, PROPAGATION_HOST_TO_CONTAINER: IN } = MountPropagation;

const DEFAULTS: Mount[] = ['/proc', '/dev', '/dev/pts', '/sys', '/sys/fs/cgroup'].map((destination) => ({
  destination,
  type: 'x',
  source: 'x',
  options: [],
}));

const TABLE = parseMountinfo(
  [
    '22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw',
    '23 22 0:5 / /slave rw master:7 - tmpfs tmpfs rw',
    '24 22 0:6 / /private rw - tmpfs tmpfs rw',
    '25 22 0:7 / /with\\040space rw shared:3 master:2 - tmpfs tmpfs rw',
    '26 24 0:8 / /private/shared rw shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot',
    'nonsense',
  ].join('\n'),
);

function build(mounts: Partial<CriMount>[], over: Partial<MountInput> = {}) {
  return containerMounts({
    config: { mounts: mounts.map(mount) },
    defaults: DEFAULTS,
    files: {},
    volumes: {},
    imageVolumes: {},
    realPaths: {},
    mountTable: TABLE,
    readonlyRootfs: false,
    features: FEATURES,
    userns: undefined,
    ...over,
  });
}

/** Where things are, in order. */
function order(mounts: Partial<CriMount>[], over: Partial<MountInput> = {}): string[] {
  return build(mounts, over).mounts.map(({ destination }) => destination);
}

/** Options of the one mount that is asked for. */
function options(asked: Partial<CriMount>, over: Partial<MountInput> = {}): string[] | undefined {
  return build([{ containerPath: '/data', hostPath: '/data', ...asked }], over).mounts.at(-1)?.options;
}

describe('mounts of a container', () => {
  test('outer mounts come first; mounts of equal depth keep their order', () => {
    const added = order([
      { containerPath: '/a/b/c', hostPath: '/1' },
      { containerPath: '/z', hostPath: '/2' },
      { containerPath: '/a/b', hostPath: '/3' },
      { containerPath: '/a', hostPath: '/4' },
    ]).slice(DEFAULTS.length);
    assert.deepEqual(added, ['/z', '/a', '/a/b', '/a/b/c']);
  });

  test('the request’s mount replaces a default, the pod’s file and a VOLUME at its path', () => {
    const files = { hosts: '/sb/hosts', resolvConf: '/sb/resolv.conf' };
    const { mounts } = build(
      [
        { containerPath: '/etc//hosts/', hostPath: '/mine' },
        { containerPath: '/proc', hostPath: '/proc' },
        { containerPath: '/vol', hostPath: '/given' },
      ],
      { files, volumes: { '/vol': '/volumes/1', '/other': '/volumes/2' } },
    );
    const sources = Object.fromEntries(mounts.map(({ destination, source }) => [destination, source]));
    assert.equal(mounts.length, new Set(Object.keys(sources)).size);
    assert.equal(sources['/etc/hosts'], '/mine');
    assert.equal(sources['/etc/resolv.conf'], '/sb/resolv.conf');
    assert.equal(sources['/proc'], '/proc');
    assert.equal(sources['/vol'], '/given');
    assert.equal(sources['/other'], '/volumes/2');
  });

  test('a request’s /dev or /sys replaces the defaults below it, but not the pod’s shm', () => {
    const files = { shm: '/sb/shm' };
    assert.deepEqual(order([{ containerPath: '/dev', hostPath: '/dev' }], { files }), [
      '/proc',
      '/sys',
      '/sys/fs/cgroup',
      '/dev',
      '/dev/shm',
    ]);
    assert.deepEqual(order([{ containerPath: '/sys', hostPath: '/sys' }]), ['/proc', '/dev', '/dev/pts', '/sys']);
    assert.deepEqual(order([{ containerPath: '/development', hostPath: '/x' }]).length, DEFAULTS.length + 1);
  });

  test('the pod’s shm replaces an image’s VOLUME at its path', () => {
    const { mounts } = build([], { files: { shm: '/sb/shm' }, volumes: { '/dev/shm': '/volumes/1' } });
    assert.deepEqual(
      mounts.filter(({ destination }) => destination === '/dev/shm').map(({ source }) => source),
      ['/sb/shm'],
    );
  });

  test('read-only, writable, symlinks resolved', () => {
    assert.deepEqual(options({}), ['rbind', 'rprivate', 'rw']);
    assert.deepEqual(options({ readonly: true }), ['rbind', 'rprivate', 'ro']);
    const { mounts } = build([{ containerPath: '/d', hostPath: '/link' }], { realPaths: { '/link': '/real' } });
    assert.equal(mounts.at(-1)?.source, '/real');
  });

  test('recursive read-only, and the options it cannot be combined with', () => {
    const rro = { readonly: true, recursiveReadOnly: true };
    assert.deepEqual(options(rro), ['rbind', 'rprivate', 'rro']);
    const none = { features: { recursiveReadOnly: false, idmap: true } };
    assert.throws(() => options(rro, none), { code: 'INVALID_REQUEST', kubeletReason: 'RROUnsupported' });
    assert.throws(() => options({ recursiveReadOnly: true }), { code: 'INVALID_REQUEST', message: /needs readonly/ });
    for (const propagation of [IN, BOTH]) {
      assert.throws(() => options({ ...rro, propagation }), {
        code: 'INVALID_REQUEST',
        message: /needs private propagation/,
      });
    }
  });

  test('propagation depends on the mount that contains the source', () => {
    const propagation = (hostPath: string, propagation: MountPropagation) => {
      const { mounts, rootfsPropagation } = build([{ containerPath: '/data', hostPath, propagation }]);
      return [mounts.at(-1)?.options[1], rootfsPropagation];
    };
    assert.deepEqual(propagation('/srv', IN), ['rslave', 'rslave']);
    assert.deepEqual(propagation('/slave/x', IN), ['rslave', 'rslave']);
    assert.deepEqual(propagation('/srv', BOTH), ['rshared', 'rshared']);
    assert.deepEqual(propagation('/private/shared', BOTH), ['rshared', 'rshared']);
    assert.deepEqual(propagation('/private', MountPropagation.PROPAGATION_PRIVATE), ['rprivate', undefined]);
    assert.throws(() => propagation('/slave/x', BOTH), {
      code: 'INVALID_REQUEST',
      message: 'mounts: /data: path "/slave/x" is mounted on "/slave" but it is not a shared mount',
    });
    assert.throws(() => propagation('/private/y', IN), {
      code: 'INVALID_REQUEST',
      message: 'mounts: /data: path "/private/y" is mounted on "/private" but it is not a shared or slave mount',
    });
    const mixed = [
      { containerPath: '/a', hostPath: '/srv', propagation: BOTH },
      { containerPath: '/b', hostPath: '/srv', propagation: IN },
    ];
    assert.equal(build(mixed).rootfsPropagation, 'rshared');
    assert.equal(build(mixed.toReversed()).rootfsPropagation, 'rshared');
  });

  test('idmapped mounts, where the runtime has them', () => {
    const ids = [{ hostId: 1000, containerId: 0, length: 10 }];
    const { mounts } = build([{ containerPath: '/d', hostPath: '/d', uidMappings: ids, gidMappings: ids }]);
    assert.deepEqual(mounts.at(-1)?.uidMappings, [{ hostID: 1000, containerID: 0, size: 10 }]);
    assert.deepEqual(mounts.at(-1)?.gidMappings, [{ hostID: 1000, containerID: 0, size: 10 }]);
    const features = { recursiveReadOnly: true, idmap: false };
    assert.throws(() => options({ uidMappings: ids, gidMappings: ids }, { features }), {
      code: 'INVALID_REQUEST',
      message: /no idmapped mounts/,
    });
  });

  test('image volumes and mount options', () => {
    const image = { image: 'model:1', annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' };
    const asked = { containerPath: '/model', hostPath: '', image, readonly: true, mountOptions: ['noexec'] };
    const { mounts } = build([asked], { imageVolumes: { '/model': '/run/image-volumes/1' } });
    assert.deepEqual(mounts.at(-1), {
      destination: '/model',
      type: 'bind',
      source: '/run/image-volumes/1',
      options: ['rbind', 'rprivate', 'ro', 'noexec'],
    });
    assert.throws(() => build([asked]), { code: 'INVALID_REQUEST', message: /has not been mounted/ });
    assert.throws(() => options({ mountOptions: ['suid'] }), {
      code: 'INVALID_REQUEST',
      message: /"suid" is not supported/,
    });
  });

  test('paths', () => {
    assert.equal(destinationOf('a//b/../c/'), '/a/c');
    assert.equal(destinationOf('/../..'), '/');
    assert.throws(() => build([{ containerPath: '/x/..', hostPath: '/' }]), {
      code: 'INVALID_REQUEST',
      message: /on the root/,
    });
  });
});

test('mountinfo: octal escapes, optional fields, the topmost mount', () => {
  assert.deepEqual(
    TABLE.map(({ mountPoint, shared, slave }) => [mountPoint, shared, slave]),
    [
      ['/', true, false],
      ['/slave', false, true],
      ['/private', false, false],
      ['/with space', true, true],
      ['/private/shared', true, false],
    ],
  );
  assert.deepEqual(TABLE.at(-1)?.superOptions, ['rw', 'nsdelegate', 'memory_recursiveprot']);
  assert.equal(mountOf(TABLE, '/privateer')?.mountPoint, '/');
  const twice = parseMountinfo('1 0 0:1 / /m rw shared:1 - tmpfs a rw\n2 1 0:2 / /m rw - tmpfs b rw\n');
  assert.equal(mountOf(twice, '/m/x')?.shared, false);
  assert.equal(mountOf([], '/x'), undefined);
});

test('the cgroup tree', () => {
  assert.deepEqual(cgroupMount(true, ['nsdelegate']).options, [
    'nosuid',
    'noexec',
    'nodev',
    'relatime',
    'rw',
    'nsdelegate',
  ]);
});

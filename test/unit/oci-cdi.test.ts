import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { cdiDeviceNames, cdiEdits, cdiRegistry, parseCdiSpec } from '../../src/node/oci/cdi.ts';
import { readCdiRegistry, resolveCdiEdits } from '../../src/node/oci/read-cdi.ts';
import { parseYaml } from '../../src/node/oci/yaml.ts';
import { container } from './oci-fixtures.ts';

const spec = (over: object = {}) =>
  JSON.stringify({
    cdiVersion: '0.6.0',
    kind: 'v.com/gpu',
    devices: [{ name: '0', containerEdits: { env: ['A=1'] } }],
    ...over,
  });

describe('CDI files', () => {
  test('which devices a container asks for', () => {
    const config = container({
      CDIDevices: [{ name: 'v.com/gpu=0' }, { name: 'v.com/gpu=1' }],
      annotations: { 'cdi.k8s.io/plugin_x': 'v.com/gpu=1,v.com/net=a', other: 'v.com/x=y' },
    });
    assert.deepEqual(cdiDeviceNames(config), ['v.com/gpu=0', 'v.com/gpu=1', 'v.com/net=a']);
  });

  test('edits of the file once, before those of its devices', () => {
    const text = spec({
      containerEdits: { env: ['ALL=1'] },
      devices: [
        { name: '0', containerEdits: { env: ['A=1'] } },
        { name: '1', containerEdits: { env: ['B=1'] } },
      ],
    });
    const registry = cdiRegistry([{ path: '/etc/cdi/a.json', text, priority: 0 }]);
    assert.deepEqual(cdiEdits(registry, ['v.com/gpu=1', 'v.com/gpu=0']), [
      { env: ['ALL=1'] },
      { env: ['B=1'] },
      { env: ['A=1'] },
    ]);
  });

  test('the later folder wins, two in one folder cancel each other', () => {
    const other = spec({ devices: [{ name: '0', containerEdits: { env: ['A=2'] } }] });
    const files = [
      { path: '/run/a.json', text: other, priority: 1 },
      { path: '/etc/a.json', text: spec(), priority: 0 },
    ];
    assert.deepEqual(cdiEdits(cdiRegistry(files), ['v.com/gpu=0']), [{ env: ['A=2'] }]);
    const same = cdiRegistry(files.map((file) => ({ ...file, priority: 0 })));
    assert.throws(() => cdiEdits(same, ['v.com/gpu=0']), {
      code: 'INVALID_REQUEST',
      message: /several files: \/run\/a\.json, \/etc\/a\.json/,
    });
    const third = cdiRegistry([
      ...files.map((file) => ({ ...file, priority: 0 })),
      { path: '/run/c.json', text: spec(), priority: 1 },
    ]);
    assert.deepEqual(cdiEdits(third, ['v.com/gpu=0']), [{ env: ['A=1'] }]);
  });

  test('a missing device is told with the files that could not be read', () => {
    const registry = cdiRegistry([{ path: '/etc/cdi/bad.json', text: '{', priority: 0 }]);
    assert.throws(() => cdiEdits(registry, ['v.com/gpu=7']), {
      code: 'INVALID_REQUEST',
      message:
        /unresolvable CDI devices v\.com\/gpu=7 \(files that could not be read: CDI file \/etc\/cdi\/bad\.json cannot be parsed/,
    });
  });

  for (const [name, text, message] of [
    ['no version', spec({ cdiVersion: undefined }), /has no cdiVersion/],
    ['no class', spec({ kind: 'vendor' }), /kind "vendor"/],
    ['no devices', spec({ devices: undefined }), /has no devices/],
    ['bad device name', spec({ devices: [{ name: 'a b', containerEdits: {} }] }), /"a b" is no device name/],
    ['unknown hook', spec({ containerEdits: { hooks: [{ hookName: 'later', path: '/x' }] } }), /hook "later"/],
    ['mount without a path', spec({ containerEdits: { mounts: [{ hostPath: '/x' }] } }), /mount has no/],
    ['node without a path', spec({ containerEdits: { deviceNodes: [{}] } }), /device node has no path/],
    ['a list', '[]', /has no cdiVersion/],
    ['null', 'null', /is no object/],
  ] as const) {
    test(`refuses a file with ${name}`, () => {
      assert.throws(() => parseCdiSpec(text, '/x.json'), { code: 'INVALID_REQUEST', message });
    });
  }

  test('from disk, nodes looked up', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sluice-cdi-'));
    try {
      const deviceNodes = [
        { path: '/dev/mine', hostPath: '/dev/null', permissions: 'r', fileMode: 0o600 },
        { path: '/dev/told', type: 'b', major: 9, minor: 8, uid: 3 },
      ];
      const mounts = [
        { hostPath: '/h', containerPath: '/c' },
        { hostPath: '/h', containerPath: '/d', options: ['ro', 'bind'] },
        { hostPath: 'tmpfs', containerPath: '/t', type: 'tmpfs', options: ['nosuid'] },
      ];
      const hooks = [{ hookName: 'poststop', path: '/hook', timeout: 3 }];
      await writeFile(
        join(folder, 'a.json'),
        spec({ containerEdits: { deviceNodes, mounts, hooks, additionalGids: [5] } }),
      );
      await writeFile(join(folder, 'ignored.txt'), 'x');
      const registry = await readCdiRegistry([join(folder, 'missing'), folder]);
      const edits = await resolveCdiEdits(cdiEdits(registry, ['v.com/gpu=0']));
      assert.deepEqual(edits, {
        env: ['A=1'],
        devices: [
          { path: '/dev/mine', type: 'c', major: 1, minor: 3, fileMode: 0o600, permissions: 'r' },
          { path: '/dev/told', type: 'b', major: 9, minor: 8, permissions: 'rwm', uid: 3 },
        ],
        mounts: [
          { destination: '/c', type: 'bind', source: '/h', options: ['rbind'] },
          { destination: '/d', type: 'bind', source: '/h', options: ['ro', 'bind'] },
          { destination: '/t', type: 'tmpfs', source: 'tmpfs', options: ['nosuid'] },
        ],
        hooks: [{ name: 'poststop', hook: { path: '/hook', timeout: 3 } }],
        additionalGids: [5],
      });
      await assert.rejects(resolveCdiEdits([{ deviceNodes: [{ path: '/dev/not-there' }] }]), {
        code: 'INVALID_REQUEST',
        message: /\/dev\/not-there cannot be used/,
      });
      await assert.rejects(resolveCdiEdits([{ deviceNodes: [{ path: folder }] }]), { code: 'INVALID_REQUEST' });
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe('the YAML of CDI files', () => {
  test('as nvidia-ctk writes it', () => {
    const text = `---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidia-modeset
  - path: /dev/nvidiactl
    permissions: rw
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - args:
    - nvidia-ctk
    - hook
    - create-symlinks
    - --link
    - ../libnvidia-allocator.so.1::/usr/lib/gbm/nvidia-drm_gbm.so
    hookName: createContainer
    path: /usr/bin/nvidia-ctk
  mounts:
  - containerPath: /run/nvidia-persistenced/socket
    hostPath: /run/nvidia-persistenced/socket
    options:
    - ro
    - nosuid
devices:
- containerEdits:
    deviceNodes:
    - fileMode: 438
      major: 195
      path: /dev/nvidia0
  name: "0"
kind: nvidia.com/gpu
`;
    const spec = parseCdiSpec(text, '/etc/cdi/nvidia.yaml');
    assert.deepEqual(spec, {
      cdiVersion: '0.5.0',
      containerEdits: {
        deviceNodes: [{ path: '/dev/nvidia-modeset' }, { path: '/dev/nvidiactl', permissions: 'rw' }],
        env: ['NVIDIA_VISIBLE_DEVICES=void'],
        hooks: [
          {
            args: [
              'nvidia-ctk',
              'hook',
              'create-symlinks',
              '--link',
              '../libnvidia-allocator.so.1::/usr/lib/gbm/nvidia-drm_gbm.so',
            ],
            hookName: 'createContainer',
            path: '/usr/bin/nvidia-ctk',
          },
        ],
        mounts: [
          {
            containerPath: '/run/nvidia-persistenced/socket',
            hostPath: '/run/nvidia-persistenced/socket',
            options: ['ro', 'nosuid'],
          },
        ],
      },
      devices: [{ containerEdits: { deviceNodes: [{ fileMode: 438, major: 195, path: '/dev/nvidia0' }] }, name: '0' }],
      kind: 'nvidia.com/gpu',
    });
  });

  for (const [name, text, value] of [
    ['nothing', '\n# only a comment\n', null],
    ['JSON', '{"a": [1, "b", {"c": null}], "d": {}}', { a: [1, 'b', { c: null }], d: {} }],
    [
      'flow and comments',
      "a: [x, \"y, z\", 'it''s'] # why\nb: {c: d, e: []}  # so\n#end",
      { a: ['x', 'y, z', "it's"], b: { c: 'd', e: [] } },
    ],
    [
      'numbers',
      'a: 0666\nb: 0o17\nc: 0x1F\nd: -5\ne: 1.5\nf: 0.5.0\ng: "1"',
      { a: 0o666, b: 15, c: 31, d: -5, e: 1.5, f: '0.5.0', g: '1' },
    ],
    ['words', 'a: true\nb: ~\nc:\nd: null\ne: yes', { a: true, b: null, c: null, d: null, e: 'yes' }],
    ['colons and hashes in values', 'a: http://x:80/#y\nb: c#d', { a: 'http://x:80/#y', b: 'c#d' }],
    [
      'lists at and below the key',
      'a:\n- 1\n-\n  b: 2\nc:\n  - - 3\n    - 4\n  - d: 5\n    e: 6\n',
      { a: [1, { b: 2 }], c: [[3, 4], { d: 5, e: 6 }] },
    ],
    ['quoted keys and escapes', '"a b": "t\\tu\\u0041\\x42"', { 'a b': 't\tuAB' }],
    ['literal text', 'a: |\n  one\n    two\n\nb: >-\n  x\n  y\nc: 1', { a: 'one\n  two\n', b: 'x y', c: 1 }],
    ['a lone scalar', 'word', 'word'],
  ] as const) {
    test(`reads ${name}`, () => assert.deepEqual(parseYaml(text), value));
  }

  for (const [name, text, message] of [
    ['anchors', 'a: &x 1', /line 1: "&"/],
    ['aliases', 'a: *x', /line 1: "\*"/],
    ['tags', 'a: !!str 1', /line 1: "!"/],
    ['a second document', 'a: 1\n---\nb: 2', /line 2: only one document/],
    ['tabs', 'a:\n\tb: 1', /line 2: tabs/],
    ['values over lines', 'a: one\n  two', /line 2: a value that goes on/],
    ['flow over lines', 'a: [1,\n  2]', /line 1: no "\]"/],
    ['an open quote', 'a: "x', /line 1: a quote/],
    ['a key twice', 'a: 1\na: 2', /line 2: "a" is there twice/],
    ['no key', 'a: 1\nword', /line 2: expected "key: value"/],
    ['stray indentation', 'a: 1\n  b: 2', /line 2/],
    ['text after a value', 'a: "x" y', /line 1: unexpected "y"/],
  ] as const) {
    test(`refuses ${name}`, () => assert.throws(() => parseYaml(text), { name: 'SyntaxError', message }));
  }

  test('keys cannot reach the prototype', () => {
    const value = parseYaml('__proto__:\n  polluted: 1\n');
    assert.deepEqual(Object.keys(value as object), ['__proto__']);
    assert.equal((value as { polluted?: number }).polluted, undefined);
  });
});

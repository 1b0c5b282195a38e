import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { cdiDeviceNames, cdiEdits, cdiRegistry, MAX_CDI_BYTES, parseCdiSpec } from '../../src/node/oci/cdi.ts';
import { type FindDevices, readCdiRegistry, resolveCdiEdits } from '../../src/node/oci/read-cdi.ts';
import { parseYaml } from '../../src/node/oci/yaml.ts';
import { readDevices } from '../../src/workers/host-paths/devices.ts';
import { readHostFolder } from '../../src/workers/host-paths/read-file.ts';
import { container } from './oci-fixtures.ts';

const find: FindDevices = async (hostPath, containerPath) => readDevices(hostPath, containerPath);

const spec = (over: object = {}) =>
  JSON.stringify({
    cdiVersion: '0.6.0',
    kind: 'v.com/gpu',
    devices: [{ name: '0', containerEdits: { env: ['A=1'] } }],
    ...over,
  });

describe('CDI files', () => {
  test('the devices that a container requests', () => {
    const config = container({
      CDIDevices: [{ name: 'v.com/gpu=0' }, { name: 'v.com/gpu=1' }],
      annotations: { 'cdi.k8s.io/plugin_x': 'v.com/gpu=1,v.com/net=a', other: 'v.com/x=y' },
    });
    assert.deepEqual(cdiDeviceNames(config), ['v.com/gpu=0', 'v.com/gpu=1', 'v.com/net=a']);
  });

  test('edits of a file come once, before those of its devices', async () => {
    const text = spec({
      containerEdits: { env: ['ALL=1'] },
      devices: [
        { name: '0', containerEdits: { env: ['A=1'] } },
        { name: '1', containerEdits: { env: ['B=1'] } },
      ],
    });
    const registry = await cdiRegistry([{ path: '/etc/cdi/a.json', text, priority: 0 }]);
    assert.deepEqual(cdiEdits(registry, ['v.com/gpu=1', 'v.com/gpu=0']), [
      { env: ['ALL=1'] },
      { env: ['B=1'] },
      { env: ['A=1'] },
    ]);
  });

  test('the later folder wins; a name twice in one folder is a conflict', async () => {
    const other = spec({ devices: [{ name: '0', containerEdits: { env: ['A=2'] } }] });
    const files = [
      { path: '/run/a.json', text: other, priority: 1 },
      { path: '/etc/a.json', text: spec(), priority: 0 },
    ];
    assert.deepEqual(cdiEdits(await cdiRegistry(files), ['v.com/gpu=0']), [{ env: ['A=2'] }]);
    const same = await cdiRegistry(files.map((file) => ({ ...file, priority: 0 })));
    assert.throws(() => cdiEdits(same, ['v.com/gpu=0']), {
      code: 'INVALID_REQUEST',
      message: /several files: \/run\/a\.json, \/etc\/a\.json/,
    });
    const third = await cdiRegistry([
      ...files.map((file) => ({ ...file, priority: 0 })),
      { path: '/run/c.json', text: spec(), priority: 1 },
    ]);
    assert.deepEqual(cdiEdits(third, ['v.com/gpu=0']), [{ env: ['A=1'] }]);
  });

  test('a missing device is reported with the files that could not be read', async () => {
    const registry = await cdiRegistry([{ path: '/etc/cdi/bad.json', text: '{', priority: 0 }]);
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
    ['bad device name', spec({ devices: [{ name: 'a b', containerEdits: {} }] }), /"a b" is not a valid device name/],
    [
      'unknown hook',
      spec({ containerEdits: { hooks: [{ hookName: 'later', path: '/x' }] } }),
      /hooks\[0\]\.hookName is missing or not valid/,
    ],
    [
      'mount without a path',
      spec({ containerEdits: { mounts: [{ hostPath: '/x' }] } }),
      /mounts\[0\]\.containerPath is missing/,
    ],
    ['node without a path', spec({ containerEdits: { deviceNodes: [{}] } }), /deviceNodes\[0\]\.path is missing/],
    ['a variable without a value', spec({ containerEdits: { env: ['A'] } }), /containerEdits\.env is not valid/],
    [
      'a number in a list of texts',
      spec({ containerEdits: { hooks: [{ hookName: 'poststop', path: '/x', args: [1] }] } }),
      /hooks\[0\]\.args is not valid/,
    ],
    ['a list', '[]', /is not an object/],
    ['null', 'null', /is not an object/],
  ] as const) {
    test(`refuses a file with ${name}`, async () => {
      await assert.rejects(parseCdiSpec(text, '/x.json'), { code: 'INVALID_REQUEST', message });
    });
  }

  test('files on disk; numbers of device nodes come from the host', async () => {
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
      await writeFile(join(folder, 'large.yaml'), `a: ${'x'.repeat(MAX_CDI_BYTES)}`);
      const registry = await readCdiRegistry(readHostFolder, [join(folder, 'missing'), folder]);
      assert.deepEqual(registry.errors, [
        `CDI file ${join(folder, 'large.yaml')} is larger than ${MAX_CDI_BYTES} bytes`,
      ]);
      const edits = await resolveCdiEdits(cdiEdits(registry, ['v.com/gpu=0']), find);
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
      await assert.rejects(resolveCdiEdits([{ deviceNodes: [{ path: '/dev/not-there' }] }], find), {
        code: 'INVALID_REQUEST',
        message: /\/dev\/not-there cannot be used/,
      });
      await assert.rejects(resolveCdiEdits([{ deviceNodes: [{ path: folder }] }], find), { code: 'INVALID_REQUEST' });
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe('the YAML of CDI files', () => {
  test('a file in the style of nvidia-ctk', async () => {
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
    const spec = await parseCdiSpec(text, '/etc/cdi/nvidia.yaml');
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
    test(`reads ${name}`, async () => assert.deepEqual(await parseYaml(text), value));
  }

  for (const [name, text, message] of [
    ['an alias without its anchor', 'a: *x', /alias/],
    ['an unknown tag', 'a: !vendor 1', /line 1/],
    ['a directive', '%VENDOR x\n---\na: 1', /line 1/],
    ['a second document', 'a: 1\n---\nb: 2', /line 2/],
    ['tabs', 'a:\n\tb: 1', /line 2/],
    ['an open quote', 'a: "x', /line 1/],
    ['a duplicate key', 'a: 1\nb: {c: 1, c: 2}', /duplicate key "c"/],
    ['two keys that are one property', '1: a\n"1": b', /duplicate key "1"/],
    ['no key', 'a: 1\nword', /line 2/],
    ['stray indentation', 'a: 1\n  b: 2', /line 1/],
    ['text after a value', 'a: "x" y', /line 1/],
    ['aliases that expand without end', aliases(6), /alias/],
  ] as const) {
    test(`refuses ${name}`, () => assert.rejects(parseYaml(text), { message }));
  }

  test('reads anchors, values and flow collections over several lines', async () => {
    const text = 'a: &x [1,\n  2]\nb: *x\nc: one\n  two\n';
    assert.deepEqual(await parseYaml(text), { a: [1, 2], b: [1, 2], c: 'one two' });
  });

  test('keys cannot reach the prototype', async () => {
    const value = await parseYaml('__proto__:\n  polluted: 1\n');
    assert.deepEqual(Object.keys(value as object), ['__proto__']);
    assert.equal((value as { polluted?: number }).polluted, undefined);
  });
});

/** A map of `levels` lists of ten aliases each, every list of the one before. */
function aliases(levels: number): string {
  const list = (level: number) => `k${level}: &k${level} [${Array(10).fill(level === 0 ? '1' : `*k${level - 1}`)}]`;
  return Array.from({ length: levels }, (_, level) => list(level)).join('\n');
}

test('a device without edits makes its file invalid, and the request for it says so', async () => {
  const file = (edits: unknown) => ({
    path: '/etc/cdi/v.json',
    text: JSON.stringify({
      cdiVersion: '0.6.0',
      kind: 'v.com/c',
      devices: [
        { name: 'ok', containerEdits: { env: ['A=1'] } },
        { name: 'empty', containerEdits: edits },
      ],
    }),
    priority: 0,
  });
  for (const edits of [undefined, {}, { env: [], mounts: [] }, null]) {
    const registry = await cdiRegistry([file(edits)]);
    assert.deepEqual([...registry.devices.keys()], []);
    assert.throws(() => cdiEdits(registry, ['v.com/c=ok']), {
      code: 'INVALID_REQUEST',
      message: /unresolvable CDI devices v\.com\/c=ok.*device "empty" has no containerEdits/,
    });
  }
  assert.equal((await cdiRegistry([file({ intelRdt: {} })])).devices.size, 2);
  assert.equal((await cdiRegistry([file({ additionalGids: [5] })])).devices.size, 2);
  const none = { ...file({}), text: '{"cdiVersion":"0.6.0","kind":"v.com/c","devices":[]}' };
  assert.match((await cdiRegistry([none])).errors.join(), /has no devices/);
});

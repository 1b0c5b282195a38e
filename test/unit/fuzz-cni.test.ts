/** What CNI plugins print, and what CDI files hold. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { SluiceError } from '../../src/errors.ts';
import { cniResultInfo } from '../../src/main/cri/cni-info.ts';
import { addresses } from '../../src/node/network/addresses.ts';
import { cdiEdits, cdiRegistry } from '../../src/node/oci/cdi.ts';
import { resolveCdiEdits } from '../../src/node/oci/read-cdi.ts';
import { inVersion, parseResult, previousResult } from '../../src/workers/net/result.ts';
import { holds, jsonWith } from '../rig/fuzz.ts';

const VERSIONS = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'];

/** Runs `work`; only a SluiceError with this code may come out. */
async function refusesWith<T>(code: string, work: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    assert.ok(error instanceof SluiceError, error instanceof Error ? error.stack : String(error));
    assert.equal(error.code, code);
    return undefined;
  }
}

const cniJson = jsonWith(
  [
    'cniVersion',
    'interfaces',
    'ips',
    'routes',
    'dns',
    'name',
    'address',
    'interface',
    'gateway',
    'dst',
    'gw',
    'ip4',
    'ip6',
    'ip',
    '__proto__',
    'length',
  ],
  [...VERSIONS, '10.0.0.1/24', 'fd00::1/64', '/', '10.0.0.1/x', 'eth0', [], {}],
);

test('a result of any shape is taken in all versions, or refused as CNI_FAILED', () =>
  holds(
    fc.asyncProperty(cniJson, fc.constantFrom(...VERSIONS), async (value, version) => {
      const parsed = await refusesWith('CNI_FAILED', () => parseResult(JSON.stringify(value), version));
      previousResult(value as never, version); // never throws
      if (!parsed) return;
      for (const wanted of VERSIONS)
        assert.equal(JSON.parse(JSON.stringify(inVersion(parsed, wanted))).cniVersion, wanted);
      for (const address of addresses(parsed.result, 'eth0')) assert.equal(typeof address, 'string');
      cniResultInfo(parsed.result, '/run/netns/x');
      assert.equal(({} as Record<string, unknown>).cniVersion, undefined, 'prototypes stay as they are');
    }),
    600,
  ));

test('output that is no JSON is refused as CNI_FAILED', () =>
  holds(
    fc.asyncProperty(fc.string(), fc.constantFrom(...VERSIONS), async (text, version) => {
      await refusesWith('CNI_FAILED', () => parseResult(text, version));
    }),
  ));

const cdiKeys = [
  'cdiVersion',
  'kind',
  'devices',
  'name',
  'containerEdits',
  'env',
  'deviceNodes',
  'path',
  'hostPath',
  'mounts',
  'containerPath',
  'options',
  'type',
  'hooks',
  'hookName',
  'args',
  'timeout',
  'intelRdt',
  'additionalGids',
  'permissions',
  'major',
  'minor',
  'fileMode',
  '__proto__',
];
const cdiValues = [
  '0.6.0',
  'v.com/c',
  'd',
  'A=1',
  '/dev/null',
  'c',
  'createRuntime',
  '/bin/true',
  5,
  [],
  {},
  ['A=1'],
  [5],
  [null],
  [{ path: '/dev/x' }],
];
/** A valid file in which some places are anything. */
const cdiFile = fc
  .record({
    edits: jsonWith(cdiKeys, cdiValues),
    list: jsonWith(cdiKeys, cdiValues),
    key: fc.constantFrom('env', 'deviceNodes', 'mounts', 'hooks', 'additionalGids', 'intelRdt'),
    own: fc.boolean(),
  })
  .map(({ edits, list, key, own }) => ({
    cdiVersion: '0.6.0',
    kind: 'v.com/c',
    devices: [{ name: 'd', containerEdits: own ? { env: ['A=1'], [key]: list } : edits }],
    containerEdits: { [key]: list },
  }));

test('CDI files of any shape: their devices are usable, or the request for one is refused', () =>
  holds(
    fc.asyncProperty(fc.oneof(cdiFile, jsonWith(cdiKeys, cdiValues)), fc.boolean(), async (value, yaml) => {
      // JSON is YAML too.
      const path = `/etc/cdi/x.${yaml ? 'yaml' : 'json'}`;
      const registry = await cdiRegistry([{ path, text: JSON.stringify(value) ?? '', priority: 0 }]);
      await refusesWith('INVALID_REQUEST', async () => {
        const edits = await resolveCdiEdits(cdiEdits(registry, ['v.com/c=d']), async (_, inContainer) => [
          { path: inContainer, type: 'c', major: 1, minor: 3, fileMode: 0o666, uid: 0, gid: 0 },
        ]);
        for (const text of edits.env) assert.equal(typeof text, 'string');
        for (const gid of edits.additionalGids) assert.ok(Number.isInteger(gid));
        for (const { path: node } of edits.devices) assert.equal(typeof node, 'string');
        for (const { destination, source, options } of edits.mounts) {
          assert.equal(typeof destination, 'string');
          assert.equal(typeof source, 'string');
          for (const option of options ?? []) assert.equal(typeof option, 'string');
        }
        for (const { hook } of edits.hooks) for (const arg of hook.args ?? []) assert.equal(typeof arg, 'string');
      });
    }),
    400,
  ));

test('CDI files of any text never make the registry fail', () =>
  holds(
    fc.asyncProperty(fc.string(), fc.boolean(), async (text, yaml) => {
      const { devices } = await cdiRegistry([{ path: `/etc/cdi/x.${yaml ? 'yaml' : 'json'}`, text, priority: 0 }]);
      assert.equal(devices.size, 0);
    }),
  ));

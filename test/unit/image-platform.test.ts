import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  checkPlatform,
  choosePlatform,
  type Descriptor,
  parseConfig,
  parseManifest,
  platformsOf,
} from '../../src/node/images/platform.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;
const OCI = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG = 'application/vnd.oci.image.config.v1+json';
const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip';
const json = (value: unknown) => Buffer.from(JSON.stringify(value));
const of = (mediaType: string, size = 1) => ({ mediaType, digest: DIGEST, size });
const manifest = (...layers: string[]) =>
  json({ mediaType: OCI, config: of(CONFIG), layers: layers.map((type) => of(type)) });
const invalid = (words: RegExp) => (error: Error & { code?: string }) => {
  assert.equal(error.code, 'IMAGE_INVALID');
  assert.match(error.message, words);
  return true;
};

test('manifests of OCI and docker', () => {
  const types = [
    LAYER,
    'application/vnd.oci.image.layer.v1.tar',
    'application/vnd.oci.image.layer.v1.tar+zstd',
    'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
    'application/vnd.docker.image.rootfs.diff.tar.gzip',
    'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
  ];
  const found = parseManifest(manifest(...types), '');
  assert.ok(found.kind === 'image');
  assert.deepEqual(
    found.layers.map(({ mediaType }) => mediaType),
    types,
  );
  const docker = json({ config: of('application/vnd.docker.container.image.v1+json'), layers: [] });
  assert.equal(parseManifest(docker, 'application/vnd.docker.distribution.manifest.v2+json').kind, 'image');
  assert.equal(parseManifest(json({ manifests: [] }), 'application/vnd.oci.image.index.v1+json').kind, 'index');
  assert.equal(parseManifest(json({ manifests: [] }), '').kind, 'index');
});

test('manifests that cannot be run say why', () => {
  const schema1 = 'application/vnd.docker.distribution.manifest.v1+prettyjws';
  const read = (body: unknown, type = OCI) => parseManifest(Buffer.isBuffer(body) ? body : json(body), type);
  assert.throws(() => read({ schemaVersion: 1, fsLayers: [] }), invalid(/schema 1/));
  assert.throws(() => read({}, schema1), invalid(/schema 1/));
  assert.throws(() => read(manifest(`${LAYER}+encrypted`)), invalid(/encrypted/));
  assert.throws(() => read(manifest('text/plain')), invalid(/unknown type text\/plain/));
  assert.throws(
    () => read({ config: of('application/vnd.cncf.helm.config.v1+json'), layers: [] }),
    invalid(/artifact.*helm/),
  );
  assert.throws(() => read(Buffer.from('<html>')), invalid(/manifest is no JSON/));
  assert.throws(() => read([]), invalid(/no JSON object/));
  assert.throws(() => read({}), invalid(/neither/));
  assert.throws(() => read({ config: of(CONFIG, -1), layers: [] }), invalid(/size/));
  assert.throws(() => read({ config: { ...of(CONFIG), digest: '../../etc' }, layers: [] }), invalid(/digest/));
  assert.throws(() => read({ config: of(CONFIG), layers: {} }), invalid(/no list/));
  assert.throws(() => read(manifest(...Array<string>(501).fill(LAYER))), invalid(/501 layers/));
});

test('the config must fit the manifest', () => {
  const layers = [of(LAYER)];
  assert.throws(() => parseConfig(json({ rootfs: { diff_ids: [] } }), layers), invalid(/1 layers and the config 0/));
  assert.throws(() => parseConfig(json({ rootfs: { diff_ids: ['x'] } }), layers), invalid(/no list of digests/));
  assert.throws(() => parseConfig(json({}), layers), invalid(/diffIDs/));
  assert.throws(() => parseConfig(json('x'), layers), invalid(/no JSON object/));
  assert.deepEqual(parseConfig(json({ rootfs: { diff_ids: [DIGEST] } }), layers).rootfs.diff_ids, [DIGEST]);
});

const entry = (name: string): Descriptor => {
  const [os = '', architecture = '', variant] = name.split('/');
  return { mediaType: OCI, digest: name, size: 1, platform: name === '' ? undefined : { os, architecture, variant } };
};
const choose = (host: ReturnType<typeof platformsOf>, ...names: string[]) =>
  choosePlatform(names.map(entry), host).digest;

test('the best manifest of an index for the machine', () => {
  const plain = platformsOf('x64', 'flags : fpu');
  const v3 = platformsOf(
    'x64',
    'flags\t\t: cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave\n',
  );
  const attested = ['linux/arm64', 'unknown/unknown', 'windows/amd64'];
  assert.equal(choose(plain, ...attested, 'linux/amd64'), 'linux/amd64');
  assert.equal(choose(plain, 'linux/amd64/v3', 'linux/amd64'), 'linux/amd64');
  assert.equal(choose(v3, 'linux/amd64', 'linux/amd64/v4', 'linux/amd64/v2', 'linux/amd64/v3'), 'linux/amd64/v3');
  assert.equal(choose(v3, 'linux/386'), 'linux/386');
  const arm = platformsOf('arm64', '');
  assert.equal(choose(arm, 'linux/arm/v6', 'linux/arm/v7', 'linux/arm64/v8'), 'linux/arm64/v8');
  assert.equal(choose(arm, 'linux/arm/v6', 'linux/arm'), 'linux/arm');
  assert.equal(choose(arm, 'linux/aarch64'), 'linux/aarch64');
  assert.equal(choose(plain, ''), '');
  assert.throws(() => choose(plain, ...attested), invalid(/no match for platform.*linux\/amd64.*linux\/arm64/));
});

test('a lone image for another machine', () => {
  const host = platformsOf('x64', '');
  const file = (os?: string, architecture?: string) => ({ os, architecture, rootfs: { type: 'layers', diff_ids: [] } });
  checkPlatform(file('linux', 'amd64'), host);
  checkPlatform(file(), host);
  checkPlatform(file('linux', '386'), host);
  assert.throws(() => checkPlatform(file('windows', 'amd64'), host), invalid(/windows/));
  assert.throws(() => checkPlatform(file('linux', 's390x'), host), invalid(/s390x/));
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseConfig } from '../../src/node/images/image-file.ts';
import { type Descriptor, parseManifest } from '../../src/node/images/manifest.ts';
import { candidates, fits, noMatch, platformsOf } from '../../src/node/images/platform.ts';

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

test('fields are found in any case of letters, as Go finds them; the proper name counts first', () => {
  const odd = json({
    SchemaVersion: 2,
    Config: { MediaType: CONFIG, Digest: of(CONFIG).digest, SIZE: 7, size: 9 },
    LAYERS: [of(LAYER)],
  });
  const found = parseManifest(odd, OCI);
  assert.ok(found.kind === 'image');
  assert.equal(found.config.size, 9);
  assert.equal(found.layers.length, 1);
  const index = parseManifest(
    json({ Manifests: [{ ...of(OCI), Platform: { OS: 'linux', Architecture: 'arm64' } }] }),
    '',
  );
  assert.ok(index.kind === 'index');
  assert.deepEqual(index.manifests[0]?.platform, { os: 'linux', architecture: 'arm64', variant: undefined });
});

test('manifests that cannot be run say why', () => {
  const schema1 = 'application/vnd.docker.distribution.manifest.v1+prettyjws';
  const read = (body: unknown, type = OCI) => parseManifest(Buffer.isBuffer(body) ? body : json(body), type);
  assert.throws(() => read({ schemaVersion: 1, fsLayers: [] }), invalid(/schema 1/));
  assert.throws(() => read({}, schema1), invalid(/schema 1/));
  assert.throws(() => read(manifest(`${LAYER}+encrypted`)), invalid(/encrypted/));
  assert.throws(() => read(manifest('text/plain')), invalid(/unknown type text\/plain/));
  assert.throws(() => read(Buffer.from('<html>')), invalid(/manifest is not JSON.*<html>/));
  assert.throws(() => read([]), invalid(/not a JSON object/));
  assert.throws(() => read({}), invalid(/neither/));
  assert.throws(() => read({ config: of(CONFIG, -1), layers: [] }), invalid(/size/));
  assert.throws(() => read({ config: { ...of(CONFIG), digest: '../../etc' }, layers: [] }), invalid(/digest/));
  assert.throws(() => read({ config: of(CONFIG), layers: {} }), invalid(/not a list/));
  assert.throws(() => read(manifest(...Array<string>(501).fill(LAYER))), invalid(/501 layers/));
});

test('a text that is both an image and an index is refused (CVE-2021-41190)', () => {
  const both = json({ config: of(CONFIG), layers: [of(LAYER)], manifests: [of(OCI)] });
  for (const type of [OCI, 'application/vnd.oci.image.index.v1+json', ''])
    assert.throws(() => parseManifest(both, type), invalid(/image and of an index/));
});

test('an artifact is a list of files, whose names stay inside', () => {
  const file = (title?: string) => ({
    ...of('application/octet-stream'),
    annotations: title === undefined ? {} : { 'org.opencontainers.image.title': title },
  });
  const artifact = (...titles: (string | undefined)[]) =>
    parseManifest(json({ artifactType: 'a/model', config: of('x/empty'), layers: titles.map(file) }), OCI);
  const found = artifact('weights/model.bin', undefined);
  assert.ok(found.kind === 'artifact');
  assert.equal(found.type, 'a/model');
  assert.deepEqual(
    found.files.map(({ name }) => name),
    ['weights/model.bin', DIGEST.replace(':', '-')],
  );
  for (const name of ['../x', '/etc/passwd', 'a//b', '', 'a/..', '.'])
    assert.throws(() => artifact(name), invalid(/has a file with the name/), name);
  assert.equal(artifact().kind, 'artifact', 'an artifact without files');
});

test('fields of the config that would run something else are refused, odd ones that do not matter are not', () => {
  const read = (config: unknown, top = {}) => parseConfig(json({ config, ...top }), []);
  for (const [config, words] of [
    [{ Entrypoint: '/bin/sh' }, /Entrypoint.*list of strings/],
    [{ Cmd: 'sh' }, /Cmd.*list of strings/],
    [{ Cmd: ['sh', 1] }, /Cmd/],
    [{ Env: { A: 'b' } }, /Env/],
    [{ Volumes: ['/data'] }, /Volumes.*object/],
    [{ Labels: 'x' }, /Labels/],
    [{ User: 0 }, /User.*string/],
    [{ WorkingDir: ['/'] }, /WorkingDir/],
    ['sh', /config.*object/],
  ] as const)
    assert.throws(() => read(config), invalid(words));
  const odd = { Entrypoint: null, Cmd: null, Env: null, Volumes: null, User: null, Healthcheck: 7 };
  assert.equal(read(odd, { created: 1700000000, history: null }).created, undefined);
  assert.equal(read(undefined).config, null);
  assert.deepEqual(read({ Cmd: ['sh', null], Env: [null] }).config, { Cmd: ['sh', ''], Env: [''] });
  // Go finds fields in any case of letters, and tools have been written against that.
  assert.deepEqual(parseConfig(json({ Config: { entrypoint: ['/x'] }, RootFS: { Diff_IDs: [] } }), []).config, {
    Entrypoint: ['/x'],
  });
});

test('the config must fit the manifest', () => {
  const layers = [of(LAYER)];
  assert.throws(() => parseConfig(json({ rootfs: { diff_ids: [] } }), layers), invalid(/1 layers and the config 0/));
  assert.throws(() => parseConfig(json({ rootfs: { diff_ids: ['x'] } }), layers), invalid(/not a list of digests/));
  assert.throws(() => parseConfig(json({}), layers), invalid(/diffIDs/));
  assert.throws(() => parseConfig(json('x'), layers), invalid(/not a JSON object/));
  assert.deepEqual(parseConfig(json({ rootfs: { diff_ids: [DIGEST] } }), layers).rootfs.diff_ids, [DIGEST]);
});

const entry = (name: string): Descriptor => {
  const [os = '', architecture = '', variant] = name.split('/');
  return { mediaType: OCI, digest: name, size: 1, platform: name === '' ? undefined : { os, architecture, variant } };
};
const choose = (host: ReturnType<typeof platformsOf>, ...names: string[]) =>
  candidates(names.map(entry), host)[0]?.digest;

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
  assert.equal(choose(plain, ...attested), undefined);
  assert.match(noMatch(attested.map(entry), plain).message, /no match for platform.*linux\/amd64.*linux\/arm64/);
});

test('a lone image for another machine', () => {
  const host = platformsOf('x64', '');
  const file = (os?: string, architecture?: string) => ({ os, architecture, rootfs: { type: 'layers', diff_ids: [] } });
  for (const [os, architecture] of [['linux', 'amd64'], [], ['linux', '386'], ['Linux', 'AMD64'], ['', 'x86_64']])
    assert.equal(fits(file(os, architecture), host), 'yes', `${os} ${architecture}`);
  assert.equal(fits(file('windows', 'amd64'), host), 'no');
  assert.equal(fits(file('linux', 's390x'), host), 'other');
});

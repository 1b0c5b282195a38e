import assert from 'node:assert/strict';
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { digestOf } from '../../src/node/images/digest.ts';
import { parseReference } from '../../src/node/images/reference.ts';
import * as signatures from '../../src/node/images/signatures.ts';
import { type Rule, ruleFor, type SignatureSource } from '../../src/node/images/signatures.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';

const checkSignature = (
  policy: string,
  image: Parameters<typeof signatures.checkSignature>[1],
  source: SignatureSource,
) => signatures.checkSignature(policy, image, source, hostFiles);

const DIGEST = `sha256:${'d'.repeat(64)}`;
const image = { reference: parseReference('reg.io/team/app:1'), digest: DIGEST };
const nothing: SignatureSource = {
  tagged: async () => undefined,
  blob: async () => assert.fail('no blob is asked for'),
};

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-signatures-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** What cosign stores beside an image: a payload for each signature. */
function signed(
  ...signatures: { key: KeyObject; digest?: string; type?: string; broken?: boolean }[]
): SignatureSource {
  const blobs = new Map<string, Buffer>();
  const layers = signatures.map(({ key, digest = DIGEST, type = 'cosign container image signature', broken }) => {
    const identity = { 'docker-reference': 'reg.io/team/app' };
    const payload = Buffer.from(
      JSON.stringify({ critical: { identity, image: { 'docker-manifest-digest': digest }, type }, optional: null }),
    );
    blobs.set(digestOf(payload), payload);
    const made = sign(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', payload, key);
    if (broken) made[10] = (made[10] ?? 0) ^ 1;
    return {
      mediaType: 'application/vnd.dev.cosign.simplesigning.v1+json',
      digest: digestOf(payload),
      size: payload.length,
      annotations: { 'dev.cosignproject.cosign/signature': made.toString('base64') },
    };
  });
  return {
    tagged: async (tag) => {
      assert.equal(tag, `sha256-${'d'.repeat(64)}.sig`);
      return { digest: '', mediaType: '', body: Buffer.from(JSON.stringify({ schemaVersion: 2, layers })) };
    },
    blob: async (digest) => blobs.get(digest) ?? assert.fail(`no blob ${digest}`),
  };
}

function policy(folder: string, text: string): string {
  const file = join(folder, 'policy.toml');
  writeFileSync(file, text);
  return file;
}

const refuses = (work: Promise<void>, words: RegExp) =>
  assert.rejects(work, { code: 'SIGNATURE_INVALID', message: words });

test('the longest rule that fits decides, component by component', () => {
  const rule = (program: string): Rule => ({ require: 'program', program });
  const rules = new Map([
    ['*', rule('/all')],
    ['reg.io', rule('/reg')],
    ['reg.io/team', rule('/team')],
    ['reg.io/team/app', rule('/app')],
  ]);
  const found = (repository: string) => (ruleFor(rules, repository) as { program: string }).program;
  assert.equal(found('reg.io/team/app'), '/app');
  assert.equal(found('reg.io/team/app2'), '/team');
  assert.equal(found('reg.io/teams/app'), '/reg');
  assert.equal(found('reg.io.evil/team/app'), '/all');
  assert.deepEqual(ruleFor(new Map(), 'reg.io/app'), { require: 'none' });
});

test('cosign: signatures by keys of the policy pass, all others are refused', async (t) => {
  const folder = folderOf(t);
  const pairs = [
    generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    generateKeyPairSync('rsa', { modulusLength: 2048 }),
    generateKeyPairSync('ed25519'),
  ];
  for (const { publicKey, privateKey: key } of pairs) {
    const pem = join(folder, 'key.pub');
    writeFileSync(pem, publicKey.export({ type: 'spki', format: 'pem' }));
    const file = policy(folder, `[registry."reg.io"]\nrequire = "cosign"\nkeys = ["${pem}"]\n`);
    const stranger = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
    await checkSignature(file, image, signed({ key }));
    await checkSignature(file, image, signed({ key: stranger }, { key }));
    await refuses(checkSignature(file, image, nothing), /it has no cosign signature/);
    await refuses(checkSignature(file, image, signed()), /none of its 0 cosign signatures/);
    await refuses(checkSignature(file, image, signed({ key: stranger })), /none of its 1 cosign signatures/);
    await refuses(checkSignature(file, image, signed({ key, broken: true })), /none of its 1/);
    // A signature of another image, which somebody has put under this one's tag.
    await refuses(checkSignature(file, image, signed({ key, digest: `sha256:${'e'.repeat(64)}` })), /none of its 1/);
    await refuses(checkSignature(file, image, signed({ key, type: 'something else' })), /none of its 1/);
  }
});

test('an external verifier decides by its status, with containerd’s arguments', async (t) => {
  const folder = folderOf(t);
  const program = join(folder, 'verifier');
  const script = (text: string) => {
    writeFileSync(program, `#!/bin/sh\n${text}\n`);
    chmodSync(program, 0o755);
  };
  const file = policy(folder, `[registry."*"]\nrequire = "program"\nprogram = "${program}"\n`);
  script(
    `[ "$*" = "-name reg.io/team/app:1 -digest ${DIGEST} -stdin-media-type application/vnd.oci.descriptor.v1+json" ] && grep -q ${DIGEST}`,
  );
  await checkSignature(file, image, nothing);
  script('echo "not from our pipeline"; exit 1');
  await refuses(checkSignature(file, image, nothing), /verifier refuses it: not from our pipeline/);
});

test('none, deny, and policies that cannot be used', async (t) => {
  const folder = folderOf(t);
  await checkSignature(
    policy(folder, '[registry."reg.io"]\nrequire = "none"\n[registry."*"]\nrequire = "deny"\n'),
    image,
    nothing,
  );
  await refuses(
    checkSignature(policy(folder, '[registry."*"]\nrequire = "deny"\n'), image, nothing),
    /denies this repository/,
  );
  for (const [text, words] of [
    ['[registry."*"]\nrequire = "keyless"\n', /require must be/],
    ['[registry."*"]\nrequire = "cosign"\n', /keys must be a list/],
    ['[registry."*"]\nrequire = "cosign"\nkeys = ["/nonexistent"]\n', /public key \/nonexistent/],
    ['[registry."*"]\nrequire = "program"\nprogram = "x"\n', /absolute path/],
    ['registry = 1\n', /must be a table/],
    ['=', /policy\.toml/],
  ] as const)
    await assert.rejects(checkSignature(policy(folder, text), image, nothing), {
      code: 'CONFIG_INVALID',
      message: words,
    });
  await assert.rejects(checkSignature('/nonexistent', image, nothing), { code: 'CONFIG_INVALID' });
});

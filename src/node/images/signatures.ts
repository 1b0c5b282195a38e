/**
 * Signatures: a policy for each registry or repository decides whether an image must be signed, and by whom. Keyless
 * signatures (certificates of Fulcio, the log of Rekor) are not supported.
 */
import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { parse } from 'smol-toml';
import { explain, SluiceError, unusable } from '../../errors.ts';
import { run } from '../../sys/spawn.ts';
import type { HostFiles } from '../../workers/host-paths/read-file.ts';
import { isObject, type Json } from '../../workers/json.ts';
import { commandOf, firstExecutable } from '../../workers/programs.ts';
import type { Descriptor } from './manifest.ts';
import { parseJson } from './manifest.ts';
import { fullName, nameOf, type Reference } from './reference.ts';
import type { Content } from './registry.ts';

export type Rule =
  | { require: 'none' }
  | { require: 'deny' }
  /** A signature of cosign by one of these public keys (PEM files). */
  | { require: 'cosign'; keys: string[] }
  /** A program with containerd's protocol for image verifiers (its docs/image-verification.md). */
  | { require: 'program'; program: string };

/** Where signatures are found: the repository of the image. */
export interface SignatureSource {
  /** The manifest under a tag; undefined when there is none. */
  tagged(tag: string): Promise<Content | undefined>;
  blob(digest: string): Promise<Buffer>;
}

const SIGNATURE = 'dev.cosignproject.cosign/signature';
const PAYLOAD_TYPE = 'application/vnd.dev.cosign.simplesigning.v1+json';
const MAX_SIGNATURES = 50;
const PROGRAM_TIMEOUT_MS = 30_000;
const MAX_OUTPUT = 16 << 10;
/** Above any real policy or key. */
const MAX_BYTES = 4 << 20;

/**
 * Checks an image against the policy file, which is read anew so that a change needs no restart. Throws
 * SIGNATURE_INVALID when the image may not be pulled, CONFIG_INVALID for a policy that cannot be used.
 */
export async function checkSignature(
  policyFile: string,
  image: { reference: Reference; digest: string },
  source: SignatureSource,
  host: HostFiles,
): Promise<void> {
  const rule = ruleFor(await readPolicy(policyFile, host), nameOf(image.reference));
  switch (rule.require) {
    case 'none':
      return;
    case 'deny':
      throw refused(image, 'the signature policy denies this repository');
    case 'cosign':
      return checkCosign(image, await Promise.all(rule.keys.map((path) => readKey(path, host))), source);
    case 'program':
      return askProgram(image, rule.program);
  }
}

type Policy = ReadonlyMap<string, Rule>;

/** [registry."reg.io/team"] tables by the beginning of the repository's name; "*" for all others. */
async function readPolicy(file: string, host: HostFiles): Promise<Policy> {
  try {
    const { registry = {} } = parse(await readText(file, host));
    if (!isObject(registry)) throw new Error('registry must be a table');
    return new Map(Object.entries(registry).map(([name, table]) => [name, readRule(name, table)]));
  } catch (cause) {
    throw new SluiceError(unusable(cause), `images.signature_policy: ${file}: ${explain(cause)}`, { cause });
  }
}

/** Throws for a longer file, which is none of ours. */
async function readText(path: string, host: HostFiles): Promise<string> {
  const text = await host.read(path, MAX_BYTES + 1);
  if (Buffer.byteLength(text) > MAX_BYTES) throw new Error(`${path} is longer than ${MAX_BYTES} bytes`);
  return text;
}

function readRule(name: string, table: unknown): Rule {
  const { require, keys, program }: Json = isObject(table) ? table : {};
  if (require === 'none' || require === 'deny') return { require };
  if (require === 'cosign') {
    const isList = Array.isArray(keys) && keys.length > 0 && keys.every((key) => typeof key === 'string');
    if (!isList) throw new Error(`registry."${name}": keys must be a list of files`);
    return { require, keys };
  }
  if (require === 'program') {
    if (typeof program !== 'string' || !program.startsWith('/'))
      throw new Error(`registry."${name}": program must be an absolute path`);
    return { require, program };
  }
  throw new Error(`registry."${name}": require must be "none", "deny", "cosign" or "program"`);
}

/**
 * The rule with the longest name that the repository begins with, component by component. A repository without one is
 * free.
 */
export function ruleFor(policy: Policy, repository: string): Rule {
  const parts = repository.split('/');
  for (let length = parts.length; length > 0; length--) {
    const rule = policy.get(parts.slice(0, length).join('/'));
    if (rule) return rule;
  }
  return policy.get('*') ?? { require: 'none' };
}

async function readKey(path: string, host: HostFiles): Promise<KeyObject> {
  try {
    return createPublicKey(await readText(path, host));
  } catch (cause) {
    throw new SluiceError(unusable(cause), `the public key ${path} cannot be used: ${explain(cause)}`, { cause });
  }
}

/**
 * cosign keeps signatures under a tag made of the digest (cosign's specs/SIGNATURE_SPEC.md); each layer is a signed
 * payload.
 */
async function checkCosign(
  image: { reference: Reference; digest: string },
  keys: readonly KeyObject[],
  source: SignatureSource,
): Promise<void> {
  const found = await source.tagged(`${image.digest.replace(':', '-')}.sig`);
  if (!found) throw refused(image, 'it has no cosign signature');
  const { layers } = parseJson(found.body, 'the manifest of the signatures');
  const signatures = (Array.isArray(layers) ? layers : []).filter(isSignature).slice(0, MAX_SIGNATURES);
  for (const { digest, annotations } of signatures) {
    const payload = await source.blob(digest);
    const signature = Buffer.from(annotations[SIGNATURE] ?? '', 'base64');
    const isSigned = keys.some((key) => verifies(key, payload, signature));
    if (isSigned && signedDigest(payload) === image.digest) return;
  }
  throw refused(
    image,
    `none of its ${signatures.length} cosign signatures is by a key of the policy and for this digest`,
  );
}

function isSignature(layer: unknown): layer is Descriptor & { annotations: Record<string, string> } {
  if (!isObject(layer) || layer.mediaType !== PAYLOAD_TYPE || typeof layer.digest !== 'string') return false;
  return isObject(layer.annotations) && typeof layer.annotations[SIGNATURE] === 'string';
}

/** ECDSA and RSA sign the SHA-256 of the payload, Ed25519 the payload itself. */
function verifies(key: KeyObject, payload: Buffer, signature: Buffer): boolean {
  try {
    return verify(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', payload, key, signature);
  } catch {
    return false; // a signature of another kind of key
  }
}

/** The digest that a payload is about (containers/image's simple signing, which cosign uses). */
function signedDigest(payload: Buffer): string | undefined {
  const { critical } = parseJson(payload, 'the payload of a signature');
  const { image, type }: Json = isObject(critical) ? critical : {};
  const { 'docker-manifest-digest': digest }: Json = isObject(image) ? image : {};
  return type === 'cosign container image signature' && typeof digest === 'string' ? digest : undefined;
}

/** Status 0 lets the image pass; what the program prints is the reason for a refusal. */
async function askProgram(image: { reference: Reference; digest: string }, program: string): Promise<void> {
  const { reference, digest } = image;
  const type = 'application/vnd.oci.descriptor.v1+json';
  const args = ['-name', fullName(reference), '-digest', digest, '-stdin-media-type', type];
  const { found } = await firstExecutable([program]);
  if (!found) throw new SluiceError('CONFIG_INVALID', `the verifier ${program} cannot be executed`);
  const result = await run({
    ...commandOf(found, args),
    env: { PATH: process.env.PATH ?? '/usr/bin:/bin' },
    stdin: Buffer.from(JSON.stringify({ mediaType: 'application/vnd.oci.image.manifest.v1+json', digest, size: 0 })),
    timeoutMs: PROGRAM_TIMEOUT_MS,
    maxOutput: MAX_OUTPUT,
  });
  if (result.timedOut) throw refused(image, `${program} did not answer within ${PROGRAM_TIMEOUT_MS / 1000} s`);
  if (result.code === 0) return;
  const said = result.stdout.toString('utf8').trim() || result.stderr.toString('utf8').trim();
  throw refused(image, `${program} refuses it${said && `: ${said}`}`);
}

function refused({ reference, digest }: { reference: Reference; digest: string }, why: string): SluiceError {
  return new SluiceError('SIGNATURE_INVALID', `${nameOf(reference)}@${digest}: ${why}`);
}

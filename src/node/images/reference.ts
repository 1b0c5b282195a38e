/**
 * Image references as Docker reads them (the grammar of distribution's `reference` package). Missing parts are
 * completed, so that "busybox" and "docker.io/library/busybox:latest" are one image.
 */
import { SluiceError } from '../../errors.ts';
import { isDigest } from './digest.ts';

export interface Reference {
  /** The registry as written, host or host:port; "docker.io" when it is missing. */
  registry: string;
  /** Repository in that registry, for example library/busybox. */
  repository: string;
  /** Absent when the reference names a digest alone. */
  tag?: string;
  /** Digest of the manifest or index. */
  digest?: string;
}

const DOCKER_HUB = 'docker.io';
const LABEL = '[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?';
const REGISTRY = new RegExp(`^(?:${LABEL}(?:\\.${LABEL})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`);
const COMPONENT = '[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*';
const REPOSITORY = new RegExp(`^${COMPONENT}(?:/${COMPONENT})*$`);
const TAG = /^\w[\w.-]{0,127}$/;
const HEX_ID = /^[0-9a-f]{64}$/;
const MAX_NAME = 255;

/**
 * Parses a reference; a missing registry becomes docker.io, and "latest" the tag where there is neither tag nor digest.
 * Throws INVALID_REQUEST.
 */
export function parseReference(text: string): Reference {
  const wrong = (why: string) => new SluiceError('INVALID_REQUEST', `"${text}" is not an image reference: ${why}`);
  const [beforeDigest = '', digest, ...more] = text.split('@');
  if (more.length > 0 || (digest !== undefined && !isDigest(digest))) throw wrong('what follows "@" is not a digest');
  const colon = beforeDigest.lastIndexOf(':');
  const hasTag = colon > beforeDigest.lastIndexOf('/');
  const name = hasTag ? beforeDigest.slice(0, colon) : beforeDigest;
  const tag = hasTag ? beforeDigest.slice(colon + 1) : undefined;
  if (tag !== undefined && !TAG.test(tag)) throw wrong(`"${tag}" is not a tag`);
  if (HEX_ID.test(name)) throw wrong('64 hex digits are an id');
  const { registry, repository } = split(name);
  if (!REGISTRY.test(registry)) throw wrong(`"${registry}" is not a registry`);
  if (repository !== repository.toLowerCase()) throw wrong('a repository has lower-case letters only');
  if (!REPOSITORY.test(repository))
    throw wrong(repository === '' ? 'it has no name' : `"${repository}" is not a repository`);
  if (registry.length + 1 + repository.length > MAX_NAME) throw wrong(`its name is longer than ${MAX_NAME} characters`);
  return { registry, repository, tag: tag ?? (digest === undefined ? 'latest' : undefined), digest };
}

/** registry/repository. */
export const nameOf = ({ registry, repository }: Reference): string => `${registry}/${repository}`;

/** registry/repository:tag; undefined without a tag, and with a digest, which then decides. */
export const tagName = (reference: Reference): string | undefined =>
  reference.tag === undefined || reference.digest !== undefined ? undefined : `${nameOf(reference)}:${reference.tag}`;

export const digestName = (reference: Reference, digest: string): string => `${nameOf(reference)}@${digest}`;

/** The whole reference, completed; pulls are joined by it. */
export const fullName = (reference: Reference): string =>
  reference.digest === undefined ? `${nameOf(reference)}:${reference.tag}` : digestName(reference, reference.digest);

/**
 * The first part is a registry only when it has the form of a host; otherwise the whole is a repository of Docker Hub.
 */
function split(name: string): { registry: string; repository: string } {
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  const isHost = /[.:[]/.test(first) || first === 'localhost' || first !== first.toLowerCase();
  if (slash < 0 || !isHost) return hub(name);
  if (first === DOCKER_HUB || first === `index.${DOCKER_HUB}`) return hub(name.slice(slash + 1));
  return { registry: first, repository: name.slice(slash + 1) };
}

function hub(repository: string): { registry: string; repository: string } {
  const official = repository !== '' && !repository.includes('/');
  return { registry: DOCKER_HUB, repository: official ? `library/${repository}` : repository };
}

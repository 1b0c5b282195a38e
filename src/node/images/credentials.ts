/** Logins for registries: from kubelet (CRI AuthConfig), and from a file in docker's config.json format. */
import { createHash } from 'node:crypto';
import type { AuthConfig } from '../../../proto/gen/cri.ts';
import { explain, SluiceError, unusable } from '../../errors.ts';
import { run } from '../../sys/spawn.ts';
import type { HostFiles } from '../../workers/host-paths/read-file.ts';
import { isObject, type Json } from '../../workers/json.ts';
import { commandOf, findExecutable } from '../../workers/programs.ts';

export type Credentials =
  | { kind: 'password'; username: string; password: string }
  /** An OAuth refresh token ("identity token"). */
  | { kind: 'identity'; token: string }
  /** A bearer token that is sent as it is. */
  | { kind: 'registry'; token: string };

/** Docker Hub has several names for one login. */
const HUB = new Set(['docker.io', 'index.docker.io', 'registry-1.docker.io']);
/** The key under which docker keeps the login for Docker Hub. */
const HUB_KEY = 'https://index.docker.io/v1/';
/** What a credential helper gives as the user name of an identity token (docker-credential-helpers). */
const TOKEN_USER = '<token>';
const HELPER_TIMEOUT_MS = 30_000;
const FILE_LIMIT = 4 << 20;

/**
 * The credentials for `host` in CRI's AuthConfig; those that name another server are not for it. Throws INVALID_REQUEST
 * when `auth` is not base64 of user:password.
 */
export function credentialsFor(auth: AuthConfig | undefined, host: string): Credentials | undefined {
  if (!auth || !isFor(auth.serverAddress, host)) return undefined;
  if (auth.username !== '') return { kind: 'password', username: auth.username, password: auth.password };
  if (auth.identityToken !== '') return { kind: 'identity', token: auth.identityToken };
  if (auth.auth !== '') {
    const text = Buffer.from(auth.auth, 'base64').toString('utf8');
    const colon = text.indexOf(':');
    if (colon < 0) throw new SluiceError('INVALID_REQUEST', 'auth is not the base64 form of user:password');
    // Docker pads the password with NUL.
    return { kind: 'password', username: text.slice(0, colon), password: text.slice(colon + 1).replace(/\0+$/, '') };
  }
  if (auth.registryToken !== '') return { kind: 'registry', token: auth.registryToken };
  return undefined;
}

/** A text that is equal for equal logins and reveals nothing of them; "" for none. */
export function authKey(auth: AuthConfig | undefined): string {
  if (!auth) return '';
  const { username, password, auth: basic, serverAddress, identityToken, registryToken } = auth;
  const all = [username, password, basic, serverAddress, identityToken, registryToken];
  if (all.every((text) => text === '')) return '';
  return createHash('sha256').update(JSON.stringify(all)).digest('hex');
}

function isFor(serverAddress: string, host: string): boolean {
  if (serverAddress === '') return true;
  const named = hostIn(serverAddress);
  return named !== undefined && sameHost(named, host);
}

const sameHost = (one: string, other: string) => one === other || (HUB.has(one) && HUB.has(other));

/** host[:port] of an address with or without a scheme. */
function hostIn(address: string): string | undefined {
  const withScheme = /^[a-z]+:\/\//i.test(address) ? address : `https://${address}`;
  return URL.canParse(withScheme) ? new URL(withScheme).host : undefined;
}

/**
 * The login for a repository (`registry/path`) in docker's config.json at `path`: the helper that credHelpers names for
 * the registry, the longest fitting entry of auths (containers-auth.json(5) allows paths), then the helper of
 * credsStore. Undefined when there is none. Throws CONFIG_INVALID for a file that cannot be read and for a helper that
 * fails.
 */
export async function storedAuth(path: string, repository: string, host: HostFiles): Promise<AuthConfig | undefined> {
  const file = await readConfig(path, host);
  const registry = repository.split('/', 1)[0] ?? '';
  const helpers = tableIn(file, 'credHelpers');
  const helper = Object.keys(helpers).find((name) => sameHost(hostIn(name) ?? name, registry));
  if (helper !== undefined) return fromHelper(String(helpers[helper]), keyFor(registry));
  const auths = tableIn(file, 'auths');
  const fitting = Object.keys(auths)
    .filter((key) => fits(key, repository))
    .sort((a, b) => b.length - a.length);
  for (const key of fitting) {
    const found = authOf(tableIn(auths, key), registry);
    if (found) return found;
  }
  const store = file.credsStore;
  return typeof store === 'string' && store !== '' ? fromHelper(store, keyFor(registry)) : undefined;
}

const keyFor = (registry: string) => (HUB.has(registry) ? HUB_KEY : registry);

async function readConfig(path: string, host: HostFiles): Promise<Json> {
  try {
    const text = await host.read(path, FILE_LIMIT + 1);
    if (text.length > FILE_LIMIT) throw new Error(`it is longer than ${FILE_LIMIT} characters`);
    const json: unknown = JSON.parse(text);
    if (!isObject(json)) throw new Error('it is not a JSON object');
    return json;
  } catch (cause) {
    throw new SluiceError(unusable(cause), `images.credentials: ${path}: ${explain(cause)}`, { cause });
  }
}

function tableIn(json: Json, key: string): Json {
  const value = json[key];
  return isObject(value) ? value : {};
}

/**
 * An entry fits its registry as a whole, or the repositories below its path; docker's old `/v1/` and `/v2/` are no
 * path.
 */
function fits(key: string, repository: string): boolean {
  const host = hostIn(key);
  if (host === undefined) return false;
  const [registry = '', ...rest] = repository.split('/');
  if (!sameHost(host, registry)) return false;
  const path = key
    .replace(/^[a-z]+:\/\//i, '')
    .split('/')
    .slice(1)
    .filter((part) => part !== '');
  if (path.length === 0 || (path.length === 1 && /^v[12]$/.test(path[0] ?? ''))) return true;
  return path.every((part, index) => part === rest[index]);
}

function authOf(entry: Json, serverAddress: string): AuthConfig | undefined {
  const text = (key: string) => (typeof entry[key] === 'string' ? (entry[key] as string) : '');
  const auth: AuthConfig = {
    username: text('username'),
    password: text('password'),
    auth: text('auth'),
    serverAddress,
    identityToken: text('identitytoken'),
    registryToken: text('registrytoken'),
  };
  // Docker's config.json holds an identity token beside an `auth` that has the user name alone.
  if (auth.identityToken !== '') return { ...auth, username: '', password: '', auth: '' };
  const isEmpty = [auth.username, auth.auth, auth.registryToken].every((part) => part === '');
  return isEmpty ? undefined : auth;
}

/** Runs `docker-credential-NAME get` (docker-credential-helpers' protocol: the server on stdin, JSON on stdout). */
async function fromHelper(name: string, server: string): Promise<AuthConfig | undefined> {
  const wrong = (why: string, cause?: unknown) =>
    new SluiceError('CONFIG_INVALID', `docker-credential-${name} for ${server}: ${why}`, { cause });
  if (!/^[\w.-]+$/.test(name)) throw wrong('this is not the name of a credential helper');
  const folders = (process.env.PATH ?? '').split(':');
  const { found: helper } = await findExecutable(`docker-credential-${name}`, folders);
  if (!helper) throw wrong('the program is not in PATH');
  const env = Object.fromEntries(
    Object.entries(process.env).filter((pair): pair is [string, string] => pair[1] !== undefined),
  );
  const result = await run({
    ...commandOf(helper, ['get']),
    env,
    stdin: Buffer.from(`${server}\n`),
    timeoutMs: HELPER_TIMEOUT_MS,
  });
  const said = result.stdout.toString('utf8').trim();
  if (result.timedOut) throw wrong(`it did not answer within ${HELPER_TIMEOUT_MS / 1000} s`);
  if (result.code !== 0) {
    if (/not found/i.test(said)) return undefined;
    throw wrong(`it failed: ${said || result.stderr.toString('utf8').trim()}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(said);
  } catch (cause) {
    throw wrong('its answer is not JSON', cause); // the answer itself may hold a secret
  }
  const { Username: username, Secret: secret } = isObject(json) ? json : {};
  if (typeof username !== 'string' || typeof secret !== 'string') throw wrong('its answer has no Username and Secret');
  return username === TOKEN_USER
    ? authOf({ identitytoken: secret }, server)
    : authOf({ username, password: secret }, server);
}

/** Credentials of a pull, and the tokens that registries give for them (distribution's token specification; RFC 6749 for OAuth). */
import { createHash } from 'node:crypto';
import type { AuthConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { Tls } from '../../workers/image/secure.ts';
import type { HttpClient, Response } from './http.ts';

export type Credentials =
  | { kind: 'password'; username: string; password: string }
  /** An OAuth refresh token ("identity token"). */
  | { kind: 'identity'; token: string }
  /** A bearer token that is used as it is. */
  | { kind: 'registry'; token: string };

export interface Challenge {
  /** In lower case: bearer, basic. */
  scheme: string;
  parameters: Record<string, string>;
}

interface Token {
  header: string;
  /** Milliseconds since the epoch. */
  expires: number;
}

const CLIENT_ID = 'sluice';
/** What a token lives that does not say it (distribution's token specification). */
const DEFAULT_LIFE_SECONDS = 60;
/** A token is not used in its last seconds: the request needs time as well. */
const MARGIN_MS = 5000;
const TOKEN_LIMIT = 1 << 20;
/** Answers after which the form of a token request is tried as a plain GET: the server has no OAuth endpoint. */
const NO_OAUTH = new Set([400, 401, 404, 405]);
const MAX_TOKENS = 1000;

/**
 * The credentials that CRI's AuthConfig holds for `host`, if any: those that name another server are not for it.
 * Throws INVALID_REQUEST when `auth` is not base64 of user:password.
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

/** All of it in one text that tells logins apart and gives nothing away. */
export function authKey(auth: AuthConfig | undefined): string {
  if (!auth) return '';
  const { username, password, auth: basic, serverAddress, identityToken, registryToken } = auth;
  const all = [username, password, basic, serverAddress, identityToken, registryToken];
  if (all.every((text) => text === '')) return '';
  return createHash('sha256').update(JSON.stringify(all)).digest('hex');
}

/** Docker Hub has several names for one login. */
const HUB = new Set(['docker.io', 'index.docker.io', 'registry-1.docker.io']);

function isFor(serverAddress: string, host: string): boolean {
  if (serverAddress === '') return true;
  const withScheme = /^[a-z]+:\/\//i.test(serverAddress) ? serverAddress : `https://${serverAddress}`;
  if (!URL.canParse(withScheme)) return false;
  const named = new URL(withScheme).host;
  return named === host || (HUB.has(named) && HUB.has(host));
}

/** The challenges of a WWW-Authenticate header (RFC 9110 11.6.1), of which there may be several in one line. */
export function parseChallenges(header: string | undefined): Challenge[] {
  const challenges: Challenge[] = [];
  const part =
    /\s*,?\s*(?:([\w!#$%&'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))|([\w!#$%&'*+.^`|~-]+)(?=\s|,|$))/gy;
  for (const [, name, quoted, plain, scheme] of (header ?? '').matchAll(part)) {
    if (scheme !== undefined) challenges.push({ scheme: scheme.toLowerCase(), parameters: {} });
    const last = challenges.at(-1);
    if (name !== undefined && last)
      last.parameters[name.toLowerCase()] = quoted?.replace(/\\(.)/g, '$1') ?? plain ?? '';
  }
  return challenges;
}

export interface Login {
  challenges: Challenge[];
  credentials: Credentials | undefined;
  /** Repository that is pulled from. */
  repository: string;
  tls: Tls;
  dialTimeoutMs: number;
  /** A token was refused: the kept one is no good. */
  fresh: boolean;
}

/** Tokens by what they are for; shared by all pulls, since a token of a repository serves each of its blobs. */
export class Tokens {
  readonly #http: HttpClient;
  readonly #tokens = new Map<string, Token>();
  readonly #running = new Map<string, Promise<Token>>();

  constructor(http: HttpClient) {
    this.#http = http;
  }

  /**
   * The Authorization header that answers a registry's challenge; undefined when there is nothing to answer with.
   * Throws REGISTRY_DENIED when the token server refuses, REGISTRY_UNAVAILABLE when it does not answer.
   */
  async authorize(login: Login): Promise<string | undefined> {
    const { challenges, credentials } = login;
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    if (bearer) {
      if (credentials?.kind === 'registry') return `Bearer ${credentials.token}`;
      return this.#bearer(bearer, login);
    }
    const basic = challenges.some(({ scheme }) => scheme === 'basic');
    return basic && credentials?.kind === 'password' ? basicHeader(credentials) : undefined;
  }

  async #bearer({ parameters }: Challenge, login: Login): Promise<string> {
    const { realm = '', service = '' } = parameters;
    if (!URL.canParse(realm)) throw new SluiceError('REGISTRY_UNAVAILABLE', `the token server "${realm}" is no URL`);
    const scopes = new Set((parameters.scope ?? '').split(' ').filter((scope) => scope !== ''));
    if (scopes.size === 0) scopes.add(`repository:${login.repository}:pull`);
    const scope = [...scopes].sort().join(' ');
    const who = createHash('sha256')
      .update(JSON.stringify(login.credentials ?? ''))
      .digest('hex');
    const key = JSON.stringify([realm, service, scope, who]);
    const kept = this.#tokens.get(key);
    if (kept && !login.fresh && kept.expires - MARGIN_MS > Date.now()) return kept.header;
    const running =
      this.#running.get(key) ?? this.#fetch({ realm, service, scope }, login).finally(() => this.#running.delete(key));
    this.#running.set(key, running);
    const token = await running;
    if (this.#tokens.size >= MAX_TOKENS) this.#forgetOld();
    this.#tokens.set(key, token);
    return token.header;
  }

  async #fetch(ask: { realm: string; service: string; scope: string }, login: Login): Promise<Token> {
    const { credentials, tls, dialTimeoutMs } = login;
    const common = { tls, dialTimeoutMs, limit: TOKEN_LIMIT };
    if (credentials) {
      const form = new URLSearchParams({ ...(ask.service && { service: ask.service }), scope: ask.scope });
      form.set('client_id', CLIENT_ID);
      if (credentials.kind === 'password') {
        form.set('grant_type', 'password');
        form.set('username', credentials.username);
        form.set('password', credentials.password);
      } else {
        form.set('grant_type', 'refresh_token');
        form.set('refresh_token', credentials.token);
      }
      const headers = { 'content-type': 'application/x-www-form-urlencoded' };
      const body = form.toString();
      const answer = await this.#http.request({ ...common, method: 'POST', url: ask.realm, headers, body });
      if (credentials.kind !== 'password' || !NO_OAUTH.has(answer.status)) return readToken(ask.realm, answer);
    }
    const url = new URL(ask.realm);
    if (ask.service !== '') url.searchParams.set('service', ask.service);
    for (const scope of ask.scope.split(' ')) url.searchParams.append('scope', scope);
    if (credentials?.kind === 'password') url.searchParams.set('account', credentials.username);
    const headers: Record<string, string> =
      credentials?.kind === 'password' ? { authorization: basicHeader(credentials) } : {};
    return readToken(ask.realm, await this.#http.request({ ...common, method: 'GET', url: url.href, headers }));
  }

  #forgetOld(): void {
    const now = Date.now();
    for (const [key, { expires }] of this.#tokens) if (expires < now) this.#tokens.delete(key);
    for (const key of this.#tokens.keys()) {
      if (this.#tokens.size < MAX_TOKENS) return;
      this.#tokens.delete(key);
    }
  }
}

function basicHeader({ username, password }: { username: string; password: string }): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

function readToken(realm: string, { status, body }: Response): Token {
  const { host } = new URL(realm);
  if (status === 401 || status === 403)
    throw new SluiceError('REGISTRY_DENIED', `the token server ${host} refuses the credentials (${status})`);
  if (status !== 200) throw new SluiceError('REGISTRY_UNAVAILABLE', `the token server ${host} answers ${status}`);
  let answer: { token?: unknown; access_token?: unknown; expires_in?: unknown };
  try {
    answer = JSON.parse(body.toString('utf8'));
  } catch (cause) {
    throw new SluiceError('REGISTRY_UNAVAILABLE', `the token server ${host} answers no JSON`, { cause });
  }
  const token = answer.token || answer.access_token;
  if (typeof token !== 'string')
    throw new SluiceError('REGISTRY_UNAVAILABLE', `the token server ${host} gives no token`);
  const life =
    typeof answer.expires_in === 'number' && answer.expires_in > 0 ? answer.expires_in : DEFAULT_LIFE_SECONDS;
  return { header: `Bearer ${token}`, expires: Date.now() + life * 1000 };
}

/** Tokens that registries' token servers give (distribution's token specification; RFC 6749 for OAuth). */
import { createHash } from 'node:crypto';
import { SluiceError } from '../../errors.ts';
import type { Question, Reply } from '../../workers/http/ask.ts';
import { isSuccess, reasonIn } from '../../workers/http/said.ts';
import type { Tls } from '../../workers/http/tls.ts';
import { isObject, withNames } from '../../workers/json.ts';
import type { Credentials } from './credentials.ts';

/**
 * Sends a small request in a worker: reading a machine's certificate authorities would hold up main for a tenth of a
 * second.
 */
export type Ask = (question: Question) => Promise<Reply>;

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
/** Life of a token whose server does not say it (distribution's token specification). */
const DEFAULT_LIFE_SECONDS = 60;
/** A token is not used in its last seconds: the request needs time as well. */
const MARGIN_MS = 5000;
const TOKEN_LIMIT = 1 << 20;
const TOKEN = ['token', 'access_token', 'expires_in'];
/** Answers of servers without an OAuth endpoint; the token is then asked for with a GET. */
const NO_OAUTH = new Set([400, 401, 403, 404, 405]);
const MAX_TOKENS = 1000;

const CHALLENGE =
  /\s*,?\s*(?:([\w!#$%&'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))|([\w!#$%&'*+.^`|~-]+)(?=\s|,|$))/gy;

/** The challenges of a WWW-Authenticate header (RFC 9110 11.6.1); one line may hold several. */
export function parseChallenges(header: string | undefined): Challenge[] {
  const challenges: Challenge[] = [];
  for (const [, name, quoted, plain, scheme] of (header ?? '').matchAll(CHALLENGE)) {
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
  /** The server has refused the cached token. */
  fresh: boolean;
}

/** Tokens by what they are for. All pulls share them, because a repository's token is good for each of its blobs. */
export class Tokens {
  readonly #ask: Ask;
  readonly #tokens = new Map<string, Token>();
  readonly #running = new Map<string, Promise<Token>>();

  constructor(ask: Ask) {
    this.#ask = ask;
  }

  /**
   * The Authorization header that answers a registry's challenge; undefined when no credentials fit it. Throws
   * REGISTRY_DENIED when the token server refuses, REGISTRY_UNAVAILABLE when it does not answer.
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
    if (!URL.canParse(realm))
      throw new SluiceError('REGISTRY_UNAVAILABLE', `the address of the token server, "${realm}", is not a URL`);
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
    if (this.#tokens.size >= MAX_TOKENS) this.#dropOld();
    this.#tokens.set(key, token);
    return token.header;
  }

  async #fetch(wanted: { realm: string; service: string; scope: string }, login: Login): Promise<Token> {
    const { credentials, tls, dialTimeoutMs } = login;
    const common = { tls, dialTimeoutMs, limit: TOKEN_LIMIT, authorizations: {} };
    if (credentials && credentials.kind !== 'registry') {
      const body = oauthForm(wanted, credentials);
      const headers = { 'content-type': 'application/x-www-form-urlencoded' };
      const answer = await this.#ask({ ...common, method: 'POST', url: wanted.realm, headers, body });
      if (credentials.kind !== 'password' || !NO_OAUTH.has(answer.status)) return readToken(wanted.realm, answer);
    }
    const url = new URL(wanted.realm);
    if (wanted.service !== '') url.searchParams.set('service', wanted.service);
    for (const scope of wanted.scope.split(' ')) url.searchParams.append('scope', scope);
    const isPassword = credentials?.kind === 'password';
    if (isPassword) url.searchParams.set('account', credentials.username);
    const authorizations: Record<string, string> = isPassword ? { [url.origin]: basicHeader(credentials) } : {};
    const answer = await this.#ask({ ...common, method: 'GET', url: url.href, headers: {}, authorizations });
    return readToken(wanted.realm, answer);
  }

  #dropOld(): void {
    const now = Date.now();
    for (const [key, { expires }] of this.#tokens) if (expires < now) this.#tokens.delete(key);
    for (const key of this.#tokens.keys()) {
      if (this.#tokens.size < MAX_TOKENS) return;
      this.#tokens.delete(key);
    }
  }
}

function oauthForm(
  { service, scope }: { service: string; scope: string },
  credentials: Exclude<Credentials, { kind: 'registry' }>,
): string {
  const form = new URLSearchParams({ ...(service && { service }), scope, client_id: CLIENT_ID });
  if (credentials.kind === 'password') {
    form.set('grant_type', 'password');
    form.set('username', credentials.username);
    form.set('password', credentials.password);
  } else {
    form.set('grant_type', 'refresh_token');
    form.set('refresh_token', credentials.token);
  }
  return form.toString();
}

function basicHeader({ username, password }: { username: string; password: string }): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

function readToken(realm: string, { status, body }: Reply): Token {
  const server = `the token server ${new URL(realm).host}`;
  const words = isSuccess(status) ? '' : reasonIn(body);
  const said = words === '' ? String(status) : `${status}: ${words}`;
  if (status === 401 || status === 403)
    throw new SluiceError('REGISTRY_DENIED', `${server} refuses the credentials (${said})`);
  if (!isSuccess(status)) throw new SluiceError('REGISTRY_UNAVAILABLE', `${server} answers ${said}`);
  let answer: unknown;
  try {
    answer = JSON.parse(Buffer.from(body).toString('utf8'));
  } catch (cause) {
    throw new SluiceError('REGISTRY_UNAVAILABLE', `${server} answers with something that is not JSON`, { cause });
  }
  const { token, access_token, expires_in } = isObject(answer) ? withNames(answer, TOKEN) : {};
  const value = token || access_token;
  if (typeof value !== 'string') throw new SluiceError('REGISTRY_UNAVAILABLE', `${server} gives no token`);
  // Some servers write the number as a string.
  const life = typeof expires_in === 'string' ? Number(expires_in) : expires_in;
  const seconds = typeof life === 'number' && life > 0 ? life : DEFAULT_LIFE_SECONDS;
  return { header: `Bearer ${value}`, expires: Date.now() + seconds * 1000 };
}

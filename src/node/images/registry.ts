/** The registry protocol (OCI distribution spec 1.1, docker registry v2) as a client that pulls. */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AuthConfig } from '../../../proto/gen/cri.ts';
import { codeOf, explain, SluiceError } from '../../errors.ts';
import type { Tls } from '../../workers/image/secure.ts';
import { authKey, type Challenge, credentialsFor, parseChallenges, Tokens } from './auth.ts';
import { type Capability, type RegistryHost, registryHosts } from './hosts.ts';
import { type Ask, HttpClient, NoAnswer, type Response, USER_AGENT } from './http.ts';
import { MANIFEST_TYPES } from './platform.ts';
import { isDigest, nameOf, type Reference } from './reference.ts';

/** How one layer is asked for at one host. */
export interface BlobSource {
  url: string;
  headers: Record<string, string>;
  tls: Tls;
  dialTimeoutMs: number;
}

export interface Content {
  digest: string;
  mediaType: string;
  body: Buffer;
}

/** Bytes of a manifest, as other runtimes limit it. */
const MANIFEST_LIMIT = 4 << 20;
const CONFIG_LIMIT = 8 << 20;
/** A mirror that did not answer is asked last for so long. */
const DEAD_MS = 30_000;
const ATTEMPTS = 5;
/** Milliseconds to the first further try, doubled each time; where a server says how long, that counts, up to the limit. */
const BACK_OFF_MS = 250;
const MAX_WAIT_MS = 30_000;
/** 408 and 429 say "again"; the others are worth one more try where there is no other host. */
const AGAIN = new Set([408, 429]);
const SERVER_TROUBLE = new Set([500, 502, 503, 504]);
const ACCEPT = [...MANIFEST_TYPES, '*/*'].join(', ');

export interface RegistryOptions {
  /** Folders of hosts.toml files, separated by ":". */
  config: string;
  ask: Ask;
  onRetry?: () => void;
  /** For tests. */
  backOffMs?: number;
}

/** What pulls share: tokens, and which hosts do not answer. */
export class Registry {
  readonly http: HttpClient;
  readonly tokens: Tokens;
  readonly options: RegistryOptions;
  readonly #dead = new Map<string, number>();
  /** How a host wanted to be spoken to when a login last used it: spares each pull the first 401. */
  readonly #challenges = new Map<string, Challenge[]>();

  constructor(options: RegistryOptions) {
    this.options = options;
    this.http = new HttpClient(options.ask);
    this.tokens = new Tokens(this.http);
  }

  /** A repository as a pull sees it, with its hosts read anew. Throws CONFIG_INVALID. */
  async open(reference: Reference, auth: AuthConfig | undefined): Promise<Repository> {
    return new Repository(this, reference, auth, await registryHosts(this.options.config, reference.registry));
  }

  isDead(base: string): boolean {
    const until = this.#dead.get(base) ?? 0;
    if (until < performance.now()) this.#dead.delete(base);
    return until >= performance.now();
  }

  heard(base: string, answered: boolean): void {
    if (answered) this.#dead.delete(base);
    else this.#dead.set(base, performance.now() + DEAD_MS);
  }

  /** `who` is an {@link authKey}. */
  challengesOf(base: string, who: string): Challenge[] | undefined {
    return this.#challenges.get(`${base} ${who}`);
  }

  challenged(base: string, who: string, challenges: Challenge[]): void {
    if (this.#challenges.size > 1000) this.#challenges.clear();
    // The scope is that of one repository; the next one asks for its own.
    const general = challenges.map(({ scheme, parameters: { scope: _, ...rest } }) => ({ scheme, parameters: rest }));
    this.#challenges.set(`${base} ${who}`, general);
  }
}

interface HostState {
  host: RegistryHost;
  /** host.base, or its plain form once TLS has failed on this machine. */
  base: string;
  authorization?: string;
  challenges?: Challenge[];
}

/** One repository during one pull. */
export class Repository {
  readonly reference: Reference;
  readonly auth: AuthConfig | undefined;
  readonly #registry: Registry;
  readonly #hosts: HostState[];
  readonly #who: string;

  constructor(registry: Registry, reference: Reference, auth: AuthConfig | undefined, hosts: RegistryHost[]) {
    this.reference = reference;
    this.auth = auth;
    this.#registry = registry;
    this.#who = authKey(auth);
    this.#hosts = hosts.map((host) => ({ host, base: host.base }));
  }

  /** The digest that the reference stands for now, when the registry gives it to whoever asks. Throws IMAGE_NOT_FOUND, REGISTRY_DENIED, REGISTRY_UNAVAILABLE. */
  async resolve(): Promise<{ digest: string; content?: Content }> {
    const { digest, tag } = this.reference;
    const path = `/manifests/${digest ?? tag}`;
    return this.#tryHosts(digest === undefined ? 'resolve' : 'pull', async (state, last) => {
      const head = await this.#ask(state, { method: 'HEAD', path, accept: ACCEPT, last });
      const told = digest ?? head.headers['docker-content-digest'];
      if (head.status === 200 && told !== undefined && isDigest(told)) return { digest: told };
      // No digest, or a registry without HEAD, or a refusal whose reason only GET gives.
      if (![200, 400, 403, 405].includes(head.status)) throw failure(state, `HEAD ${path}`, head);
      const content = await this.#manifestAt(state, path, digest, last);
      return { digest: content.digest, content };
    });
  }

  /** A manifest or index by its digest, verified. */
  manifest(digest: string): Promise<Content> {
    return this.#tryHosts('pull', (state, last) => this.#manifestAt(state, `/manifests/${digest}`, digest, last));
  }

  /** A small blob (the image's config), verified. */
  async blob(digest: string): Promise<Buffer> {
    const path = `/blobs/${digest}`;
    return this.#tryHosts('pull', async (state, last) => {
      const answer = await this.#ask(state, { method: 'GET', path, accept: '*/*', last, limit: CONFIG_LIMIT });
      if (answer.status !== 200) throw failure(state, `GET ${path}`, answer);
      verify(answer.body, digest, `the blob from ${state.host.host}`);
      return answer.body;
    });
  }

  /**
   * Runs `fetch` for a layer with one host after the other until it succeeds. A refused token (REGISTRY_DENIED with details
   * {status: 401, challenge}) is renewed once for each host.
   */
  async layer<T>(digest: string, fetch: (source: BlobSource) => Promise<T>): Promise<T> {
    const path = `/blobs/${digest}`;
    return this.#tryHosts('pull', async (state) => {
      await this.#authorizeEarly(state);
      const { tls, dialTimeoutMs } = state.host;
      const attempt = () => fetch({ url: this.#url(state, path), headers: this.#headers(state), tls, dialTimeoutMs });
      try {
        return await attempt();
      } catch (error) {
        const refused = refusalOf(error);
        if (refused?.status !== 401) throw error;
        const used = state.authorization;
        if (refused.challenge) state.challenges = parseChallenges(refused.challenge);
        if (!(await this.#login(state, used !== undefined)) || state.authorization === used) throw error;
        this.#registry.options.onRetry?.();
        return attempt();
      }
    });
  }

  /** Asks one host after the other: those that are known not to answer come last. */
  async #tryHosts<T>(capability: Capability, ask: (state: HostState, last: boolean) => Promise<T>): Promise<T> {
    const able = this.#hosts.filter(({ host }) => host.capabilities.has(capability));
    const isDead = (state: HostState) => this.#registry.isDead(state.base);
    const hosts = [...able.filter((state) => !isDead(state)), ...able.filter(isDead)];
    const failures: unknown[] = [];
    for (const [index, state] of hosts.entries()) {
      try {
        return await this.#withFallback(state, () => ask(state, index === hosts.length - 1));
      } catch (error) {
        if (['DISK_FULL', 'INVALID_REQUEST', 'INTERNAL'].includes(codeOf(error))) throw error;
        failures.push(error);
        if (index < hosts.length - 1) this.#registry.options.onRetry?.();
      }
    }
    const name = nameOf(this.reference);
    if (failures.length === 0)
      throw new SluiceError('REGISTRY_UNAVAILABLE', `no host of ${this.reference.registry} may ${capability}`);
    // What the registry itself says weighs more than its mirrors' troubles; a clear "no" more than silence.
    const codes = failures.map(codeOf);
    const own = codes[hosts.findIndex(({ host }) => host.namespace === undefined)] ?? codes.at(-1);
    const code = own ?? 'REGISTRY_UNAVAILABLE';
    throw new SluiceError(code, name, { cause: new Error(failures.map(explain).join('; ')) });
  }

  /** Plain http for a registry on this machine that speaks no TLS. */
  async #withFallback<T>(state: HostState, ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (error) {
      const plain = state.host.plainFallback && state.base.startsWith('https:') && error instanceof NoAnswer;
      if (!plain) throw error;
      state.base = state.base.replace(/^https:/, 'http:');
      return ask();
    }
  }

  async #manifestAt(state: HostState, path: string, digest: string | undefined, last: boolean): Promise<Content> {
    const answer = await this.#ask(state, { method: 'GET', path, accept: ACCEPT, last, limit: MANIFEST_LIMIT });
    if (answer.status !== 200) throw failure(state, `GET ${path}`, answer);
    const algorithm = digest?.startsWith('sha512:') ? 'sha512' : 'sha256';
    if (digest !== undefined) verify(answer.body, digest, `the manifest from ${state.host.host}`);
    const mediaType = (answer.headers['content-type'] ?? '').split(';')[0]?.trim() ?? '';
    return { digest: digest ?? digestOf(answer.body, algorithm), mediaType, body: answer.body };
  }

  /** One question to one host, with login, and again where the answer says so. */
  async #ask(
    state: HostState,
    ask: { method: 'GET' | 'HEAD'; path: string; accept: string; last: boolean; limit?: number },
  ): Promise<Response> {
    const { tls, dialTimeoutMs } = state.host;
    await this.#authorizeEarly(state);
    let logins = 0;
    for (let attempt = 1; ; attempt++) {
      const used = state.authorization;
      let answer: Response;
      try {
        answer = await this.#registry.http.request({
          method: ask.method,
          url: this.#url(state, ask.path),
          headers: { ...this.#headers(state), accept: ask.accept },
          tls,
          dialTimeoutMs,
          limit: ask.limit ?? MANIFEST_LIMIT,
        });
      } catch (error) {
        if (error instanceof NoAnswer && BROKEN.has(error.reason) && attempt < 3) {
          this.#registry.options.onRetry?.();
          continue;
        }
        if (error instanceof NoAnswer) this.#registry.heard(state.base, false);
        throw error;
      }
      this.#registry.heard(state.base, true);
      if (answer.status === 401 && logins < 2) {
        logins++;
        state.challenges = parseChallenges(answer.headers['www-authenticate']);
        this.#registry.challenged(state.base, this.#who, state.challenges);
        if (!(await this.#login(state, used !== undefined)) || state.authorization === used) return answer;
      } else if (attempt < ATTEMPTS && AGAIN.has(answer.status)) {
        await this.#pause(attempt, answer.headers['retry-after']);
      } else if (attempt < 3 && SERVER_TROUBLE.has(answer.status) && ask.last) {
        await this.#pause(attempt, answer.headers['retry-after']);
      } else {
        return answer;
      }
      this.#registry.options.onRetry?.();
    }
  }

  /** Logs in before the first question when it is known from earlier pulls how. */
  async #authorizeEarly(state: HostState): Promise<void> {
    if (state.authorization !== undefined || state.challenges) return;
    const known = this.#registry.challengesOf(state.base, this.#who);
    if (!known) return;
    state.challenges = known;
    await this.#login(state, false);
  }

  async #login(state: HostState, fresh: boolean): Promise<boolean> {
    const { host, challenges = [] } = state;
    state.authorization = await this.#registry.tokens.authorize({
      challenges,
      credentials: credentialsFor(this.auth, host.host),
      repository: this.reference.repository,
      tls: host.tls,
      dialTimeoutMs: host.dialTimeoutMs,
      fresh,
    });
    return state.authorization !== undefined;
  }

  async #pause(attempt: number, retryAfter: string | undefined): Promise<void> {
    const backOff = (this.#registry.options.backOffMs ?? BACK_OFF_MS) * 2 ** (attempt - 1);
    await sleep(Math.min(MAX_WAIT_MS, retryAfterMs(retryAfter) ?? backOff));
  }

  #url(state: HostState, path: string): string {
    const { namespace } = state.host;
    const query = namespace === undefined ? '' : `?ns=${encodeURIComponent(namespace)}`;
    return `${state.base}/${this.reference.repository}${path}${query}`;
  }

  #headers({ host, authorization }: HostState): Record<string, string> {
    return { 'user-agent': USER_AGENT, ...host.headers, ...(authorization === undefined ? {} : { authorization }) };
  }
}

/** Connections that ended under a request: a kept one may have been closed at the other end meanwhile. */
const BROKEN = new Set(['ECONNRESET', 'EPIPE', 'the answer ended early']);

/** Seconds, or a date (RFC 9110 10.2.3); in milliseconds. */
function retryAfterMs(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

export function digestOf(data: Uint8Array, algorithm: 'sha256' | 'sha512' = 'sha256'): string {
  return `${algorithm}:${createHash(algorithm).update(data).digest('hex')}`;
}

/** Throws IMAGE_INVALID unless the data is what the digest says. */
export function verify(data: Uint8Array, digest: string, what: string): void {
  const found = digestOf(data, digest.startsWith('sha512:') ? 'sha512' : 'sha256');
  if (found !== digest) throw new SluiceError('IMAGE_INVALID', `${what} has the digest ${found} instead of ${digest}`);
}

/** What a worker tells of a refusal. */
function refusalOf(error: unknown): { status?: number; challenge?: string } | undefined {
  return error instanceof SluiceError && typeof error.details === 'object' && error.details !== null
    ? error.details
    : undefined;
}

function failure({ base, host }: HostState, what: string, { status, body }: Response): SluiceError {
  const words = `${host.host}: ${what} answers ${status}${reasonIn(body)}`;
  if (status === 404) return new SluiceError('IMAGE_NOT_FOUND', words);
  if (status === 401 || status === 403) {
    return new SluiceError('REGISTRY_DENIED', `${words} (wrong or missing credentials, or no such image at ${base})`);
  }
  return new SluiceError('REGISTRY_UNAVAILABLE', words);
}

/** The registry's own words (distribution spec, error codes), or the start of what it says. */
function reasonIn(body: Buffer): string {
  const text = body.toString('utf8').trim();
  if (text === '') return '';
  try {
    const { errors } = JSON.parse(text) as { errors?: { code?: string; message?: string }[] };
    const words = errors?.map(({ code, message }) => [code, message].filter(Boolean).join(': ')).join('; ');
    if (words) return `: ${words}`;
  } catch {
    // no JSON: the text itself
  }
  return `: ${text.replace(/\s+/g, ' ').slice(0, 200)}`;
}

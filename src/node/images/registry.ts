/** The registry protocol (OCI distribution spec 1.1, docker registry v2) as a client that pulls. */
import type { AuthConfig } from '../../../proto/gen/cri.ts';
import { codeOf, explain, SluiceError } from '../../errors.ts';
import { VERSION } from '../../version.ts';
import type { HostFiles } from '../../workers/host-paths/read-file.ts';
import type { Reply } from '../../workers/http/ask.ts';
import { isSuccess, reasonIn } from '../../workers/http/said.ts';
import { unansweredDetails } from '../../workers/http/unanswered.ts';
import type { BlobSource, Renew } from '../../workers/image/blob-source.ts';
import { authKey, credentialsFor } from './credentials.ts';
import { digestOf, isDigest, verify } from './digest.ts';
import { type Capability, type RegistryHost, registryHosts } from './hosts.ts';
import { MANIFEST_TYPES } from './manifest.ts';
import { nameOf, type Reference } from './reference.ts';
import { type Ask, type Challenge, parseChallenges, Tokens } from './tokens.ts';
import { askAgain, isPassing, Tries } from './tries.ts';

export interface Content {
  digest: string;
  mediaType: string;
  body: Buffer;
}

const USER_AGENT = `sluice/${VERSION}`;
/** Bytes of a manifest, as other runtimes limit it. */
const MANIFEST_LIMIT = 4 << 20;
const CONFIG_LIMIT = 8 << 20;
/** Milliseconds during which a mirror that did not answer is asked last. */
const DEAD_MS = 30_000;
/** Failures that another host does not mend. */
const FINAL = new Set(['DISK_FULL', 'INVALID_REQUEST', 'INTERNAL', 'CALLER_GONE']);
const MAX_LOGINS = 2;
const MAX_HINTS = 1000;
const ACCEPT = [...MANIFEST_TYPES, '*/*'].join(', ');
const FOREIGN_DIAL_MS = 30_000;

export interface RegistryOptions {
  /** Folders of hosts.toml files, separated by ":". */
  config: string;
  files: HostFiles;
  ask: Ask;
  onRetry?: () => void;
  /** For tests. */
  backOffMs?: number;
}

/** What all pulls share: tokens, which hosts do not answer, and how hosts wanted to be logged in to. */
export class Registry {
  readonly ask: Ask;
  readonly tokens: Tokens;
  readonly options: RegistryOptions;
  readonly #dead = new Map<string, number>();
  readonly #challenges = new Map<string, Challenge[]>();

  constructor(options: RegistryOptions) {
    this.options = options;
    this.ask = options.ask;
    this.tokens = new Tokens((question) => askAgain(() => options.ask(question), new Tries(options)));
  }

  /** A repository for one pull; its hosts are read anew. Throws CONFIG_INVALID. */
  async open(reference: Reference, auth: AuthConfig | undefined): Promise<Repository> {
    const { config, files } = this.options;
    return new Repository(this, reference, auth, await registryHosts(config, reference.registry, files));
  }

  isDead(base: string): boolean {
    const until = this.#dead.get(base) ?? 0;
    if (until < performance.now()) this.#dead.delete(base);
    return until >= performance.now();
  }

  recordAnswer(base: string, answered: boolean): void {
    if (answered) this.#dead.delete(base);
    else this.#dead.set(base, performance.now() + DEAD_MS);
  }

  /**
   * The challenges with which `base` answered this login ({@link authKey}) before: they save each pull the first 401.
   */
  challengesOf(base: string, who: string): Challenge[] | undefined {
    return this.#challenges.get(`${base} ${who}`);
  }

  recordChallenges(base: string, who: string, challenges: Challenge[]): void {
    if (this.#challenges.size > MAX_HINTS) this.#challenges.clear();
    // The scope is that of one repository; each other one has its own.
    const general = challenges.map(({ scheme, parameters: { scope: _, ...rest } }) => ({ scheme, parameters: rest }));
    this.#challenges.set(`${base} ${who}`, general);
  }
}

/** One host during one pull. */
interface HostState {
  host: RegistryHost;
  /** host.base, or its plain form once TLS has failed on this machine. */
  base: string;
  /** Authorization headers by origin: the host's own, and those of hosts that it redirects to. */
  authorizations: Record<string, string>;
  /** The challenges of the host were tried, with or without success. */
  challenged: boolean;
}

interface Request {
  method: 'GET' | 'HEAD';
  path: string;
  accept: string;
  /** No other host is left. */
  last: boolean;
  limit?: number;
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
    this.#hosts = hosts.map((host) => ({ host, base: host.base, authorizations: {}, challenged: false }));
  }

  /**
   * The digest that the reference stands for now, when the registry gives it to this login. Throws IMAGE_NOT_FOUND,
   * REGISTRY_DENIED, REGISTRY_UNAVAILABLE.
   */
  async resolve(): Promise<{ digest: string; content?: Content }> {
    const { digest, tag } = this.reference;
    const path = `/manifests/${digest ?? tag}`;
    return this.#tryHosts(digest === undefined ? 'resolve' : 'pull', async (state, last) => {
      const head = await this.#send(state, { method: 'HEAD', path, accept: ACCEPT, last });
      const found = digest ?? head.headers['docker-content-digest'];
      if (isSuccess(head.status) && found !== undefined && isDigest(found)) return { digest: found };
      if (isPassing(head.status)) throw failure(state, `HEAD ${path}`, head);
      // No digest, a registry without HEAD, or a refusal: only the answer to GET says why.
      const content = await this.#manifestAt(state, path, digest, last);
      return { digest: content.digest, content };
    });
  }

  /** A manifest or index by its digest, verified. */
  manifest(digest: string): Promise<Content> {
    return this.#tryHosts('pull', (state, last) => this.#manifestAt(state, `/manifests/${digest}`, digest, last));
  }

  /** The manifest under another tag of the repository; undefined when there is none. */
  async tagged(tag: string): Promise<Content | undefined> {
    try {
      return await this.#tryHosts('pull', (state, last) =>
        this.#manifestAt(state, `/manifests/${tag}`, undefined, last),
      );
    } catch (error) {
      if (codeOf(error) === 'IMAGE_NOT_FOUND') return undefined;
      throw error;
    }
  }

  /** A small blob (the image's config), verified. */
  async blob(digest: string): Promise<Buffer> {
    const path = `/blobs/${digest}`;
    return this.#tryHosts('pull', async (state, last) => {
      const answer = await this.#send(state, { method: 'GET', path, accept: '*/*', last, limit: CONFIG_LIMIT });
      if (!isSuccess(answer.status)) throw failure(state, `GET ${path}`, answer);
      verify(answer.body, digest, `the blob from ${state.host.host}`);
      return Buffer.from(answer.body);
    });
  }

  /**
   * Calls `fetch` for a layer with one host after the other until one succeeds, then with the URLs that the image
   * itself names (foreign layers). `renew` exchanges a refused authorization for a new one.
   */
  async layer<T>(
    { digest, urls = [] }: { digest: string; urls?: readonly string[] },
    fetch: (source: BlobSource, renew: Renew) => Promise<T>,
  ): Promise<T> {
    try {
      return await this.#tryHosts('pull', async (state) => {
        await this.#authorizeEarly(state);
        const { tls, dialTimeoutMs } = state.host;
        const { authorizations } = state;
        const url = this.#url(state, `/blobs/${digest}`);
        const source = { url, headers: this.#headers(state), authorizations, tls, dialTimeoutMs };
        return fetch(source, async ({ challenge, url: from }) => {
          this.#registry.options.onRetry?.();
          return (await this.#login(state, challenge, from)) ? state.authorizations : undefined;
        });
      });
    } catch (error) {
      const usable = urls.filter((url) => /^https?:\/\//.test(url) && URL.canParse(url));
      if (FINAL.has(codeOf(error)) || usable.length === 0) throw error;
      return await this.#foreign(usable, fetch, error);
    }
  }

  async #foreign<T>(
    urls: readonly string[],
    fetch: (source: BlobSource, renew: Renew) => Promise<T>,
    first: unknown,
  ): Promise<T> {
    const failures = [first];
    for (const url of urls) {
      const headers = { 'user-agent': USER_AGENT };
      const source = { url, headers, authorizations: {}, tls: {}, dialTimeoutMs: FOREIGN_DIAL_MS, foreign: true };
      try {
        return await fetch(source, async () => undefined);
      } catch (error) {
        if (FINAL.has(codeOf(error))) throw error;
        failures.push(error);
      }
    }
    const words = failures.map(explain).join('; ');
    throw new SluiceError(codeOf(failures.at(-1)), 'neither the registry nor the URLs of the layer have it', {
      cause: new Error(words),
    });
  }

  /** Asks one host after the other; those that lately did not answer come last. */
  async #tryHosts<T>(capability: Capability, ask: (state: HostState, last: boolean) => Promise<T>): Promise<T> {
    const able = this.#hosts.filter(({ host }) => host.capabilities.has(capability));
    const isDead = (state: HostState) => this.#registry.isDead(state.base);
    const hosts = [...able.filter((state) => !isDead(state)), ...able.filter(isDead)];
    const failures: unknown[] = [];
    for (const [index, state] of hosts.entries()) {
      try {
        return await this.#withFallback(state, () => ask(state, index === hosts.length - 1));
      } catch (error) {
        if (FINAL.has(codeOf(error))) throw error;
        failures.push(error);
        if (index < hosts.length - 1) this.#registry.options.onRetry?.();
      }
    }
    if (failures.length === 0)
      throw new SluiceError('REGISTRY_UNAVAILABLE', `no host of ${this.reference.registry} may ${capability}`);
    // What the registry itself answers decides the code, before its mirrors' failures.
    const own = hosts.findIndex(({ host }) => host.namespace === undefined);
    const code = codeOf(failures[own] ?? failures.at(-1));
    throw new SluiceError(code, nameOf(this.reference), { cause: new Error(failures.map(explain).join('; ')) });
  }

  /** Plain http for a registry on this machine that does not speak TLS. */
  async #withFallback<T>(state: HostState, ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (error) {
      const isPlain = state.host.plainFallback && state.base.startsWith('https:') && unansweredDetails(error);
      if (!isPlain) throw error;
      state.base = state.base.replace(/^https:/, 'http:');
      return ask();
    }
  }

  async #manifestAt(state: HostState, path: string, digest: string | undefined, last: boolean): Promise<Content> {
    const answer = await this.#send(state, { method: 'GET', path, accept: ACCEPT, last, limit: MANIFEST_LIMIT });
    if (!isSuccess(answer.status)) throw failure(state, `GET ${path}`, answer);
    const algorithm = digest?.startsWith('sha512:') ? 'sha512' : 'sha256';
    if (digest !== undefined) verify(answer.body, digest, `the manifest from ${state.host.host}`);
    const mediaType = (answer.headers['content-type'] ?? '').split(';')[0]?.trim() ?? '';
    return { digest: digest ?? digestOf(answer.body, algorithm), mediaType, body: Buffer.from(answer.body) };
  }

  /** One request to one host: logs in where the host wants it, and tries again where the answer asks for it. */
  async #send(state: HostState, request: Request): Promise<Reply> {
    await this.#authorizeEarly(state);
    const tries = new Tries(this.#registry.options);
    for (let logins = 0; ; ) {
      const answer = await this.#once(state, request, tries);
      if (answer?.status === 401 && logins < MAX_LOGINS) {
        logins++;
        if (!(await this.#login(state, answer.headers['www-authenticate'], answer.url))) return answer;
        tries.next();
      } else if (answer && !(await tries.afterAnswer(answer, request.last))) return answer;
    }
  }

  /** Undefined when the connection ended under the request and another try is left. */
  async #once(state: HostState, { method, path, accept, limit }: Request, tries: Tries): Promise<Reply | undefined> {
    const { tls, dialTimeoutMs } = state.host;
    try {
      const answer = await this.#registry.ask({
        method,
        url: this.#url(state, path),
        headers: { ...this.#headers(state), accept },
        authorizations: state.authorizations,
        tls,
        dialTimeoutMs,
        limit: limit ?? MANIFEST_LIMIT,
      });
      this.#registry.recordAnswer(state.base, true);
      return answer;
    } catch (error) {
      if (tries.afterFailure(error)) return undefined;
      if (unansweredDetails(error)) this.#registry.recordAnswer(state.base, false);
      throw error;
    }
  }

  /** Logs in before the first request when earlier pulls have recorded how the host wants it. */
  async #authorizeEarly(state: HostState): Promise<void> {
    if (state.challenged) return;
    const known = this.#registry.challengesOf(state.base, this.#who);
    if (known) await this.#answer(state, known, state.base);
  }

  /**
   * Answers the challenge of the host at `url`, which is another one where the registry has redirected the request.
   * False when no other authorization can be had than the one that was refused.
   */
  async #login(state: HostState, challenge: string | undefined, url: string): Promise<boolean> {
    const challenges = parseChallenges(challenge);
    if (challenges.length === 0) return false;
    if (new URL(url).origin === new URL(state.base).origin)
      this.#registry.recordChallenges(state.base, this.#who, challenges);
    const before = state.authorizations[new URL(url).origin];
    return (await this.#answer(state, challenges, url)) !== before;
  }

  async #answer(state: HostState, challenges: Challenge[], url: string): Promise<string | undefined> {
    const { host, authorizations } = state;
    const { origin, host: from } = new URL(url);
    const isOwn = from === host.host;
    state.challenged ||= isOwn;
    // A login that names no server is for the registry; another host gets only a login that names it.
    const auth = isOwn || (this.auth && this.auth.serverAddress !== '') ? this.auth : undefined;
    const header = await this.#registry.tokens.authorize({
      challenges,
      credentials: credentialsFor(auth, from),
      repository: this.reference.repository,
      tls: host.tls,
      dialTimeoutMs: host.dialTimeoutMs,
      fresh: authorizations[origin] !== undefined,
    });
    const { [origin]: _, ...others } = authorizations;
    state.authorizations = header === undefined ? others : { ...others, [origin]: header };
    return header;
  }

  #url(state: HostState, path: string): string {
    const { namespace } = state.host;
    const query = namespace === undefined ? '' : `?ns=${encodeURIComponent(namespace)}`;
    return `${state.base}/${this.reference.repository}${path}${query}`;
  }

  #headers({ host }: HostState): Record<string, string> {
    return { 'user-agent': USER_AGENT, ...host.headers };
  }
}

function failure({ base, host }: HostState, what: string, { status, body }: Reply): SluiceError {
  const reason = reasonIn(body);
  const words = `${host.host}: ${what} answers ${status}${reason === '' ? '' : `: ${reason}`}`;
  if (status === 404) return new SluiceError('IMAGE_NOT_FOUND', `${words} (not found)`);
  if (status === 401 || status === 403) {
    return new SluiceError('REGISTRY_DENIED', `${words} (wrong or missing credentials, or no such image at ${base})`);
  }
  return new SluiceError('REGISTRY_UNAVAILABLE', words);
}

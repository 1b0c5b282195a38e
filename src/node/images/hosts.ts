/**
 * The hosts that a registry's images are fetched from: hosts.toml files in containerd's layout (its docs/hosts.md),
 * read anew at each pull so that a change needs no restart.
 */
import { join, resolve } from 'node:path';
import { parse } from 'smol-toml';
import { explain, SluiceError, unusable } from '../../errors.ts';
import type { HostFiles } from '../../workers/host-paths/read-file.ts';
import type { Tls } from '../../workers/http/tls.ts';
import { isObject } from '../../workers/json.ts';

export type Capability = 'pull' | 'resolve' | 'push' | 'referrers';

/** One place that serves a registry's content. */
export interface RegistryHost {
  /** URL up to and with /v2, without a slash at the end. */
  base: string;
  /** host[:port] of the URL. */
  host: string;
  capabilities: ReadonlySet<Capability>;
  tls: Tls;
  /** Sent with each request. */
  headers: Record<string, string>;
  /** Milliseconds to get a connection. */
  dialTimeoutMs: number;
  /** The registry's name, which a mirror gets as `?ns=`; undefined for the registry itself. */
  namespace?: string;
  /** The configuration gives no scheme and the host is this machine: plain http is tried when TLS fails. */
  plainFallback: boolean;
}

const HOSTS_FILE = 'hosts.toml';
/** Above any real file: a bundle of all authorities has 250 KiB. */
const MAX_BYTES = 4 << 20;
const ALL: readonly Capability[] = ['pull', 'resolve', 'push', 'referrers'];
const DIAL_TIMEOUT_MS = 30_000;
const HUB = { name: 'docker.io', host: 'registry-1.docker.io' };

type Toml = Record<string, unknown>;

/**
 * The hosts to ask for images of `registry`, in order: mirrors as the file lists them, then the server. Throws
 * CONFIG_INVALID.
 */
export async function registryHosts(
  registryConfig: string,
  registry: string,
  host: HostFiles,
): Promise<RegistryHost[]> {
  let at = registryConfig;
  try {
    const folder = await hostFolder(registryConfig, registry, host);
    if (!folder?.files.includes(HOSTS_FILE)) {
      at = folder?.path ?? at;
      const tls = folder ? await dockerCerts(folder, host) : {};
      return [hostOf(registry, { server: upstream(registry), table: {}, tls })];
    }
    at = join(folder.path, HOSTS_FILE);
    return await readHosts(registry, folder.path, parse(await readText(host, at)), host);
  } catch (cause) {
    throw new SluiceError(unusable(cause), `${at}: ${explain(cause)}`, { cause });
  }
}

async function readHosts(registry: string, folder: string, file: Toml, host: HostFiles): Promise<RegistryHost[]> {
  const hosts: RegistryHost[] = [];
  for (const [server, table] of Object.entries(tableAt(file, 'host'))) {
    if (!isTable(table)) throw new Error(`host "${server}" must be a table`);
    hosts.push(hostOf(registry, { server, table, tls: await readTls(folder, table, host) }));
  }
  const server = stringAt(file, 'server') ?? upstream(registry);
  const own = hostOf(registry, { server, table: file, tls: await readTls(folder, file, host) });
  // A server that is also listed as a host is not asked a second time.
  const wanted = (['pull', 'resolve'] as const).filter((capability) => own.capabilities.has(capability));
  const listed = hosts.some(
    ({ base, capabilities }) => base === own.base && wanted.every((capability) => capabilities.has(capability)),
  );
  return listed ? hosts : [...hosts, own];
}

const upstream = (registry: string) => (registry === HUB.name ? HUB.host : registry);

function hostOf(registry: string, { server, table, tls }: { server: string; table: Toml; tls: Tls }): RegistryHost {
  const schemeGiven = /^[a-z][a-z0-9+.-]*:\/\//i.test(server);
  const url = new URL(schemeGiven ? server : `https://${server}`);
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw new Error(`${server}: the scheme must be http or https`);
  let path = url.pathname.replace(/\/+$/, '');
  if (table.override_path !== true && !path.endsWith('/v2')) path += '/v2';
  const mirror = url.host !== new URL(`https://${upstream(registry)}`).host;
  return {
    base: `${url.protocol}//${url.host}${path}`,
    host: url.host,
    capabilities: new Set(capabilitiesOf(table)),
    tls,
    headers: headersOf(table),
    dialTimeoutMs: durationOf(table.dial_timeout) ?? DIAL_TIMEOUT_MS,
    namespace: mirror ? registry : undefined,
    plainFallback: !schemeGiven && isThisMachine(url.hostname),
  };
}

function isThisMachine(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || /^127(?:\.\d+){3}$/.test(hostname);
}

interface HostFolder {
  path: string;
  /** Names of its files, sorted. */
  files: string[];
}

/** The first folder that exists of host_port_, host:port and _default, in each folder of the list. */
async function hostFolder(registryConfig: string, registry: string, host: HostFiles): Promise<HostFolder | undefined> {
  const port = /:(\d+)$/.exec(registry)?.[1];
  const names = port ? [`${registry.slice(0, -port.length - 1)}_${port}_`, registry] : [registry];
  for (const folder of registryConfig.split(':').filter((part) => part !== '')) {
    for (const name of [...names, '_default']) {
      const path = join(folder, name);
      const files = await host.names(path);
      if (files) return { path, files };
    }
  }
  return undefined;
}

/** Docker's layout, for folders without a hosts.toml: *.crt are authorities, NAME.cert and NAME.key a client's pair. */
async function dockerCerts({ path: folder, files }: HostFolder, host: HostFiles): Promise<Tls> {
  const authorities = files.filter((file) => file.endsWith('.crt')).map((file) => join(folder, file));
  const ca = await readAll(authorities, host);
  const cert = files.find((file) => file.endsWith('.cert'));
  const tls: Tls = ca.length > 0 ? { ca } : {};
  if (!cert) return tls;
  const [certText, keyText] = await readAll(
    [cert, cert.replace(/cert$/, 'key')].map((file) => join(folder, file)),
    host,
  );
  return { ...tls, cert: certText, key: keyText };
}

async function readTls(folder: string, table: Toml, host: HostFiles): Promise<Tls> {
  const at = (path: string) => resolve(folder, path);
  const tls: Tls = {};
  if (table.skip_verify === true) tls.rejectUnauthorized = false;
  const files = strings(table.ca, 'ca').map(at);
  const authorities = await readAll(files, host);
  // OpenSSL ignores such a file, and the registry's certificate would be blamed.
  const useless = files.find((_, index) => !authorities[index]?.includes('CERTIFICATE-----'));
  if (useless !== undefined) throw new Error(`${useless} does not hold a certificate`);
  if (authorities.length > 0) tls.ca = authorities;
  const pairs = clientPairs(table.client);
  if (pairs.length > 0) {
    const certs = await readAll(
      pairs.map(([cert]) => at(cert)),
      host,
    );
    // A single file holds both.
    const keys = await readAll(
      pairs.map(([cert, key]) => at(key ?? cert)),
      host,
    );
    tls.cert = certs.join('\n');
    tls.key = keys[0];
  }
  return tls;
}

/** Throws for a longer file, which is none of ours. */
async function readText(host: HostFiles, path: string): Promise<string> {
  const text = await host.read(path, MAX_BYTES + 1);
  if (Buffer.byteLength(text) > MAX_BYTES) throw new Error(`${path} is longer than ${MAX_BYTES} bytes`);
  return text;
}

const readAll = (paths: string[], host: HostFiles) => Promise.all(paths.map((path) => readText(host, path)));

/** `client` is a file, a pair, or a list of files and pairs. */
function clientPairs(value: unknown): [cert: string, key?: string][] {
  if (value === undefined) return [];
  if (typeof value === 'string') return [[value]];
  if (!Array.isArray(value)) throw new Error('client must be a file or a list');
  const isPair = value.length === 2 && value.every((item) => typeof item === 'string');
  const list: unknown[] = isPair ? [value] : value;
  return list.map((item) => {
    const [cert, key, ...more] = strings(item, 'client');
    if (cert === undefined || more.length > 0) throw new Error('client must name a certificate and a key');
    return key === undefined || key === '' ? [cert] : [cert, key];
  });
}

function capabilitiesOf(table: Toml): readonly Capability[] {
  if (table.capabilities === undefined) return ALL;
  return strings(table.capabilities, 'capabilities').map((name) => {
    const capability = ALL.find((known) => known === name);
    if (!capability) throw new Error(`"${name}" is not a capability`);
    return capability;
  });
}

function headersOf(table: Toml): Record<string, string> {
  const entries = Object.entries(tableAt(table, 'header'));
  return Object.fromEntries(entries.map(([name, value]) => [name.toLowerCase(), strings(value, name).join(', ')]));
}

/** Go's way to write a duration ("10s", "1m30s", "500ms"), or a number of seconds; in milliseconds. */
function durationOf(value: unknown): number | undefined {
  if (value === undefined || value === '') return undefined;
  if (typeof value === 'number') return value * 1000;
  const units: Record<string, number> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1, us: 0.001, ns: 0.000_001 };
  if (typeof value !== 'string' || !/^(?:\d+(?:\.\d+)?(?:h|ms|m|s|us|ns))+$/.test(value))
    throw new Error('dial_timeout must be a duration like "10s"');
  const parts = value.matchAll(/(\d+(?:\.\d+)?)(h|ms|m|s|us|ns)/g);
  return parts.reduce((sum, [, amount, unit = '']) => sum + Number(amount) * (units[unit] ?? 0), 0);
}

const isTable = (value: unknown): value is Toml => isObject(value) && !(value instanceof Date);

function tableAt(table: Toml, key: string): Toml {
  const value = table[key];
  if (value === undefined) return {};
  if (!isTable(value)) throw new Error(`${key} must be a table`);
  return value;
}

function stringAt(table: Toml, key: string): string | undefined {
  const value = table[key];
  if (value !== undefined && typeof value !== 'string') throw new Error(`${key} must be a string`);
  return value === '' ? undefined : value;
}

/** A string, or a list of them. */
function strings(value: unknown, key: string): string[] {
  if (value === undefined) return [];
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.map((item) => {
    if (typeof item !== 'string') throw new Error(`${key} must be a string or a list of strings`);
    return item;
  });
}

/**
 * Which proxy a URL goes through, by the rules of Go's httpproxy package (golang.org/x/net/http/httpproxy), so that one
 * environment means the same to Sluice and to the Go runtimes beside it.
 */
import { BlockList, isIP } from 'node:net';
import { SluiceError } from '../../errors.ts';

type Environment = Record<string, string | undefined>;

interface Exception {
  matches: (host: string) => boolean;
  /** "" matches every port. */
  port: string;
}

const PORTS: Record<string, string> = { 'http:': '80', 'https:': '443' };
const SCHEMES = new Set(['http:', 'https:', 'socks5:', 'socks5h:']);

/**
 * The proxy for a request to `url`, or undefined for a direct connection. Throws CONFIG_INVALID for a proxy that is not
 * a URL.
 */
export function proxyFor(url: URL, env: Environment = process.env): URL | undefined {
  const [name, text] = url.protocol === 'https:' ? first(env, 'HTTPS_PROXY') : first(env, 'HTTP_PROXY');
  if (text === '' || isDirect(url, first(env, 'NO_PROXY')[1])) return undefined;
  const proxy = parseProxy(text);
  if (!proxy) throw new SluiceError('CONFIG_INVALID', `${name}=${JSON.stringify(text)} is not the URL of a proxy`);
  return proxy;
}

/** Go looks for the name in capitals, then in small letters; an empty value counts as absent. */
function first(env: Environment, name: string): [name: string, value: string] {
  for (const key of [name, name.toLowerCase()]) {
    const value = env[key];
    if (value) return [key, value];
  }
  return [name, ''];
}

/** A URL, or `host:port`, which means http. */
function parseProxy(text: string): URL | undefined {
  for (const candidate of /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? [text] : [text, `http://${text}`]) {
    if (!URL.canParse(candidate)) continue;
    const url = new URL(candidate);
    if (SCHEMES.has(url.protocol) && url.hostname !== '') return url;
  }
  return undefined;
}

function isDirect(url: URL, noProxy: string): boolean {
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '');
  if (host === 'localhost' || isLoopback(host)) return true;
  const port = url.port || (PORTS[url.protocol] ?? '');
  return exceptions(noProxy).some((one) => (one.port === '' || one.port === port) && one.matches(host));
}

function isLoopback(host: string): boolean {
  return (isIP(host) === 4 && host.startsWith('127.')) || host === '::1' || /^::ffff:7f[0-9a-f]{2}:/.test(host);
}

const parsed = new Map<string, Exception[]>();

function exceptions(noProxy: string): Exception[] {
  let list = parsed.get(noProxy);
  if (!list) {
    list = noProxy.split(',').flatMap((entry) => parseException(entry.trim().toLowerCase()));
    parsed.clear();
    parsed.set(noProxy, list);
  }
  return list;
}

function parseException(entry: string): Exception[] {
  if (entry === '') return [];
  if (entry === '*') return [{ matches: () => true, port: '' }];
  const network = parseNetwork(entry);
  if (network) return [{ matches: network, port: '' }];
  const { host, port } = splitPort(entry);
  if (host === '') return [];
  if (isIP(host)) return [{ matches: sameAddress(host), port }];
  // "zone" covers the zone itself and all names below it, ".zone" and "*.zone" only the names below it.
  const dotted = host.startsWith('*.') ? host.slice(1) : host;
  const below = toAscii(dotted.startsWith('.') ? dotted : `.${dotted}`);
  const itself = dotted.startsWith('.') ? undefined : below.slice(1);
  return [{ matches: (name) => name === itself || name.endsWith(below), port }];
}

/** `host:port`, `[v6]:port`, `[v6]`, or a host or an IPv6 address alone. */
function splitPort(entry: string): { host: string; port: string } {
  const bracketed = /^\[(.*)\](?::(\d*))?$/.exec(entry);
  if (bracketed) return { host: bracketed[1] ?? '', port: bracketed[2] ?? '' };
  const colon = entry.indexOf(':');
  if (colon < 0 || entry.indexOf(':', colon + 1) >= 0) return { host: entry, port: '' };
  return { host: entry.slice(0, colon), port: entry.slice(colon + 1) };
}

function parseNetwork(entry: string): ((host: string) => boolean) | undefined {
  const [address = '', length = '', ...more] = entry.split('/');
  const version = isIP(address);
  if (version === 0 || more.length > 0 || !/^\d{1,3}$/.test(length)) return undefined;
  if (Number(length) > (version === 4 ? 32 : 128)) return undefined;
  const list = new BlockList();
  list.addSubnet(address, Number(length), version === 4 ? 'ipv4' : 'ipv6');
  return (host) => isListed(list, host);
}

function sameAddress(address: string): (host: string) => boolean {
  const list = new BlockList();
  list.addAddress(address, isIP(address) === 4 ? 'ipv4' : 'ipv6');
  return (host) => isListed(list, host);
}

function isListed(list: BlockList, host: string): boolean {
  const version = isIP(host);
  return version !== 0 && list.check(host, version === 4 ? 'ipv4' : 'ipv6');
}

/** Internationalised names in their ASCII form, as URL gives them. */
function toAscii(name: string): string {
  const plain = name.replace(/^\./, '');
  return URL.canParse(`http://${plain}`) ? `.${new URL(`http://${plain}`).hostname}` : name;
}

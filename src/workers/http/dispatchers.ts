// Its parts, since the index loads fetch, WebSockets, caches and mocks as well: two thirds of the time that a thread
// needs to be ready for its first layer.
import api from 'undici/lib/api/index.js';
import Agent from 'undici/lib/dispatcher/agent.js';
import Dispatcher from 'undici/lib/dispatcher/dispatcher.js';
import Pool from 'undici/lib/dispatcher/pool.js';
import ProxyAgent from 'undici/lib/dispatcher/proxy-agent.js';
import './parser.ts';
import { proxyFor } from './proxy.ts';
import { slabConnector } from './read-slab.ts';
import { secureContext, type Tls } from './tls.ts';

/** How to connect to a host. */
export interface Connection {
  tls: Tls;
  /** Milliseconds for a TCP connection with its TLS session. */
  dialTimeoutMs: number;
}

/** Milliseconds that an idle connection is kept for the next request; a server may ask for less in Keep-Alive. */
const KEEP_MS = 30_000;
/** Connections to one origin: the parts of a large layer, and small requests beside them. */
const MAX_CONNECTIONS = 16;
/** Bytes of all headers of an answer, as Go limits them: Artifact Registry sends more than Node's 16 KiB. */
const MAX_HEADERS = 10 << 20;
const MAX_DISPATCHERS = 32;

// The index gives dispatchers their methods.
Object.assign(Dispatcher.prototype, api);

const dispatchers = new Map<string, Dispatcher>();

/**
 * This thread's connection pools for hosts with these settings, through the proxy that the environment names for the
 * URL. Throws CONFIG_INVALID.
 */
export function dispatcherFor(url: URL, { tls, dialTimeoutMs }: Connection): Dispatcher {
  const proxy = proxyFor(url);
  const key = JSON.stringify([url.protocol === 'https:' ? tls : {}, dialTimeoutMs, proxy?.href]);
  const kept = dispatchers.get(key);
  if (kept) return kept;
  const made = proxy ? proxied(proxy, url, { tls, dialTimeoutMs }) : new Agent(options(url, { tls, dialTimeoutMs }));
  for (const [old, dispatcher] of dispatchers) {
    if (dispatchers.size < MAX_DISPATCHERS) break;
    dispatchers.delete(old);
    dispatcher.close().catch(() => {}); // ends when its requests have ended; nobody waits for it
  }
  dispatchers.set(key, made);
  return made;
}

/**
 * Time limits for answers and bodies are the callers', who tell a slow registry from a slow reader: undici's own are
 * off.
 */
function options(url: URL, { tls, dialTimeoutMs }: Connection): Agent.Options {
  return {
    connections: MAX_CONNECTIONS,
    pipelining: 1,
    keepAliveTimeout: KEEP_MS,
    maxHeaderSize: MAX_HEADERS,
    headersTimeout: 0,
    bodyTimeout: 0,
    allowH2: false,
    // A body that is longer or shorter than announced fails its digest; Go takes answers with both a length and chunks.
    strictContentLength: false,
    connect: url.protocol === 'https:' ? { ...tlsOptions(tls), timeout: dialTimeoutMs } : slabConnector(dialTimeoutMs),
  };
}

function tlsOptions(tls: Tls): { secureContext: ReturnType<typeof secureContext>; rejectUnauthorized: boolean } {
  return { secureContext: secureContext(tls), rejectUnauthorized: tls.rejectUnauthorized ?? true };
}

function proxied(proxy: URL, url: URL, connection: Connection): Dispatcher {
  const { connect: _, ...shared } = options(url, connection);
  const uri = proxy.href.replace(/^socks5h:/, 'socks5:');
  return new ProxyAgent({
    ...shared,
    uri,
    connectTimeout: connection.dialTimeoutMs,
    requestTls: url.protocol === 'https:' ? tlsOptions(connection.tls) : undefined,
    proxyTls: proxy.protocol === 'https:' ? tlsOptions({}) : undefined,
    factory: (origin: URL | string, own: object) => new Pool(origin, { ...shared, ...own }),
  });
}

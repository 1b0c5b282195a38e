import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls';
import { SluiceError } from '../../errors.ts';

/** TLS settings of one host, as plain data from main. */
export interface Tls {
  /** PEM, in addition to the authorities that Node and the system trust. */
  ca?: string[];
  /** Client certificate and its key, PEM. */
  cert?: string;
  key?: string;
  /** False accepts any certificate (`skip_verify`). Default true. */
  rejectUnauthorized?: boolean;
}

const contexts = new Map<string, SecureContext>();
const MAX_CONTEXTS = 16;

/**
 * The OpenSSL context for these settings. A host's own authorities come in addition to the machine's, because a
 * registry may redirect to a public CDN. Reading the machine's authorities blocks the thread for a tenth of a second:
 * contexts are cached, and main never makes one. Throws CONFIG_INVALID.
 */
export function secureContext({ ca = [], cert, key }: Tls): SecureContext {
  const name = JSON.stringify([ca, cert, key]);
  let made = contexts.get(name);
  if (!made) {
    const all = [
      ...new Set([...getCACertificates('default'), ...getCACertificates('system'), ...ca.flatMap(certificatesIn)]),
    ];
    try {
      // As in Go, any certificate in the list is an authority: also one that is itself signed by another.
      made = createSecureContext({ ca: all, cert, key, allowPartialTrustChain: true });
    } catch (cause) {
      const words = `the registry's certificates cannot be used: ${(cause as Error).message}`;
      throw new SluiceError('CONFIG_INVALID', words, { cause });
    }
    for (const old of contexts.keys()) if (contexts.size >= MAX_CONTEXTS) contexts.delete(old);
    contexts.set(name, made);
  }
  return made;
}

/**
 * The certificates of a bundle one by one: OpenSSL reads no further than to the first that is broken, and Go passes
 * over it.
 */
function certificatesIn(bundle: string): string[] {
  return bundle.match(/-----BEGIN ([A-Z0-9]+ )?CERTIFICATE-----[^-]*-----END \1?CERTIFICATE-----/g) ?? [bundle];
}

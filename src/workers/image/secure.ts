import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls';
import { SluiceError } from '../../errors.ts';

/** TLS settings as plain data; they come from main. */
export interface Tls {
  /** PEM, besides the authorities that Node and the system trust. */
  ca?: string[];
  /** Client certificate and its key, PEM. */
  cert?: string;
  key?: string;
  /** False: any certificate will do (`skip_verify`). Default true. */
  rejectUnauthorized?: boolean;
}

const contexts = new Map<string, SecureContext>();
const MAX_CONTEXTS = 16;

/**
 * What a TLS connection with these settings trusts and shows. Own authorities come on top of the machine's: a redirect to a public
 * CDN must work as before. To read the machine's some hundred authorities blocks the thread for a tenth of a second, so they are
 * kept, and main never does it. Throws CONFIG_INVALID.
 */
export function secureContext({ ca = [], cert, key }: Tls): SecureContext {
  const name = JSON.stringify([ca, cert, key]);
  let made = contexts.get(name);
  if (!made) {
    const all = [...new Set([...getCACertificates('default'), ...getCACertificates('system'), ...ca])];
    try {
      made = createSecureContext({ ca: all, cert, key });
    } catch (cause) {
      const words = `the registry's certificates cannot be used: ${(cause as Error).message}`;
      throw new SluiceError('CONFIG_INVALID', words, { cause });
    }
    for (const old of contexts.keys()) if (contexts.size >= MAX_CONTEXTS) contexts.delete(old);
    contexts.set(name, made);
  }
  return made;
}
